"""Both engines run the same app, survive what it does, and end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from federation.config import parse_assignments, resolve
from federation.engine import count_workers, share_gpus
from federation.engine.grid import APP_ERROR, TOO_LATE, WORKER_DIED, SimulationGrid, simulation_nodes
from federation.engine.in_process import InProcessGrid
from federation.engine.ray import RayGrid, _Slot
from federation.errors import ConfigurationError
from federation.exchange import pack_arrays


def build_app() -> ClientApp:
    """Count the calls of each node in its state; fail or die where it is told to."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        config = message.content.config_records["config"]
        partition = int(str(context.node_config["partition-id"]))
        if partition == config.get("raise-at"):
            raise ValueError(f"hospital {partition} has no images")
        if partition == config.get("die-at"):
            os._exit(1)
        calls = context.state.metric_records.get("calls", MetricRecord({"count": 0}))
        context.state["calls"] = MetricRecord({"count": int(str(calls["count"])) + 1})
        answer = {"partition": partition, "calls": context.state.metric_records["calls"]["count"], "pid": os.getpid()}
        return Message(RecordDict({"answer": MetricRecord(answer)}), reply_to=message)

    return app


@pytest.fixture(params=["in-process", "ray"])
def grid(request: pytest.FixtureRequest) -> Iterator[SimulationGrid]:
    if request.param == "in-process":
        engine: SimulationGrid = InProcessGrid(build_app(), simulation_nodes(5))
    else:
        engine = RayGrid(build_app(), simulation_nodes(5), num_workers=2)
    yield engine
    engine.close()


def ask(grid: SimulationGrid, config: dict[str, int]) -> dict[int, Message]:
    content = RecordDict({"config": ConfigRecord(config)})  # type: ignore[arg-type]
    messages = [grid.create_message(content, "train", node_id, "1") for node_id in grid.get_node_ids()]
    replies = list(grid.send_and_receive(messages))
    assert len(replies) == len(messages)
    return {reply.metadata.src_node_id: reply for reply in replies}


def test_every_node_answers_and_keeps_its_state(grid: SimulationGrid) -> None:
    assert list(grid.get_node_ids()) == [2, 3, 4, 5, 6]
    for count in (1, 2, 3):
        replies = ask(grid, {})
        answers = {node: reply.content.metric_records["answer"] for node, reply in replies.items()}
        assert {node: answer["partition"] for node, answer in answers.items()} == {2: 0, 3: 1, 4: 2, 5: 3, 6: 4}
        # Whichever worker a node's turn fell to, its own state came along.
        assert [answer["calls"] for answer in answers.values()] == [count] * 5
    processes = {answer["pid"] for answer in answers.values()}
    assert len(processes) == (1 if isinstance(grid, InProcessGrid) else 2)
    assert (os.getpid() in processes) is isinstance(grid, InProcessGrid)


def test_an_exception_becomes_an_error_reply_with_its_traceback(grid: SimulationGrid) -> None:
    replies = ask(grid, {"raise-at": 1})
    failed = [node for node, reply in replies.items() if reply.has_error()]
    assert failed == [3]
    assert replies[3].error.code == APP_ERROR
    assert "Traceback (most recent call last)" in str(replies[3].error.reason)
    assert "ValueError: hospital 1 has no images" in str(replies[3].error.reason)
    assert not any(reply.has_error() for reply in ask(grid, {}).values())


def test_a_dead_worker_is_replaced() -> None:
    grid = RayGrid(build_app(), simulation_nodes(5), num_workers=2)
    try:
        replies = ask(grid, {"die-at": 2})
        assert [node for node, reply in replies.items() if reply.has_error()] == [4]
        assert replies[4].error.code == WORKER_DIED
        answers = [reply.content.metric_records["answer"] for reply in ask(grid, {}).values()]
        assert sorted(answer["calls"] for answer in answers) == [1, 2, 2, 2, 2]
        # The others do not wait for the new worker, which takes part as soon as it is up.
        deadline = time.monotonic() + 60
        while len({answer["pid"] for answer in answers}) < 2:
            assert time.monotonic() < deadline
            answers = [reply.content.metric_records["answer"] for reply in ask(grid, {}).values()]
    finally:
        grid.close()


@pytest.mark.parametrize(
    ("num_workers", "wanted", "num_gpus", "expected"),
    [
        (2, 0, 0, (2, 0.0)),
        (3, 0, 2, (3, 0.5)),  # two on one GPU, one on the other
        (20, 0, 8, (20, 1 / 3)),
        (1, 0, 4, (1, 1.0)),
        (4, 0.5, 1, (2, 0.5)),
        (4, 0.3, 1, (3, 0.3)),
        (4, 2, 4, (2, 2)),
    ],
)
def test_shares_of_gpus_fit(num_workers: int, wanted: float, num_gpus: int, expected: tuple[int, float]) -> None:
    assert share_gpus(num_workers, wanted, num_gpus) == expected


def test_a_share_of_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="gpus-per-hospital = 0.25: this machine has 0 GPUs"):
        share_gpus(2, 0.25, 0)
    with pytest.raises(ConfigurationError, match="allowed is a share up to 1, or a whole number"):
        share_gpus(2, 1.5, 4)


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        (["simulation.workers=3"], lambda cores: 3),
        (["simulation.workers=9", "partition.hospitals=5"], lambda cores: 5),
        (["partition.hospitals=10000"], lambda cores: cores),
        (["partition.hospitals=10000", "training.threads=256"], lambda cores: max(1, cores // 256)),
    ],
)
def test_number_of_workers(assignments: list[str], expected: Callable[[int], int]) -> None:
    cores = len(os.sched_getaffinity(0))
    assert count_workers(resolve([parse_assignments(assignments)])) == expected(cores)


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


def test_flower_knows_our_messages_by_a_constructor_that_it_marks_as_internal() -> None:
    """The one private thing we use; should Flower take it away, this says so."""
    grid = InProcessGrid(build_app(), simulation_nodes(1))
    message = grid.create_message(RecordDict(), "train", 2, "7")
    assert (message.metadata.dst_node_id, message.metadata.group_id, message.metadata.message_id) == (2, "7", "1")
