"""Flower arrays that are a numpy array's own memory: they cross to another process of this machine without a copy.

Flower's own arrays keep the bytes of a ``.npy`` file, so that every step from process to process copies them several
times. These make those bytes only when somebody asks for them: when a message goes to another machine. Pickled with
protocol 5, their memory travels out of band, as Ray wants it.

Flower writes the name of a class into what it sends and looks it up at the other end; so both classes bear the names
of those that they stand in for.
"""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Callable, Mapping
from functools import lru_cache, wraps
from typing import Any

import flwr.app
import numpy as np


class Array(flwr.app.Array):
    """A Flower array that holds a numpy array in place of its bytes; it cannot be changed.

    Parameters
    ----------
    values
        Of any shape. Not copied: whoever made it must not write to it any more.
    """

    def __init__(self, values: np.ndarray) -> None:
        # Not through __setattr__, where Flower looks at each name; not ascontiguousarray, which gives a scalar an axis.
        self.__dict__["_values"] = np.asarray(values, order="C")

    def numpy(self) -> np.ndarray:
        """Return the array itself; read-only where its memory belongs to another process too."""
        values: np.ndarray = self.__dict__["_values"]
        return values

    @property
    def dtype(self) -> str:  # type: ignore[override]
        """Type of the values, e.g. ``float32``."""
        return _name_of(self.numpy().dtype)

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Shape of the values."""
        return self.numpy().shape

    @property
    def stype(self) -> str:  # type: ignore[override]
        """How :attr:`data` is to be read."""
        return "numpy.ndarray"

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """The bytes of a ``.npy`` file."""
        buffer = io.BytesIO()
        np.save(buffer, self.numpy(), allow_pickle=False)
        return buffer.getvalue()

    @property
    def num_bytes(self) -> int:
        """Bytes as they cross the wire."""
        return _header_bytes(self.dtype, self.shape) + self.numpy().nbytes

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, flwr.app.Array)
            and (self.dtype, self.shape, self.stype) == (other.dtype, other.shape, other.stype)
            and self.data == other.data
        )

    __hash__ = None  # type: ignore[assignment]  # like Flower's own

    def __reduce__(self) -> tuple[Any, ...]:
        return Array, (self.numpy(),)


_FILLING = threading.Lock()

Layout = tuple[tuple[str, tuple[int, ...]], ...]
"""Names and shapes, in the order in which values lie in memory."""


class ArrayRecord(flwr.app.ArrayRecord):
    """A Flower record whose arrays, all of one type, lie one after the other in one piece of memory.

    So the whole of it is pickled, checked or added up in one go. Setting or deleting an entry gives that up, and makes
    of it a record like Flower's own.

    Parameters
    ----------
    values
        Of shape (n,), all arrays in a row. Not copied: whoever made it must not write to it any more.
    layout
        What they are; empty for a record without arrays.
    """

    def __init__(self, values: np.ndarray | None = None, layout: Layout = ()) -> None:
        super().__init__()
        self.__dict__["flat"] = values
        self.__dict__["layout"] = layout
        self.__dict__["is_filled"] = not layout

    def _fill(self) -> None:
        """Make the entries, once somebody asks for one: a record that is passed on as a whole needs none."""
        if self.__dict__.get("is_filled", True):  # a shallow copy, which Flower makes without our constructor, is
            return
        with _FILLING:
            if self.__dict__["is_filled"]:
                return
            values, start = self.__dict__["flat"], 0
            for name, shape in self.layout:
                end = start + math.prod(shape)
                super().__setitem__(name, Array(values[start:end].reshape(shape)))
                start = end
            # Last: another thread that looks meanwhile must not find half of them.
            self.__dict__["is_filled"] = True

    @property
    def flat(self) -> np.ndarray | None:
        """All values in a row; None if entries were changed one by one."""
        values: np.ndarray | None = self.__dict__.get("flat")
        return values

    @property
    def layout(self) -> Layout:
        """What lies in :attr:`flat`."""
        layout: Layout = self.__dict__["layout"]
        return layout

    @property
    def num_bytes(self) -> int:
        """Bytes as they cross the wire."""
        if self.flat is None:
            return sum(array.num_bytes if isinstance(array, Array) else len(array.data) for array in self.values())
        return self.flat.nbytes + _headers_bytes(_name_of(self.flat.dtype), self.layout)

    def __setitem__(self, key: str, value: flwr.app.Array) -> None:
        self._fill()
        self.__dict__["flat"] = None
        super().__setitem__(key, value)

    def __delitem__(self, key: str) -> None:
        self._fill()
        self.__dict__["flat"] = None
        super().__delitem__(key)

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self.flat is None:
            return _restore_entries, (list(self.items()),)
        return ArrayRecord, (self.flat, self.layout)


def _filling(name: str) -> Callable[..., Any]:
    """Return a method of Flower's record that makes the entries before it looks at them."""
    method = getattr(flwr.app.ArrayRecord, name)

    @wraps(method)
    def call(self: ArrayRecord, *arguments: Any) -> Any:
        for record in (self, *arguments):
            if isinstance(record, ArrayRecord):
                record._fill()
        return method(self, *arguments)

    return call


_READING = (
    "__getitem__",
    "__iter__",
    "__len__",
    "__contains__",
    "__eq__",
    "__repr__",
    "keys",
    "values",
    "items",
    "copy",
)
for _name in _READING:
    setattr(ArrayRecord, _name, _filling(_name))


def _restore_entries(entries: list[tuple[str, flwr.app.Array]]) -> ArrayRecord:
    record = ArrayRecord()
    for name, array in entries:
        record[name] = array
    return record


def layout_of(arrays: Mapping[str, Any]) -> Layout:
    """Return names and shapes of arrays or tensors."""
    return tuple((name, tuple(array.shape)) for name, array in arrays.items())


@lru_cache(maxsize=64)
def _name_of(dtype: np.dtype) -> str:
    # numpy puts the name together anew each time, which takes longer than all else that is done with an array.
    return str(dtype)


@lru_cache(maxsize=4096)
def _header_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Return the length of what stands before the values in a ``.npy`` file."""
    buffer = io.BytesIO()
    description = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(buffer, {"descr": description, "fortran_order": False, "shape": shape})
    return len(buffer.getvalue())


@lru_cache(maxsize=64)
def _headers_bytes(dtype: str, layout: Layout) -> int:
    return sum(_header_bytes(dtype, shape) for _, shape in layout)
