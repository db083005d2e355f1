"""What training says of itself: the losses of a run, as its family of models names them."""

from __future__ import annotations

from server.report.run_record import RunRecord

_PREFIX = "loss_"
_SPELT = {"elbo": "ELBO"}


def losses_of(record: RunRecord) -> dict[str, str]:
    """Return the losses by their key in a run's lines, each with the head of its column.

    Those that the family has, in its order, and what else the lines hold: another version may have had others. None
    of a run whose updates are covered by noise: its losses are not.
    """
    if record.adds_noise:
        return {}
    anatomy = record.anatomy
    columns = {} if anatomy is None else {_key(name): loss.column for name, loss in anatomy.losses.items()}
    found = sorted({key for line in (*record.metrics, *record.hospitals) for key in line})
    keys = dict.fromkeys(key for key in (*columns, *found) if key.startswith(_PREFIX))
    return {key: _head(columns.get(key, "") or loss_words(key)) for key in keys}


def loss_words(key: str) -> str:
    """Return a loss as a series of a picture is labelled, e.g. ``loss_negative_elbo`` → ``negative ELBO``."""
    return " ".join(_SPELT.get(word, word) for word in key.removeprefix(_PREFIX).split("_"))


def _key(name: str) -> str:
    return name.replace("-", "_")


def _head(heading: str) -> str:
    """Return a heading as it begins a column: with a capital letter, or a minus sign where it has one."""
    return f"−{heading[1:]}" if heading.startswith("-") else heading[:1].upper() + heading[1:]
