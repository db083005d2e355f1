"""Where things that can be computed again are kept between runs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from federation.errors import DataError, StorageError
from federation.home import expand_home
from federation.run_directory import written_atomically

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from federation.images import ImageRows

_BLOCK_BYTES = 1 << 24  # of a memory map that are read at once
_CHECKSUM_BYTES = 16


def cache_folder(setting: str = "") -> Path:
    """Return the folder that ``data.cache-dir`` names; empty: the user's cache folder.

    That is ``$XDG_CACHE_HOME/dermafed``, else ``~/.cache/dermafed``.

    Raises
    ------
    DataError
        If there is no home folder: a container's user may have none.
    """
    if setting:
        return expand_home(setting, "data.cache-dir")
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(cache) / "dermafed"
    try:
        return Path.home() / ".cache" / "dermafed"
    except RuntimeError:
        raise DataError(
            "data.cache-dir is empty, and this user has no home folder to keep decoded images in; set data.cache-dir "
            "to a folder that can be written"
        ) from None


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """Say which setting helps where the block cannot write to a folder of the cache.

    Raises
    ------
    StorageError
        Naming the folder and the remedy.
    """
    try:
        yield
    except StorageError as error:
        raise StorageError(
            f"data.cache-dir {folder}: cannot be written ({error.reason}); set data.cache-dir to a writable folder "
            "with room",
            error.reason,
        ) from None


def write_checked(path: Path, content: bytes) -> None:
    """Write a file with a checksum behind its content, where readers of npy and safetensors files do not look."""
    with written_atomically(path) as temporary:
        temporary.write_bytes(content + _checksum(content))


def read_checked(path: Path) -> bytes:
    """Return the content of a file that :func:`write_checked` wrote.

    Raises
    ------
    OSError
        If it is not there.
    ValueError
        If it is damaged.
    """
    stored = path.read_bytes()
    content, checksum = stored[:-_CHECKSUM_BYTES], stored[-_CHECKSUM_BYTES:]
    if _checksum(content) != checksum:
        raise ValueError(f"{path}: its checksum is another one")
    return content


def blocks_of(images: NDArray[np.uint8] | ImageRows) -> Iterator[memoryview]:
    """Yield the bytes of images, of a memory map block by block: what a key of the cache hashes."""
    rows = max(1, _BLOCK_BYTES // max(1, images[:1].nbytes))
    for start in range(0, len(images), rows):
        yield np.ascontiguousarray(images[start : start + rows]).data


def _checksum(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_CHECKSUM_BYTES).digest()
