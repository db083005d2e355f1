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
        ``time_to_kid``: the first evaluated round whose KID is below each yardstick;
        ``bytes``: up and down by hospital, over the run;
        ``shares`` of the wall time. ``training`` is what the busiest worker of each round computed, ``transport``
        the rest of the time between sending and the last reply: serialising, copying, waiting.
    """
    num_images = sum(line.get("num_images", 0) for line in hospitals if line["status"] == "ok")
    between = seconds_by_work.get("training", 0.0)
    by_worker: dict[tuple[int, Any], float] = defaultdict(float)
    for line in hospitals:
        if line["status"] == "ok":
            by_worker[line["round"], line["worker_pid" if one_machine else "site"]] += line["seconds"]
    busiest: dict[int, float] = defaultdict(float)
    for (server_round, _), busy in by_worker.items():
        busiest[server_round] = max(busiest[server_round], busy)
    computing = min(sum(busiest.values()), between)
    parts = {
        "training": computing,
        "transport": between - computing,
        "aggregation": seconds_by_work.get("aggregation", 0.0),
        "evaluation": seconds_by_work.get("evaluation", 0.0),
    }
    parts["other"] = max(0.0, seconds - sum(parts.values()))
    whole = sum(parts.values())
    sites = sorted({line["site"] for line in hospitals})
    return {
        "images_per_second": num_images / between if between else None,
        "seconds_per_1000_images": 1000 * between / num_images if num_images else None,
        "time_to_kid": [
            {"yardstick": label, "kid": yardsticks[name], **_first_below(metrics, yardsticks[name])}
            for name, label in _YARDSTICKS.items()
            if yardsticks.get(name) is not None
        ],
        "bytes": [
            {
                "site": site,
                "up": sum(line.get("bytes_up", 0) for line in hospitals if line["site"] == site),
                "down": sum(line.get("bytes_down", 0) for line in hospitals if line["site"] == site),
            }
            for site in sites
        ],
        "shares": {name: value / whole if whole else None for name, value in parts.items()},
        "evaluation_share_of_wall_time": parts["evaluation"] / whole if whole else None,
    }


def _first_below(metrics: Sequence[Mapping[str, Any]], threshold: float) -> dict[str, Any]:
    for line in metrics:
        if line.get("kid") is not None and line["kid"] < threshold:
            return {"round": line["round"], "images": line["images"], "seconds": line["seconds"]}
    return {"not_reached": True}
