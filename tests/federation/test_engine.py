"""Both engines run the same app, survive what it does, and end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from federation.config import parse_assignments
from federation.engine import count_workers, share_gpus
from federation.engine.grid import APP_ERROR, WORKER_DIED, SimulationGrid, simulation_nodes
from federation.engine.in_process import InProcessGrid
from federation.engine.ray import RayGrid
from federation.errors import ConfigurationError
from federation.machine import count_cores
from strategies.configuration import resolve


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


@pytest.fixture(scope="module", params=["in-process", "ray"])
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


def answers_of(replies: dict[int, Message]) -> dict[int, dict[str, int]]:
    return {node: dict(reply.content.metric_records["answer"]) for node, reply in sorted(replies.items())}  # type: ignore[arg-type]


def test_every_node_answers_and_keeps_its_state(grid: SimulationGrid) -> None:
    assert list(grid.get_node_ids()) == [2, 3, 4, 5, 6]
    for count in (1, 2, 3):
        answers = answers_of(ask(grid, {}))
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


@pytest.mark.parametrize("grid", ["ray"], indirect=True)
def test_a_dead_worker_is_replaced(grid: SimulationGrid) -> None:
    before = [answer["calls"] for answer in answers_of(ask(grid, {})).values()]
    replies = ask(grid, {"die-at": 2})
    assert [node for node, reply in replies.items() if reply.has_error()] == [4]
    assert replies[4].error.code == WORKER_DIED
    answers = list(answers_of(ask(grid, {})).values())
    assert [answer["calls"] for answer in answers] == [
        calls + more for calls, more in zip(before, (2, 2, 1, 2, 2), strict=True)
    ]
    # The others do not wait for the new worker, which takes part as soon as it is up.
    deadline = time.monotonic() + 60
    while len({answer["pid"] for answer in answers}) < 2:
        assert time.monotonic() < deadline
        answers = list(answers_of(ask(grid, {})).values())


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
    assert count_workers(resolve([parse_assignments(assignments)])) == expected(count_cores())


def test_flower_knows_our_messages_by_a_constructor_that_it_marks_as_internal() -> None:
    """The one private thing we use; should Flower take it away, this says so."""
    grid = InProcessGrid(build_app(), simulation_nodes(1))
    message = grid.create_message(RecordDict(), "train", 2, "7")
    assert (message.metadata.dst_node_id, message.metadata.group_id, message.metadata.message_id) == (2, "7", "1")


@pytest.mark.parametrize(
    ("variable", "folder", "message"),
    [
        (
            "TMPDIR",
            "a-rather-long-name-as-clusters-have-them/slurm_jobdir/1355700/a-rather-long-name-as-clusters-have-them",
            r"^TMPDIR = .*/1355700/.*: is too long for the sockets that Ray makes there; set .* RAY_TMPDIR=/tmp",
        ),
        (
            "RAY_TMPDIR",
            "file",
            r"Ray does not start on this machine \(\w+Error: .*set the environment variable RAY_TMPDIR",
        ),
    ],
)
def test_a_machine_on_which_ray_does_not_start_is_told_what_to_do(
    variable: str, folder: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray.shutdown()  # what another test's engine may have left in this process
    (tmp_path / "file").touch()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(variable, str(tmp_path / folder))
    with pytest.raises(ConfigurationError, match=message):
        RayGrid(build_app(), simulation_nodes(1), num_workers=1)
