"""How fast a run trained, and where its time and its bytes went: from the run directory's lines."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

_YARDSTICKS = {
    "kid_mean_image": "mean image",
    "kid_blurred_8": "real images blurred by way of 8 pixels",
    "kid_pca_gaussian": "PCA Gaussian",
    "kid_blurred_16": "real images blurred by way of 16 pixels",
}


def measure_training_speed(
    metrics: Sequence[Mapping[str, Any]],
    hospitals: Sequence[Mapping[str, Any]],
    *,
    seconds_by_work: Mapping[str, float],
    seconds: float,
    yardsticks: Mapping[str, float],
    one_machine: bool = True,
) -> dict[str, Any]:
    """Return the ``speed`` section.

    Parameters
    ----------
    metrics, hospitals
        Lines of ``metrics.jsonl`` and ``hospitals.jsonl``.
    seconds_by_work
        Wall time of ``training`` (from sending the networks to the last reply), ``aggregation`` and ``evaluation``.
    seconds
        Wall time of the run so far.
    yardsticks
        KID of images whose quality is known, by name.
    one_machine
        Whether the hospitals share workers, told apart by their process. Real sites compute side by side, each alone.

    Returns
    -------
    dict
        ``images_per_second`` and ``seconds_per_1000_images`` over the wall time of ``training``;
        ``time_to_kid``: the first evaluated round whose KID is below each yardstick, with what was shown until then;
        ``bytes``: up and down by hospital, over the run;
        ``shares`` of the wall time. ``training`` is what the busiest worker of each round computed, ``transport``
        the rest of the time between sending and the last reply: serialising, copying, waiting. Both are None where a
        real site that was used does not tell how long it computed.
    """
    used = [line for line in hospitals if line["status"] == "ok"]
    num_images = sum(line.get("num_images", 0) for line in used)
    between = seconds_by_work.get("training", 0.0)
    computing = min(_seconds_of_busiest(used, one_machine=one_machine), between)
    parts = _parts_of(seconds, seconds_by_work, computing=computing)
    whole = sum(parts.values())
    # What one site does not tell may be most of its round, and then all of it would pass for transport.
    told = all("seconds" in line for line in used)
    unknown = () if told else ("training", "transport")
    return {
        "images_per_second": num_images / between if between else None,
        "seconds_per_1000_images": 1000 * between / num_images if num_images else None,
        "time_to_kid": [
            {"yardstick": label, "kid": yardsticks[name], **_first_below(metrics, yardsticks[name])}
            for name, label in _YARDSTICKS.items()
            if yardsticks.get(name) is not None
        ],
        "bytes": _bytes_of_hospitals(hospitals),
        "shares": {name: value / whole if whole and name not in unknown else None for name, value in parts.items()},
        "evaluation_share_of_wall_time": parts["evaluation"] / whole if whole else None,
    }


def _parts_of(seconds: float, seconds_by_work: Mapping[str, float], *, computing: float) -> dict[str, float]:
    """Return what the wall time of a run went into, in seconds; `computing` is what of ``training`` was computed."""
    parts = {
        "training": computing,
        "transport": seconds_by_work.get("training", 0.0) - computing,
        "aggregation": seconds_by_work.get("aggregation", 0.0),
        "evaluation": seconds_by_work.get("evaluation", 0.0),
    }
    parts["other"] = max(0.0, seconds - sum(parts.values()))
    return parts


def _seconds_of_busiest(used: Sequence[Mapping[str, Any]], *, one_machine: bool) -> float:
    """Return the sum over rounds of what the busiest worker of each computed; what is not told counts as nothing."""
    by_worker: dict[tuple[int, Any], float] = defaultdict(float)
    for line in used:
        worker = line.get("worker_pid", line["site"]) if one_machine else line["site"]
        by_worker[line["round"], worker] += line.get("seconds", 0.0)
    busiest: dict[int, float] = defaultdict(float)
    for (server_round, _), busy in by_worker.items():
        busiest[server_round] = max(busiest[server_round], busy)
    return sum(busiest.values())


def _bytes_of_hospitals(hospitals: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "site": site,
            "up": sum(line.get("bytes_up", 0) for line in hospitals if line["site"] == site),
            "down": sum(line.get("bytes_down", 0) for line in hospitals if line["site"] == site),
        }
        for site in sorted({line["site"] for line in hospitals})
    ]


def _first_below(metrics: Sequence[Mapping[str, Any]], threshold: float) -> dict[str, Any]:
    for line in metrics:
        if line.get("kid") is not None and line["kid"] < threshold:
            shown = {name: line[name] for name in ("images", "evaluations") if name in line}
            return {"round": line["round"], **shown, "seconds": line["seconds"]}
    return {"not_reached": True}
