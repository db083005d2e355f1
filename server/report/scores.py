"""Figures of generated images: what they are called, how they are read, and what they are read against."""

from __future__ import annotations

from collections.abc import Mapping

from server.report.judgements import (
    YARDSTICKS,
)
from server.report.run_record import RunRecord, number, text

BETTER = {
    "low": "lower is better",
    "high": "higher is better",
    "one": "1 is like real images",
    "real": "as real images is best",
    "": "",
}
"""How a figure is read, by a short word. One image repeated has more precision and density than real images, and noise
may have their Vendi score: more of those is not better."""
SCORES = {
    "kid": ("KID", "low"),
    "fid": ("FID", "low"),
    "precision": ("Precision", "real"),
    "density": ("Density", "real"),
    "recall": ("Recall", "high"),
    "coverage": ("Coverage", "high"),
    "spread": ("Within-class spread", "one"),
}
"""Name and reading of each figure."""


def yardsticks_of(record: RunRecord, extractor: str, labels: Mapping[str, str] = YARDSTICKS) -> dict[str, float]:
    """Return the KID of the yardsticks by their label, where they are of `extractor`; best first."""
    if not extractor or text(record.summary, "extractor") != extractor:
        return {}
    found = {label: number(record.summary, key) for key, label in labels.items()}
    known = {label: kid for label, kid in found.items() if kid is not None}
    return dict(sorted(known.items(), key=lambda entry: entry[1]))


def last_validation_kid(record: RunRecord, extractor: str) -> float | None:
    """Return the newest KID on validation images, if it is of `extractor`."""
    scores = record.scores
    return number(scores[-1], "kid") if scores and record.extractor == extractor else None
