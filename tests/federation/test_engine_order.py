"""Ray's engine beside hospitals that are slow: who goes first, what ends late, and what is copied."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from federation.engine.grid import TOO_LATE, SimulationGrid, simulation_nodes
from federation.engine.in_process import InProcessGrid
from federation.engine.ray import RayGrid, _Slot
from federation.exchange import pack_arrays


def build_slow_app() -> ClientApp:
    """Sleeps as long as it is told; says who worked, and whether what it got can be written to."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        asked = message.content.config_records["config"]
        began = time.time()
        time.sleep(float(str(asked.get(f"sleep-{context.node_config['partition-id']}", 0.0))))
        writeable = bool(message.content["arrays"]["w"].numpy().flags.writeable)  # type: ignore[index]
        answer = MetricRecord({"pid": os.getpid(), "writeable": int(writeable), "began": began})
        return Message(RecordDict({"answer": answer, "arrays": message.content["arrays"]}), reply_to=message)

    return app


def send(grid: SimulationGrid, nodes: list[int], config: dict[str, float], size: int = 1000) -> dict[str, int]:
    arrays = pack_arrays({"w": np.arange(size, dtype=np.float32)})
    content = RecordDict({"config": ConfigRecord(config), "arrays": arrays})  # type: ignore[arg-type]
    messages = [grid.create_message(content, "train", node_id, "1") for node_id in nodes]
    return dict(zip(grid.push_messages(messages), nodes, strict=True))


def collect(grid: SimulationGrid, waiting: dict[str, int]) -> dict[int, Message]:
    replies = {}
    while waiting:
        for reply in grid.pull_messages(waiting):
            replies[waiting.pop(reply.metadata.reply_to_message_id)] = reply
    return replies


def answer(reply: Message) -> dict[str, float]:
    return dict(reply.content["answer"])  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def slow() -> Iterator[RayGrid]:
    engine = RayGrid(build_slow_app(), simulation_nodes(6), num_workers=2, deadlines={"train": 4.0})
    yield engine
    engine.close()


def test_arrays_reach_a_worker_and_come_back_without_a_copy(slow: RayGrid) -> None:
    replies = collect(slow, send(slow, [2, 3], {}, size=1_000_000))
    for reply in replies.values():
        assert answer(reply)["writeable"] == 0, "the object store's memory, not a copy of it"
        values = reply.content["arrays"]["w"].numpy()  # type: ignore[index]
        assert not values.flags.writeable
        assert values[[0, -1]].tolist() == [0.0, 999_999.0]


def test_a_hang_ends_at_its_deadline_and_the_second_attempt_meets_a_new_worker(slow: RayGrid) -> None:
    before = {answer(reply)["pid"] for reply in collect(slow, send(slow, [2, 3, 4, 5], {"sleep-0": 0.5})).values()}
    start = time.monotonic()
    replies = collect(slow, send(slow, [2, 3], {"sleep-0": 1000.0}))
    assert 4.0 <= time.monotonic() - start < 12.0
    assert (replies[2].error.code, replies[2].error.reason) == (TOO_LATE, "no answer within 4 s")
    assert not replies[3].has_error()
    slow.distrust_worker(2)
    again = collect(slow, send(slow, [2], {}))
    assert answer(again[2])["pid"] not in before


def test_a_reply_that_was_refused_is_asked_for_again_from_a_new_worker_alone(slow: RayGrid) -> None:
    """The grid itself saw nothing wrong. The other worker stays."""

    def both_workers() -> set[float]:
        sleeps = {"sleep-0": 0.4, "sleep-1": 0.4}
        return {answer(reply)["pid"] for reply in collect(slow, send(slow, [2, 3, 4], sleeps)).values()}

    before = both_workers()
    assert len(before) == 2
    slow.distrust_worker(4)
    pid = answer(collect(slow, send(slow, [4], {}))[4])["pid"]
    assert pid not in before
    assert len(both_workers() & before) == 1


def test_the_longest_hospital_goes_first(slow: RayGrid) -> None:
    """By what it costs before anything was timed, then by what it took."""
    sleeps = {"sleep-0": 0.1, "sleep-1": 0.1, "sleep-2": 0.1, "sleep-3": 0.1, "sleep-4": 1.3, "sleep-5": 2.2}
    for _ in range(2):
        replies = collect(slow, send(slow, [2, 3, 4, 5, 6, 7], sleeps))
    began = sorted(replies, key=lambda node: answer(replies[node])["began"])
    assert set(began[:2]) == {6, 7}
    # Nobody waits behind them: the shorter of the two takes over the rest.
    assert slow.running() == []
    assert sum(workload.num_messages for workload in slow.workloads()) >= 12


def test_expected_costs_decide_before_anything_was_timed() -> None:
    grid = InProcessGrid.__new__(RayGrid)  # the choice alone, without Ray
    SimulationGrid.__init__(grid, simulation_nodes(4))
    grid._waiting, grid._waiting_nodes, grid._seconds, grid._last_slot = {}, {}, {}, {}
    grid._held_bytes, grid._most_held_bytes = 0, 10
    grid.expect({2: 5.0, 3: 40.0, 4: 41.0, 5: 1.0})
    send(grid, [2, 3, 4, 5], {})
    slot = _Slot(actor=None, ready=None, is_fresh=False)

    def chosen() -> int:
        message = grid._choose(slot)
        assert message is not None
        return int(message.metadata.dst_node_id)

    assert chosen() == 4
    # One that the worker knows goes before one that takes a little longer.
    grid._last_slot[3] = slot
    assert chosen() == 3
    # When finished replies pile up, the first in line, which the caller waits for.
    grid._held_bytes = 11
    assert chosen() == 2
    # A second attempt is not for a worker that has seen the first.
    grid._held_bytes = 0
    grid.distrust_worker(4)
    grid._last_slot.clear()
    assert chosen() == 3
    slot.is_fresh = True
    assert chosen() == 4
