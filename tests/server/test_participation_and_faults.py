"""Who takes part, who fails, what is tried again: the result is that of exactly the replies that were used."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Error, Message
from rich.console import Console
from safetensors.numpy import load_file

from clients.app import app as client_app
from federation.config import Configuration, parse_assignments
from federation.engine import build_engine
from federation.engine.grid import SimulationGrid, simulation_nodes
from federation.engine.in_process import InProcessGrid
from federation.errors import ConfigurationError, HospitalError, RunDirectoryError, RunError, StorageError
from federation.exchange import ARRAYS, REFUSED, pack_arrays, unpack_arrays
from federation.run_directory import RunDirectory, read_lines
from federation.settings.participation import ParticipationSettings
from federation.site import Site
from server.app import run_federation
from server.background import BackgroundWork
from server.callbacks import EarlyStopping, RoundReport
from server.inputs import prepare_inputs
from server.messaging import choose_sites, describe_sites, list_sites
from server.run_state import newest_whole
from strategies.configuration import resolve


def configuration(run_dir: Path, cache_dir: str, *assignments: str) -> Configuration:
    return resolve(
        [
            parse_assignments(
                [
                    f"run-dir={run_dir}",
                    f"data.cache-dir={cache_dir}",
                    "data.phantom-images=400",
                    "partition.scheme=iid",
                    "partition.hospitals=8",
                    "partition.min-images=1",
                    "rounds=3",
                    "stylegan2.channel-max=16",
                    "stylegan2.latent-size=16",
                    "training.local-steps=2",
                    "training.batch-size=2",
                    # Runs that are made longer are compared with longer ones.
                    "training.learning-rate-decay=none",
                    "evaluation.images=20",
                    "evaluation.draws=1",
                    "evaluation.threads=1",
                    "evaluation.utility=false",
                    "evaluation.authenticity=false",
                    *assignments,
                ]
            )
        ]
    )


class Faults:
    """The real ClientApp, but for what some hospitals do in some rounds, in their first attempts.

    Parameters
    ----------
    folder
        Where attempts are counted, as they may run in several processes.
    planned
        By round and partition: what happens, and in how many attempts.
    """

    def __init__(self, folder: Path, planned: dict[tuple[int, int], tuple[str, int]]) -> None:
        self.folder, self.planned = folder, planned

    def __call__(self, message: Message, context: Context) -> Message:
        if message.metadata.message_type != "train":
            return client_app(message, context)
        where = (int(message.metadata.group_id), int(str(context.node_config["partition-id"])))
        if where not in self.planned:
            return client_app(message, context)
        kind, times = self.planned[where]
        attempt = len(list(self.folder.glob(f"{where[0]}-{where[1]}-*")))
        (self.folder / f"{where[0]}-{where[1]}-{attempt}").touch()
        if attempt >= times:
            return client_app(message, context)
        if kind == "raise":
            raise ValueError("the images of this hospital are gone")
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "hang":
            time.sleep(1000)
        # It trains, it keeps its state of the round, and then its reply is lost or spoiled.
        reply = client_app(message, context)
        if kind == "late raise":
            raise ConnectionError("the line is dead")
        assert kind == "nan"
        arrays = unpack_arrays(reply.content.array_records[ARRAYS])
        arrays["generator.constant"][0, 0, 0, 0] = np.nan
        reply.content[ARRAYS] = pack_arrays(arrays)
        return reply


def run(settings: Configuration, app: Callable[[Message, Context], Message], **arguments: object) -> str:
    console = Console(record=True, width=200, file=io.StringIO())
    grid: SimulationGrid
    if settings.simulation.engine == "ray":
        grid = build_engine(settings, app)  # type: ignore[arg-type]
    else:
        grid = InProcessGrid(app, simulation_nodes(settings.partition.hospitals))  # type: ignore[arg-type]
    try:
        run_federation(grid, prepare_inputs(settings), console, **arguments)  # type: ignore[arg-type]
    finally:
        grid.close()
    return console.export_text()


def networks(run_dir: Path) -> dict[str, bytes]:
    rounds = RunDirectory(run_dir).checkpoint_rounds()
    arrays = load_file(run_dir / "checkpoints" / f"round-{rounds[-1]:04d}" / "global.safetensors")
    return {name: value.tobytes() for name, value in arrays.items()}


IN_PROCESS = "simulation.engine=in-process"


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, cache_dir: str) -> Path:
    """A run of all hospitals in which nothing happens."""
    run_dir = tmp_path_factory.mktemp("runs") / "straight"
    run(configuration(run_dir, cache_dir, IN_PROCESS), client_app)
    return run_dir


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("kind", ["raise", "late raise", "nan"])
def test_a_hospital_that_answers_at_the_second_attempt_changes_nothing(
    kind: str, straight: Path, tmp_path: Path, cache_dir: str
) -> None:
    printed = run(
        configuration(tmp_path / "run", cache_dir, IN_PROCESS), Faults(tmp_path, {(2, 3): (kind, 1), (3, 3): (kind, 1)})
    )
    assert networks(tmp_path / "run") == networks(straight)
    status = "refused" if kind == "nan" else "failed"
    assert f"round 2: hospital 'hospital-03' {status}, is asked again: " in printed
    lines = read_lines(tmp_path / "run" / "hospitals.jsonl")
    retried = [line for line in lines if "attempts" in line]
    assert [(line["round"], line["site"], line["attempts"], line["status"]) for line in retried] == [
        (2, "hospital-03", 2, "ok"),
        (3, "hospital-03", 2, "ok"),
    ]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["left_out"] == {}


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("kind", ["late raise", "nan"])
def test_what_a_hospital_kept_of_a_reply_that_was_not_used_is_forgotten(
    kind: str, tmp_path: Path, cache_dir: str
) -> None:
    """Its moments of that round must not go into the next: the reference run never trained there."""
    for name, what in (("spoiled", kind), ("absent", "raise")):
        folder = tmp_path / f"attempts-{name}"
        folder.mkdir()
        run(
            configuration(tmp_path / name, cache_dir, IN_PROCESS, "participation.retries=0"),
            Faults(folder, {(2, 3): (what, 9)}),
        )
    assert networks(tmp_path / "spoiled") == networks(tmp_path / "absent")


def test_chaos_ends_like_a_run_in_which_those_replies_were_absent(tmp_path: Path, cache_dir: str) -> None:
    """Killed, raising, hanging and spoiled, at random; some recover at the second attempt."""
    stream = np.random.default_rng(15)  # killed, spoiled and hanging ones are lost; another that is killed recovers
    planned: dict[tuple[int, int], tuple[str, int]] = {}
    for kind, number in (("kill", 2), ("raise", 1), ("late raise", 1), ("nan", 1), ("hang", 1)):
        for _ in range(number):
            place = (0, 0)
            while place == (0, 0) or place in planned:
                place = (int(stream.integers(1, 4)), int(stream.integers(0, 8)))
            planned[place] = (kind, int(stream.integers(1, 3)))
    lost = {place for place, (_, times) in planned.items() if times == 2}
    assert 3 <= len(lost) < len(planned) - 2
    (tmp_path / "attempts").mkdir()
    chaos = configuration(tmp_path / "chaos", cache_dir, "simulation.workers=2", "participation.train-seconds=10")
    printed = run(chaos, Faults(tmp_path / "attempts", planned))
    (tmp_path / "none").mkdir()
    run(
        configuration(tmp_path / "absent", cache_dir, IN_PROCESS, "participation.retries=0"),
        Faults(tmp_path / "none", dict.fromkeys(lost, ("raise", 1))),
    )
    assert networks(tmp_path / "chaos") == networks(tmp_path / "absent")
    lines = read_lines(tmp_path / "chaos" / "hospitals.jsonl")
    assert len(lines) == 3 * 8
    failed = {(line["round"], int(line["site"][-1])): line for line in lines if line["status"] != "ok"}
    assert failed.keys() == lost
    expected = {
        "kill": ("failed", "the worker process died"),
        "raise": ("failed", "ValueError: the images of this hospital are gone"),
        "late raise": ("failed", "ConnectionError: the line is dead"),
        "nan": ("refused", "generator.constant: 1 of 256 values are not finite"),
        "hang": ("late", "no answer within 10 s"),
    }
    for place, line in failed.items():
        status, reason = expected[planned[place][0]]
        assert line["status"] == status
        assert reason in line["reason"]
        assert f"left out hospital {line['site']!r}: " in printed
    again = {(line["round"], int(line["site"][-1])) for line in lines if line.get("attempts", 1) > 1}
    assert again == planned.keys()
    summary = json.loads((tmp_path / "chaos" / "summary.json").read_text())
    assert sum(sum(counts.values()) for counts in summary["left_out"].values()) == len(lost)


@pytest.mark.usefixtures("without_pictures")
def test_a_hospital_that_withdraws_is_asked_once_a_round_and_may_come_back(tmp_path: Path, cache_dir: str) -> None:
    """Its policy has changed while the run goes on."""
    run_dir = tmp_path / "run"

    def app(message: Message, context: Context) -> Message:
        if (message.metadata.group_id, context.node_config["partition-id"]) == ("2", 3):
            return Message(Error(REFUSED, "PolicyError: 'train' is not answered here"), reply_to=message)
        return client_app(message, context)

    printed = run(configuration(run_dir, cache_dir, IN_PROCESS, "rounds=2"), app)
    assert "round 2: left out hospital 'hospital-03': PolicyError: 'train' is not answered here" in printed
    assert "is asked again" not in printed
    run(configuration(run_dir, cache_dir, IN_PROCESS, "rounds=3", "resume=true"), client_app)
    lines = read_lines(run_dir / "hospitals.jsonl")
    assert [line["status"] for line in lines if line["site"] == "hospital-03"] == ["ok", "refused", "ok"]
    assert len(lines) == 3 * 8


def test_a_run_is_resumed_with_all_of_its_hospitals(tmp_path: Path, cache_dir: str) -> None:
    """The remedy must not be a setting that a resumed run refuses."""
    grid = InProcessGrid(client_app, simulation_nodes(9))
    for resume, remedy in (
        ("false", "set partition.hospitals=9 or start"),
        ("true", "start as many: a run goes on with"),
    ):
        settings = configuration(tmp_path / "run", cache_dir, f"resume={resume}")
        with pytest.raises(ConfigurationError, match=f"partition.hospitals = 8, but there are 9 nodes; {remedy}"):
            describe_sites(grid, settings)


@pytest.mark.usefixtures("without_pictures")
def test_a_run_goes_on_when_nobody_looks_any_more(tmp_path: Path, cache_dir: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    screen = os.fdopen(writing, "w")
    settings = configuration(tmp_path / "run", cache_dir, IN_PROCESS, "rounds=1")
    run_federation(InProcessGrid(client_app, simulation_nodes(8)), prepare_inputs(settings), Console(file=screen))
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "the screen is gone (Broken pipe); nothing more is shown there" in log
    assert "done: 1 rounds, 32 images" in log
    with pytest.raises(BrokenPipeError):
        screen.close()


class FullDisk:
    """The real ClientApp, under which one hospital finds no room for its state in round 2.

    Parameters
    ----------
    then
        Called before, e.g. to see to it that nothing else can be written either.
    """

    def __init__(self, then: Callable[[], object]) -> None:
        self.then = then

    def __call__(self, message: Message, context: Context) -> Message:
        if (message.metadata.group_id, context.node_config["partition-id"]) != ("2", 3):
            return client_app(message, context)
        self.then()
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            return client_app(message, context)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("without_pictures")
def test_a_full_disk_is_no_hospitals_fault_and_the_run_goes_on_once_there_is_room(
    straight: Path, tmp_path: Path, cache_dir: str
) -> None:
    run_dir = tmp_path / "run"
    settings = configuration(run_dir, cache_dir, IN_PROCESS)
    with pytest.raises(StorageError, match=r"hospital-03/round-0002\.safetensors: cannot be written .*File too large"):
        run(settings, FullDisk(lambda: None))
    assert {line["status"] for line in read_lines(run_dir / "hospitals.jsonl")} == {"ok"}
    assert json.loads((run_dir / "summary.json").read_text())["status"] == "failed"
    assert RunDirectory(run_dir).checkpoint_rounds() == [1]
    assert not list(run_dir.rglob(".*"))
    assert "resumed after round 1" in run(settings.with_values({"resume": True}), client_app)
    assert networks(run_dir) == networks(straight)


@pytest.mark.usefixtures("without_pictures")
def test_a_run_that_can_save_nothing_ends_with_what_it_failed_of(tmp_path: Path, cache_dir: str) -> None:
    run_dir = tmp_path / "run"
    console = Console(record=True, width=400, file=io.StringIO())
    settings = configuration(run_dir, cache_dir, IN_PROCESS)
    grid = InProcessGrid(
        FullDisk(lambda: [(run_dir / "checkpoints").touch(), (run_dir / "summary.json").mkdir()]),  # type: ignore[arg-type]
        simulation_nodes(8),
    )
    with pytest.raises(StorageError, match="hospital-03/round-0002") as raised:
        run_federation(grid, prepare_inputs(settings), console)
    assert raised.value.__context__ is None, "no error came on top"
    printed = console.export_text()
    assert f"the last round could not be saved: {run_dir / 'checkpoints' / 'round-0001'}: cannot be written" in printed
    assert f"there is no summary: {run_dir / 'summary.json'}: cannot be written" in printed
    assert f"failed after round 0; go on with --resume --run-dir {run_dir}" in printed
    assert not list(run_dir.rglob(".*"))


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory: pytest.TempPathFactory, cache_dir: str) -> Path:
    """A run of two of the three rounds."""
    run_dir = tmp_path_factory.mktemp("runs") / "two"
    run(configuration(run_dir, cache_dir, IN_PROCESS, "rounds=2", "checkpoint.every=1"), client_app)
    return run_dir


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def change(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-8:] = bytes(8)
    path.write_bytes(content)


def point(path: Path) -> None:
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{0:064}\nsize 123456\n")


NEWEST = "checkpoints/round-0002/"
DAMAGES: list[tuple[str, Callable[[Path], object], str]] = [
    (NEWEST + "global.safetensors", cut, "is not as it was written"),
    (NEWEST + "global.safetensors", change, "is not as it was written"),
    (NEWEST + "global.safetensors", Path.unlink, "is gone"),
    (NEWEST + "state.json", cut, "is damaged"),
    (NEWEST + "state.json", lambda path: os.truncate(path, 0), "is damaged"),
    ("hospitals/hospital-03/round-0002.safetensors", cut, "is damaged"),
    ("hospitals/hospital-03/round-0002.safetensors", point, "is damaged"),
    ("hospitals/hospital-03/round-0002.safetensors", Path.unlink, "is gone"),
]


@pytest.mark.parametrize(("name", "damage", "words"), DAMAGES)
def test_the_newest_checkpoint_that_is_whole_is_found(
    name: str, damage: Callable[[Path], object], words: str, two_checkpoints: Path, tmp_path: Path
) -> None:
    """After a copy that broke off."""
    directory = RunDirectory(Path(shutil.copytree(two_checkpoints, tmp_path / "run")))
    assert newest_whole(directory) == (2, {})
    damage(directory.path / name)
    newest, damaged = newest_whole(directory)
    assert newest == 1
    assert damaged[2].startswith(f"{directory.path / name}: {words}")
    point(directory.checkpoint(1) / "state.json")
    with pytest.raises(RunDirectoryError, match="put it back from a copy, or start the run anew") as raised:
        newest_whole(directory)
    assert [problem.split(": is ")[0] for problem in raised.value.problems] == [
        str(directory.path / name),
        str(directory.checkpoint(1) / "state.json"),
    ]


@pytest.mark.usefixtures("without_pictures")
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    two_checkpoints: Path, straight: Path, tmp_path: Path, cache_dir: str
) -> None:
    run_dir = Path(shutil.copytree(two_checkpoints, tmp_path / "run"))
    cut(run_dir / NEWEST / "global.safetensors")
    lines = (run_dir / "hospitals.jsonl").read_text().splitlines(keepends=True)
    (run_dir / "hospitals.jsonl").write_text("".join(lines[:4]))  # cut at the end of a line, in round 1
    printed = run(configuration(run_dir, cache_dir, IN_PROCESS, "checkpoint.every=1", "resume=true"), client_app)
    assert (
        f"{run_dir / NEWEST / 'global.safetensors'}: is not as it was written: that checkpoint is left out, and is "
        f"{run_dir / 'checkpoints' / 'damaged-round-0002'} now" in printed
    )
    assert "resumed after round 1" in printed
    assert networks(run_dir) == networks(straight)


def test_too_few_replies_end_the_run_with_its_last_good_state(straight: Path, tmp_path: Path, cache_dir: str) -> None:
    settings = configuration(tmp_path / "run", cache_dir, IN_PROCESS, "participation.min-replies=7")
    planned = {(1, 0): ("raise", 9), **{(3, partition): ("raise", 9) for partition in (1, 2)}}
    with pytest.raises(RunError) as caught:
        run(settings, Faults(tmp_path, planned))
    assert str(caught.value).splitlines() == [
        "round 3: replies of 6 of 8 hospitals could be used, at least 7 are needed (participation.min-replies)",
        "hospital-01: ValueError: the images of this hospital are gone",
        "hospital-02: ValueError: the images of this hospital are gone",
    ]
    assert RunDirectory(tmp_path / "run").checkpoint_rounds()[-1] == 2
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"
    # With fewer allowed it goes on; that is no other computation.
    resumed = configuration(tmp_path / "run", cache_dir, IN_PROCESS, "participation.min-replies=2", "resume=true")
    run(resumed, client_app)
    assert len(networks(tmp_path / "run")) == len(networks(straight))


def sites(number: int) -> list[Site]:
    return sorted((Site(f"hospital-{n}", n + 2, 100) for n in range(number)), key=lambda site: site.name)


@pytest.mark.parametrize(
    ("number", "fraction", "expected"), [(10, 0.3, 3), (10, 0.01, 1), (10, 1.0, 10), (1000, 0.05, 50), (3, 0.5, 2)]
)
def test_a_fraction_is_drawn_from_seed_and_round_alone(number: int, fraction: float, expected: int) -> None:
    settings = ParticipationSettings(fraction=fraction)
    everyone = sites(number)
    drawn = [choose_sites(everyone, settings, 0, server_round) for server_round in range(1, 21)]
    assert {len(chosen) for chosen in drawn} == {expected}
    assert drawn == [choose_sites(everyone, settings, 0, server_round) for server_round in range(1, 21)]
    for chosen in drawn:
        assert [site.name for site in chosen] == sorted({site.name for site in chosen})
    if expected < number:
        assert drawn != [choose_sites(everyone, settings, 1, server_round) for server_round in range(1, 21)]
        assert len({tuple(site.name for site in chosen) for chosen in drawn}) > 2


@pytest.mark.usefixtures("without_pictures")
def test_a_fraction_takes_part_and_a_resumed_run_draws_the_same(tmp_path: Path, cache_dir: str) -> None:
    half = ("participation.fraction=0.5", "rounds=6", "checkpoint.every=2", IN_PROCESS)
    printed = run(configuration(tmp_path / "straight", cache_dir, *half), client_app)
    assert printed.split("6/6", 1)[1].split()[6] == "4/4"
    by_round: dict[int, list[str]] = {}
    for line in read_lines(tmp_path / "straight" / "hospitals.jsonl"):
        by_round.setdefault(line["round"], []).append(line["site"])
    assert [len(chosen) for chosen in by_round.values()] == [4] * 6
    assert len({tuple(chosen) for chosen in by_round.values()}) > 1
    # Hospitals that were not asked for rounds go on from their own last round.
    with pytest.raises(HospitalError):
        run(
            configuration(tmp_path / "resumed", cache_dir, *half, "simulation.fail-fast=true"),
            Faults(tmp_path, {(5, int(by_round[5][2][-1])): ("raise", 9)}),
        )
    run(configuration(tmp_path / "resumed", cache_dir, *half, "resume=true"), client_app)
    assert networks(tmp_path / "resumed") == networks(tmp_path / "straight")


def test_more_replies_than_are_asked_for_are_refused(tmp_path: Path, cache_dir: str) -> None:
    with pytest.raises(ConfigurationError, match="participation.min-replies = 3: only 2 of partition.hospitals = 8"):
        configuration(tmp_path, cache_dir, "participation.fraction=0.25", "participation.min-replies=3")


def test_many_hospitals_are_not_all_listed() -> None:
    text = list_sites(sites(1000))
    assert text.startswith("hospital-0 (100 images), hospital-1 (100 images), ")
    assert text.endswith("and 988 more (98,800 images)")


# ---------------------------------------------------------------------- what goes on beside the rounds


def scores(run_dir: Path) -> list[tuple[int, float]]:
    return [(line["round"], line["kid"]) for line in read_lines(run_dir / "metrics.jsonl")]


@pytest.mark.usefixtures("without_pictures")
def test_judging_beside_the_next_round_gives_the_same_scores(tmp_path: Path, cache_dir: str) -> None:
    for overlap in ("never", "always"):
        run(
            configuration(
                tmp_path / overlap,
                cache_dir,
                IN_PROCESS,
                "evaluation.every=1",
                "rounds=4",
                f"evaluation.overlap={overlap}",
            ),
            client_app,
        )
    assert scores(tmp_path / "never") == scores(tmp_path / "always")
    assert networks(tmp_path / "never") == networks(tmp_path / "always")
    for name in ("never", "always"):
        assert RunDirectory(tmp_path / name).checkpoint_rounds() == RunDirectory(tmp_path / "never").checkpoint_rounds()


class Recorder:
    """Keeps reports; ends the run after a round."""

    def __init__(self, last_round: int) -> None:
        self.last_round = last_round
        self.reports: list[RoundReport] = []

    def after_round(self, report: RoundReport) -> str | None:
        self.reports.append(report)
        return "enough" if report.server_round == self.last_round else None


def test_a_callback_sees_each_round_and_may_end_the_run(tmp_path: Path, cache_dir: str) -> None:
    recorder = Recorder(last_round=3)
    common = (IN_PROCESS, "evaluation.every=2", "evaluation.authenticity=true")
    app = Faults(tmp_path, {(2, 5): ("raise", 9)})
    printed = run(configuration(tmp_path / "run", cache_dir, *common, "rounds=9"), app, callbacks=[recorder])
    assert [report.server_round for report in recorder.reports] == [1, 2, 3]
    assert [bool(report.scores) for report in recorder.reports] == [False, True, False]
    assert [len(report.history) for report in recorder.reports] == [1, 2, 2]
    assert recorder.reports[1].left_out == {"hospital-05": "failed"}
    assert "hospital-05" not in recorder.reports[1].accepted
    assert recorder.reports[2].losses.keys() >= {"loss-generator", "loss-discriminator"}
    assert "ended early: enough" in printed
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["rounds"], summary["stopped_early"]) == ("done", 3, "enough")
    # What it ended with is judged, although it was not the turn of round 3, and uploads are there for the judge.
    assert [line["round"] for line in read_lines(tmp_path / "run" / "metrics.jsonl")] == [0, 2, 3]
    assert 0 < summary["authenticity"]["membership"]["upload_largest"]["auc"] < 1
    assert RunDirectory(tmp_path / "run").checkpoint_rounds()[-1] == 3


def lines(*kids: float) -> list[dict[str, float]]:
    return [{"round": 2 * number, "images": 100 * number, "kid": kid} for number, kid in enumerate(kids)]


@pytest.mark.parametrize(
    ("kids", "patience", "min_images", "ends"),
    [
        ((9.0, 3.0, 2.0, 2.1, 2.2), 2, 0, True),
        ((9.0, 3.0, 2.0, 2.1), 2, 0, False),
        ((9.0, 3.0, 2.0, 2.1, 1.9), 2, 0, False),
        ((9.0, 3.0, 2.0, 2.1, 2.2), 2, 401, False),
        ((9.0, 3.0, 2.0, 2.1, 2.2), 0, 0, False),
        ((), 1, 0, False),
    ],
)
def test_early_stopping(kids: tuple[float, ...], patience: int, min_images: int, ends: bool) -> None:
    settings = resolve(
        [parse_assignments([f"early-stopping.patience={patience}", f"early-stopping.min-images={min_images}"])]
    ).early_stopping
    reason = EarlyStopping(settings).reason(lines(*kids))
    assert bool(reason) is ends
    if ends:
        assert reason == "no better KID than 2.0000 of round 4 in 2 evaluations (early-stopping.patience)"


@pytest.mark.usefixtures("without_pictures")
def test_an_early_end_is_the_same_when_resumed(tmp_path: Path, cache_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the last evaluation and before the end: the resumed run ends there too, and trains no further."""
    from server.evaluation.evaluator import Evaluator

    values = iter([5.0, 1.0, 2.0, 3.0])
    evaluate = Evaluator.evaluate

    def falling_then_rising(self: Evaluator, model: object, server_round: int) -> dict[str, object]:
        return evaluate(self, model, server_round) | {"kid": next(values)}  # type: ignore[arg-type]

    monkeypatch.setattr(Evaluator, "evaluate", falling_then_rising)
    settings = (IN_PROCESS, "evaluation.every=1", "early-stopping.patience=2", "rounds=9")

    def die(self: Evaluator) -> dict[str, object]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "final_evaluation", die)
        with pytest.raises(KeyboardInterrupt):
            run(configuration(tmp_path / "run", cache_dir, *settings), client_app)
    assert scores(tmp_path / "run") == [(0, 5.0), (1, 1.0), (2, 2.0), (3, 3.0)]
    # The best is kept beside the newest two.
    assert RunDirectory(tmp_path / "run").checkpoint_rounds() == [1, 3]
    run(configuration(tmp_path / "run", cache_dir, *settings, "resume=true"), client_app)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["rounds"], summary["best_round"], summary["best_checkpoint"]) == (3, 1, 1)
    assert "no better KID than 1.0000 of round 1" in summary["stopped_early"]


def test_work_beside_the_rounds_keeps_its_order_and_ends_the_run_when_it_fails() -> None:
    done: list[int] = []

    def work(number: int) -> Callable[[], None]:
        def append() -> None:
            time.sleep(0.01)
            done.append(number)

        return append

    def fail() -> None:
        raise OSError("disk full")

    background = BackgroundWork()
    for number in range(5):
        background.submit(work(number))
        assert len(done) >= number, "the one before is done"
    background.drain()
    assert done == [0, 1, 2, 3, 4]
    background.submit(fail)
    with pytest.raises(OSError, match="disk full"):
        background.drain()
    background.submit(fail)
    assert str(background.end()) == "disk full"
    assert background.end() is None
