"""Arrays in one piece: the same bits as Flower's own, by every way."""

from __future__ import annotations

import pickle
import threading

import flwr.app
import numpy as np
import pytest

from federation.arrays import Array, ArrayRecord, layout_of
from federation.exchange import count_bytes, own_record, pack_arrays, unpack_arrays

VALUES = {
    "generator.weight": np.array([[1.0, -0.0], [3e-39, np.pi]], dtype=np.float32),
    "generator.scalar": np.array(0.5, dtype=np.float32),
    "generator.empty": np.zeros((0, 3), dtype=np.float32),
    "discriminator.bias": np.arange(3, dtype=np.float32),
}


def test_an_array_is_what_flowers_own_is() -> None:
    for values in VALUES.values():
        ours, theirs = Array(values), flwr.app.Array(values)
        assert (ours.dtype, ours.shape, ours.stype, ours.data) == (
            theirs.dtype,
            theirs.shape,
            theirs.stype,
            theirs.data,
        )
        assert ours == theirs
        assert ours.num_bytes == len(theirs.data)
        # What Flower sends to another machine bears the class's name and these bytes.
        assert type(ours).__qualname__ == type(theirs).__qualname__
        assert ours.object_id == theirs.object_id


def test_a_record_counts_its_bytes_as_flowers_own() -> None:
    theirs = flwr.app.ArrayRecord({name: flwr.app.Array(values) for name, values in VALUES.items()})
    ours = pack_arrays(VALUES)
    assert isinstance(ours, ArrayRecord)
    assert ours.flat is not None
    assert count_bytes(ours) == count_bytes(theirs) == sum(len(array.data) for array in theirs.values())
    assert ours == theirs
    assert list(ours) == list(theirs)


@pytest.mark.parametrize("out_of_band", [True, False])
def test_pickled_and_read_again(out_of_band: bool) -> None:
    record = pack_arrays(VALUES)
    buffers: list[pickle.PickleBuffer] = []
    text = pickle.dumps(record, protocol=5, buffer_callback=buffers.append if out_of_band else None)
    assert len(buffers) == (1 if out_of_band else 0), "all arrays in one piece"
    again = pickle.loads(text, buffers=buffers)
    assert isinstance(again, ArrayRecord)
    assert again.layout == layout_of(VALUES)
    for name, values in unpack_arrays(again).items():
        assert values.tobytes() == VALUES[name].tobytes()
        assert values.shape == VALUES[name].shape


def test_a_changed_record_is_no_longer_in_one_piece() -> None:
    record = pack_arrays(VALUES)
    record["discriminator.bias"] = Array(np.full(3, 9, dtype=np.float32))
    assert record.flat is None
    again = pickle.loads(pickle.dumps(record, protocol=5))
    assert again["discriminator.bias"].numpy().tolist() == [9.0, 9.0, 9.0]
    assert own_record(again).flat is not None
    del record["generator.scalar"]
    assert "generator.scalar" not in record
    assert len(record.copy()) == 3


def test_arrays_of_several_types_are_packed_one_by_one() -> None:
    record = pack_arrays({"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float64)})
    assert record.flat is None
    assert {name: array.dtype for name, array in record.items()} == {"a": "float32", "b": "float64"}


def test_threads_that_look_at_the_same_moment_see_all_entries() -> None:
    names = {f"layer-{number}": np.zeros(1, np.float32) for number in range(300)}
    found = []
    for _ in range(60):
        record = pack_arrays(names)
        start = threading.Barrier(4)

        def look(record: ArrayRecord = record, start: threading.Barrier = start) -> None:
            start.wait()
            found.append(len(dict(record.items())))

        threads = [threading.Thread(target=look) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert set(found) == {300}
