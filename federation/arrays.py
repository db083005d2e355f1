"""Flower arrays that are a numpy array's own memory: they cross to another process of this machine without a copy."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import flwr.app
import numpy as np


class Array(flwr.app.Array):
    """A Flower array that holds a numpy array in place of its bytes.

    Flower's own keeps the bytes of a ``.npy`` file, so that every step from process to process copies
    them several times. This one makes those bytes only when somebody asks for them: when a message goes
    to another machine. Pickled with protocol 5, its memory travels out of band, as Ray wants it.

    Flower writes the name of a class into what it sends and looks it up at the other end; so it bears
    the name of the class that it stands in for.

    Parameters
    ----------
    values
        Of any shape. Not copied: whoever made it must not write to it any more.
    """

    def __init__(self, values: np.ndarray) -> None:
        self.dtype = str(values.dtype)
        self.shape = tuple(values.shape)
        self.stype = "numpy.ndarray"
        self._values = np.asarray(values, order="C")  # not ascontiguousarray, which gives a scalar an axis

    def numpy(self) -> np.ndarray:
        """Return the array itself; read-only where its memory belongs to another process too."""
        return self._values

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """The bytes of a ``.npy`` file."""
        buffer = io.BytesIO()
        np.save(buffer, self._values, allow_pickle=False)
        return buffer.getvalue()

    @property
    def num_bytes(self) -> int:
        """Bytes as they cross the wire."""
        return _header_bytes(self.dtype, self.shape) + self._values.nbytes

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, flwr.app.Array)
            and (self.dtype, self.shape, self.stype) == (other.dtype, other.shape, other.stype)
            and self.data == other.data
        )

    __hash__ = None  # type: ignore[assignment]  # like Flower's own

    def __reduce__(self) -> tuple[Any, ...]:
        return Array, (self._values,)


@lru_cache(maxsize=4096)
def _header_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Return the length of what stands before the values in a ``.npy`` file."""
    buffer = io.BytesIO()
    description = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(buffer, {"descr": description, "fortran_order": False, "shape": shape})
    return len(buffer.getvalue())
