"""Files of extractors that we have trained or fitted: weights, and a description that says which weights they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import safetensors.torch
from torch import Tensor

from federation.errors import InputError
from federation.run_directory import to_json, write_text, written_atomically


class Fingerprinted(Protocol):
    """What a digest tells from others of its kind."""

    @property
    def digest(self) -> str:
        """Of all that decides its features."""


ExtractorT = TypeVar("ExtractorT", bound=Fingerprinted)


def write_extractor(folder: Path, stem: str, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write ``<stem>.safetensors`` and ``<stem>.json``, the json last.

    Raises
    ------
    StorageError
        If one cannot be written.
    """
    with written_atomically(folder / f"{stem}.safetensors") as temporary:
        safetensors.torch.save_file(dict(tensors), temporary)
    write_text(folder / f"{stem}.json", to_json(description, indent=2) + "\n")


def read_extractor(
    folder: Path,
    stem: str,
    build: Callable[[dict[str, Any], dict[str, Tensor]], ExtractorT],
    formats: Collection[int],
) -> ExtractorT:
    """Read back what :func:`write_extractor` wrote.

    Parameters
    ----------
    folder, stem
        Where it is.
    build
        Makes the extractor of its description and its tensors.
    formats
        Values of ``format`` in the description that can be read.

    Raises
    ------
    InputError
        If a file is missing, damaged, or does not belong to the other.
    """
    path = folder / f"{stem}.json"
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        extractor = build(description, safetensors.torch.load_file(folder / f"{stem}.safetensors"))
        intact = extractor.digest == description["blake2b"] and description["format"] in formats
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        raise InputError(f"extractor {path}: cannot be read ({error}); remove it and its weights") from None
    if not intact:
        raise InputError(f"extractor {path}: its weights are other ones; remove both files")
    return extractor
