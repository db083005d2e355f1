"""Diagnoses by their names, as the sources of data write them."""

from __future__ import annotations

from collections.abc import Sequence

MELANOMA_NAMES = ("mel", "melanoma", "malignant")
"""What the sources of data call melanoma, in lower case."""


def find_melanoma_class(classes: Sequence[str]) -> str | None:
    """Return the class that is melanoma by its name (:data:`MELANOMA_NAMES`, in any case), or None."""
    return next((name for known in MELANOMA_NAMES for name in classes if name.lower() == known), None)
