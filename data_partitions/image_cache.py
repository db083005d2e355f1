"""What is remembered about images between runs, so that each is hashed, checked and decoded once.

::

    <cache>/digests/<collection>.json    image -> [stamp, digest]; the stamp (a file's size and time of
                                         change) says whether the digest still holds
    <cache>/undecodable/<key>.json       digest -> reason, for one list of digests
    <cache>/sides/<key>.json             shorter sides in pixels before resampling, for one list of digests
    <cache>/pixels/<key>.rgb             uint8 (image, row, column, channel), for one list of digests

Keys hash what an entry depends on: the images' digests in their order, the preprocessing and, for
pixels, the resolution. So entries are never wrong, only unused, and the whole folder may be deleted
at any time. Files appear under their names only when complete: processes that do the same work at
the same time write the same bytes, and the last one wins.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from data_partitions.decoding import PREPROCESSING, to_square
from data_partitions.wording import counted, first_names
from federation.cache import cache_folder
from federation.errors import DataError
from federation.machine import count_cores

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many images are done, and how many there are."""

_Result = TypeVar("_Result")
_QUEUED = 64  # images read ahead of the writer; bounds memory, and the wait after Ctrl-C


class ImageCache:
    """Digests, verdicts and pixels of images on disk.

    Parameters
    ----------
    folder
        Where they are kept. Empty: the user's cache folder.
    """

    def __init__(self, folder: str = "") -> None:
        self.folder = cache_folder(folder)

    def digests(
        self,
        collection: str,
        keys: Sequence[str],
        stamps: Sequence[str],
        read_bytes: Callable[[str], bytes],
        progress: Progress | None = None,
    ) -> list[str]:
        """Hash the encoded images whose stamp is new or has changed.

        Parameters
        ----------
        collection
            What the images belong to: a folder's path, or a dataset's name.
        keys, stamps
            For each image its name in the collection and what changes when the image does.
        read_bytes
            Key to encoded bytes.
        progress
            Called after each image that is read.

        Returns
        -------
        A hexadecimal BLAKE2b digest of 16 bytes for each key.

        Raises
        ------
        DataError
            If images cannot be read, or the cache cannot be written. A file that cannot be *read* is
            an error, not a corrupt image: leaving it out would change the split until it can be.
        """
        path = self.folder / "digests" / f"{_hash([collection])}.json"
        known = _read_json(path)
        new = [row for row, key in enumerate(keys) if known.get(key, [""])[0] != stamps[row]]
        if new:

            def digest(position: int) -> str | OSError:
                try:
                    encoded = read_bytes(keys[new[position]])
                except OSError as error:
                    return error
                return hashlib.blake2b(encoded, digest_size=16).hexdigest()

            problems = []
            for row, outcome in zip(new, _in_threads(digest, len(new), "hashing images", progress), strict=True):
                if isinstance(outcome, OSError):
                    problems.append(f"{keys[row]} ({outcome.strerror or outcome})")
                else:
                    known[keys[row]] = [stamps[row], outcome]
            if problems:
                raise DataError(
                    f"{collection}: {counted(len(problems), 'image')} cannot be read: {first_names(problems, '; ')}; "
                    "make them readable, or remove them"
                )
            self._write_json(path, known)
        return [known[key][1] for key in keys]

    def undecodable(
        self,
        digests: Sequence[str],
        read_image: Callable[[int], np.ndarray],
        resolution: int,
        progress: Progress | None = None,
    ) -> dict[str, str]:
        """Find the images that cannot be decoded.

        All are decoded once for that, and the pixels of the others are kept for :meth:`pixels`.

        Parameters
        ----------
        digests
            Digest of each image, in the order of rows.
        read_image
            Row to uint8 (height, width, 3); raises DataError for an image that cannot be decoded.
        resolution
            Side of the pixels to keep. The verdict does not depend on it.
        progress
            Called after each image.

        Returns
        -------
        Digest to reason.
        """
        path = self.folder / "undecodable" / f"{_hash([PREPROCESSING, *digests])}.json"
        with _reading(path):
            is_known = path.exists()
        if not is_known:
            failures = self._decode(digests, read_image, resolution, progress)
            self._write_json(path, {digests[row]: reason for row, reason in failures.items()})
        return _read_json(path)

    def pixels(
        self,
        digests: Sequence[str],
        read_image: Callable[[int], np.ndarray],
        resolution: int,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Return all images at one resolution, decoded now or by an earlier run.

        Parameters
        ----------
        digests, read_image, resolution, progress
            As for :meth:`undecodable`.

        Returns
        -------
        uint8 memory map of shape (len(digests), resolution, resolution, 3), read-only.

        Raises
        ------
        DataError
            If an image cannot be decoded, or the cache cannot be written.
        """
        path = self._pixel_path(digests, resolution)
        shape = (len(digests), resolution, resolution, 3)
        with _reading(path):
            is_known = path.exists() and path.stat().st_size == np.prod(shape)
        if not is_known:
            failures = self._decode(digests, read_image, resolution, progress)
            if failures:
                reasons = [f"row {row}: {reason}" for row, reason in failures.items()]
                raise DataError(f"{counted(len(failures), 'image')} cannot be decoded ({first_names(reasons, '; ')})")
        with _reading(path):
            return np.memmap(path, dtype=np.uint8, mode="r", shape=shape)

    def sides(
        self,
        digests: Sequence[str],
        read_image: Callable[[int], np.ndarray],
        resolution: int,
        progress: Progress | None = None,
    ) -> list[int]:
        """Return the shorter side in pixels of each image as it was encoded.

        `digests` are those of images that can be decoded; parameters are those of :meth:`undecodable`, which has found
        the sides too. They are found anew where an earlier version had not kept them.
        """
        path = self._sides_path(digests)
        if not path.exists():
            self._decode(digests, read_image, resolution, progress)
        return _read_json(path)["sides"]

    def _sides_path(self, digests: Iterable[str]) -> Path:
        return self.folder / "sides" / f"{_hash([PREPROCESSING, *digests])}.json"

    def _pixel_path(self, digests: Iterable[str], resolution: int) -> Path:
        return self.folder / "pixels" / f"{_hash([PREPROCESSING, str(resolution), *digests])}.rgb"

    def _decode(
        self,
        digests: Sequence[str],
        read_image: Callable[[int], np.ndarray],
        resolution: int,
        progress: Progress | None,
    ) -> dict[int, str]:
        """Write pixels and sides of all images that can be decoded; return row to reason for the others."""

        def square(row: int) -> tuple[np.ndarray, int] | str | OSError:
            try:
                image = read_image(row)
                return to_square(image, resolution), min(image.shape[:2])
            except DataError as error:
                return str(error)
            except OSError as error:
                return error

        failures: dict[int, str] = {}
        sides = []
        with _temporary_file(self.folder / "pixels") as temporary, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow on odd metadata; the pixels are sound or refused
            with temporary.open("xb") as file:
                for row, outcome in enumerate(_in_threads(square, len(digests), "decoding images", progress)):
                    if isinstance(outcome, OSError):  # gone since it was hashed; nothing to remember
                        raise DataError(f"{outcome.filename}: cannot be read ({outcome.strerror}); start again")
                    if isinstance(outcome, str):
                        failures[row] = outcome
                    else:
                        pixels, side = outcome
                        file.write(pixels.tobytes())
                        sides.append(side)
            decoded = [digest for row, digest in enumerate(digests) if row not in failures]
            temporary.replace(self._pixel_path(decoded, resolution))
        self._write_json(self._sides_path(decoded), {"sides": sides})
        return failures

    def _write_json(self, path: Path, content: dict) -> None:
        with _temporary_file(path.parent) as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")
            temporary.replace(path)


def _hash(parts: Iterable[str]) -> str:
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


def _read_json(path: Path) -> dict:
    try:
        with _reading(path):
            return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # nothing remembered, or a damaged file
        return {}


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Tell a cache that is not there from one that is another user's."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DataError(
            f"{path}: what is kept there cannot be read ({error.strerror}); set data.cache-dir to a folder of your own"
        ) from None


@contextlib.contextmanager
def _temporary_file(folder: Path) -> Iterator[Path]:
    """Yield a name in the folder for a file that is renamed when complete, and removed otherwise."""
    temporary = folder / f".{uuid.uuid4().hex}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield temporary
    except OSError as error:
        raise DataError(
            f"{folder}: decoded images cannot be kept there ({error.strerror}); "
            "set data.cache-dir to a folder that can be written and has space"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _in_threads(
    function: Callable[[int], _Result], count: int, description: str, progress: Progress | None
) -> Iterator[_Result]:
    """Yield function(0), function(1), … in order.

    A few threads compute them: Pillow and hashlib let go of the interpreter lock.
    """
    num_threads = min(8, count_cores())
    with ThreadPoolExecutor(num_threads, thread_name_prefix="images") as pool:
        queued = deque(pool.submit(function, row) for row in range(min(count, _QUEUED)))
        for row in range(count):
            result = queued.popleft().result()
            if row + _QUEUED < count:
                queued.append(pool.submit(function, row + _QUEUED))
            yield result
            if progress:
                progress(description, row + 1, count)
