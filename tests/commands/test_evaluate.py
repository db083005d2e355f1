"""``dermafed evaluate``: a run, an exported generator, a folder of images."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from commands.main import _exit_code, cli
from commands.simulate import run
from federation.config import parse_assignments
from federation.errors import RunError
from federation.run_directory import read_lines
from server.evaluation.judge import Judge
from strategies.configuration import resolve

REPOSITORY = Path(__file__).resolve().parents[2]
FEW = [
    "evaluation.images=40",
    "evaluation.draws=2",
    "evaluation.threads=1",
    "evaluation.utility-seeds=1",
    "evaluation.utility-steps=10",
]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, cache_dir: str) -> Path:
    """A finished run on generated images."""
    from rich.console import Console

    path = tmp_path_factory.mktemp("evaluated") / "run"
    settings = [
        f"run-dir={path}",
        f"data.cache-dir={cache_dir}",
        "data.phantom-images=400",
        "partition.min-images=1",
        "rounds=1",
        "stylegan2.channel-max=16",
        "stylegan2.latent-size=16",
        "training.local-steps=2",
        "training.batch-size=4",
        "simulation.engine=in-process",
        *FEW,
    ]
    with (path.parent / "out.txt").open("w") as file:
        run(resolve([parse_assignments(settings)]), Console(file=file, width=120))
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, run_dir: Path) -> Path:
    """Images from its generator, with their classes."""
    out = tmp_path_factory.mktemp("images") / "drawn"
    assert call("generate", run_dir, "--count", 140, "--out", out) == 0
    return out


def call(*arguments: object) -> int:
    """Run a command in this process and return its exit code."""
    try:
        return _exit_code(lambda: cli([str(argument) for argument in arguments]))
    except SystemExit as exit_:
        return int(exit_.code or 0)


def evaluate(*arguments: object, cache_dir: str) -> int:
    """Run the command under test, with few images."""
    settings = [f"--set={value}" for value in (f"data.cache-dir={cache_dir}", *FEW)]
    return call("evaluate", *arguments, *settings)


def test_a_run_gets_the_figures_that_it_ended_with(
    run_dir: Path, tmp_path: Path, cache_dir: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "judged.json"
    assert evaluate(run_dir, "--data", "phantom", "--out", out, cache_dir=cache_dir) == 0
    judged, summary = json.loads(out.read_text()), json.loads((run_dir / "summary.json").read_text())
    for name, value in summary["test"].items():
        assert judged[name] == value, name
    assert judged["authenticity"] == summary["authenticity"]
    assert judged["utility"]["arms"] == summary["utility"]["arms"]
    # The run's own settings ask for classifiers; what they take is said there and here.
    cost = "utility: 6 classifiers (6 arms x 1 seeds) of 10 steps each: a"
    assert cost in capsys.readouterr().err
    assert cost in (run_dir.parent / "out.txt").read_text()
    assert judged["extractor"] == read_lines(run_dir / "metrics.jsonl")[-1]["extractor"]
    assert "auc" in judged["authenticity"]["membership"]["networks"]


def test_a_final_folder_alone_gets_the_same_scores_and_says_what_it_lacks(
    run_dir: Path, tmp_path: Path, cache_dir: str
) -> None:
    copy = tmp_path / "exported"
    shutil.copytree(run_dir / "final", copy)
    out = tmp_path / "judged.json"
    arguments = [copy, "--data", "phantom", "--set=data.phantom-images=400", "--out", out]
    assert evaluate(*arguments, cache_dir=cache_dir) == 0
    judged, summary = json.loads(out.read_text()), json.loads((run_dir / "summary.json").read_text())
    # The extractor is trained on the same images with as many threads: it is the same.
    assert judged["extractor"] == summary["extractor"]
    assert judged["kid"] == summary["test"]["kid"]
    assert judged["recall"] == summary["test"]["recall"]
    membership = judged["authenticity"]["membership"]
    assert membership["networks"] == {
        "not_measured": "an exported generator comes without the networks trained beside it; give the run directory"
    }


def test_a_folder_is_judged_by_class_and_compared_with_the_run(
    run_dir: Path, images: Path, tmp_path: Path, cache_dir: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "compared.json"
    arguments = [run_dir, "--data", "phantom", "--compare", images, "--out", out]
    assert evaluate(*arguments, "--set=evaluation.utility=false", cache_dir=cache_dir) == 0
    judged = json.loads(out.read_text())
    other = judged["other"]
    assert other["target"] == str(images)
    assert other["extractor"] == judged["extractor"]
    assert [entry["name"] for entry in other["per_class"]] == ["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"]
    assert other["utility"] == {"not_measured": "evaluation.utility is false"}
    assert judged["comparison"]["kid"]["difference"] == pytest.approx(judged["kid"] - other["kid"])
    printed = capsys.readouterr().out
    assert judged["comparison"]["verdict"] in printed
    assert "first minus second:" in printed


def test_what_needs_no_classifier_is_written_first(
    images: Path, tmp_path: Path, cache_dir: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def dies(*arguments: object) -> None:
        raise RunError("killed while classifiers were trained")

    monkeypatch.setattr(Judge, "_utility", dies)
    out = tmp_path / "judged.json"
    arguments = [images, "--utility", "--data", "phantom", "--out", out, "--set=data.phantom-images=400"]
    assert evaluate(*arguments, cache_dir=cache_dir) == 1
    judged = json.loads(out.read_text())
    assert judged["kid"] is not None
    assert judged["authenticity"]["valid"] in (True, False)
    assert judged["utility"] == judged["gain"] == {"not_measured": "classifiers were not trained to their end"}
    assert f"wrote {out}, all but what classifiers say" in capsys.readouterr().err


def judge_in_a_process(cache_dir: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    settings = [f"--set={value}" for value in (f"data.cache-dir={cache_dir}", "data.phantom-images=400", *FEW)]
    command = [sys.executable, "-c", "from commands.main import main; main()", "evaluate", *map(str, arguments)]
    return subprocess.run(
        [*command, "--data", "phantom", *settings],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_a_process_judges_and_writes_nothing_but_the_file(images: Path, tmp_path: Path, cache_dir: str) -> None:
    out = tmp_path / "judged.json"
    process = judge_in_a_process(cache_dir, images, "--out", out)
    assert process.returncode == 0, process.stderr
    assert f"wrote {out}" in process.stdout
    assert "authenticity" in process.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["judged.json"]
    judged = json.loads(out.read_text())
    assert judged["num_generated"] == 40
    # Classifiers take longest, and nobody has asked for them: it is said what they would take, and how to ask.
    assert judged["utility"] == {"not_measured": "evaluation.utility is false"}
    cost = r"--utility trains 6 classifiers \(6 arms x 1 seeds\) of 10 steps each: a.* of training here"
    assert re.search(f"utility: not asked for; {cost}", process.stderr), process.stderr


@pytest.mark.parametrize("asked", ["--utility", "--set=evaluation.utility=true"])
def test_classifiers_of_a_folder_are_asked_for_at_a_stated_cost(
    images: Path, tmp_path: Path, cache_dir: str, asked: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "judged.json"
    arguments = [images, asked, "--data", "phantom", "--set=data.phantom-images=400", "--out", out]
    assert evaluate(*arguments, cache_dir=cache_dir) == 0
    assert json.loads(out.read_text())["utility"]["num_seeds"] == 1
    said = capsys.readouterr().err
    assert "utility: 6 classifiers (6 arms x 1 seeds) of 10 steps each: a" in said
    assert said.count("--set evaluation.utility=false leaves them out") == 1
    assert "not asked for" not in said


def test_who_says_no_is_told_no_cost(
    images: Path, cache_dir: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measures(*arguments: object) -> None:
        raise AssertionError("a step was timed")

    monkeypatch.setattr(Judge, "_measured_step", measures)
    arguments = [images, "--data", "phantom", "--set=data.phantom-images=400"]
    assert evaluate(*arguments, "--no-utility", cache_dir=cache_dir) == 0
    assert "classifiers: not measured: evaluation.utility is false" in capsys.readouterr().out
    for option, value in (("--no-utility", "true"), ("--utility", "false")):
        assert evaluate(*arguments, option, f"--set=evaluation.utility={value}", cache_dir=cache_dir) == 2
        say = " ".join(capsys.readouterr().err.split())
        assert f"{option} and --set evaluation.utility={value}: they contradict each other" in say


def test_a_run_is_judged_on_its_own_split_wherever_it_stands(
    run_dir: Path, images: Path, tmp_path: Path, cache_dir: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # One hospital in force, four in the run: which images it learned from is known, but not by hospital.
    out = tmp_path / "compared.json"
    arguments = [images, "--data", "phantom", "--compare", run_dir, "--out", out, "--set=data.phantom-images=400"]
    assert evaluate(*arguments, "--set=evaluation.utility=false", cache_dir=cache_dir) == 0
    membership = json.loads(out.read_text())["other"]["authenticity"]["membership"]
    summary = json.loads((run_dir / "summary.json").read_text())
    assert membership["networks"] == summary["authenticity"]["membership"]["networks"]
    reason = "its hospitals held other images than those of the partition that is in force here"
    assert membership["upload_smallest"] == membership["upload_largest"] == {"not_measured": reason}
    capsys.readouterr()
    # Another split would judge it with images that it has learned from.
    assert evaluate(run_dir, "--data", "phantom", "--set=data.split-seed=2", cache_dir=cache_dir) == 2
    assert "images that it would be judged with" in capsys.readouterr().err.replace("\n", " ")


# ---------------------------------------------------------------- bad input


def complaint(capsys: pytest.CaptureFixture[str], *arguments: object, cache_dir: str) -> str:
    assert evaluate(*arguments, cache_dir=cache_dir) == 2
    return capsys.readouterr().err


def test_targets_that_cannot_be_judged(
    run_dir: Path, tmp_path: Path, cache_dir: str, capsys: pytest.CaptureFixture[str]
) -> None:
    say = complaint(capsys, tmp_path / "absent", "--data", "phantom", cache_dir=cache_dir)
    assert "does not exist; give a finished run, its final/ folder, or a folder of images" in say

    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no image" in complaint(capsys, empty, "--data", "phantom", cache_dir=cache_dir)

    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for number in range(20):
        side = 32 if number < 19 else 64
        Image.new("RGB", (side, side), (number, 0, 0)).save(mixed / f"{number:02d}.png")
    say = complaint(capsys, mixed, "--data", "phantom", "--set=data.phantom-images=400", cache_dir=cache_dir)
    assert "images of different sizes, 32x32 (00.png) and 64x64 (19.png)" in say

    odd = tmp_path / "odd"
    odd.mkdir()
    for number in range(20):
        Image.new("RGB", (84, 84), (number, 0, 0)).save(odd / f"{number:02d}.png")
    assert "give --resolution 64" in complaint(capsys, odd, "--data", "phantom", cache_dir=cache_dir)

    unfinished = tmp_path / "unfinished"
    shutil.copytree(run_dir, unfinished)
    (unfinished / "metrics.jsonl").write_text("")
    say = complaint(capsys, unfinished, "--data", "phantom", cache_dir=cache_dir)
    assert "the run never reached its first evaluation" in say
    assert f"dermafed simulate --resume --run-dir {unfinished}" in say
    shutil.copy(run_dir / "metrics.jsonl", unfinished)
    summary = json.loads((run_dir / "summary.json").read_text())
    (unfinished / "summary.json").write_text(json.dumps(summary | {"status": "interrupted"}))
    say = complaint(capsys, unfinished, "--data", "phantom", cache_dir=cache_dir)
    assert "the run is not finished but interrupted" in say
    shutil.rmtree(unfinished / "final")
    assert "the run is not finished" in complaint(capsys, unfinished, "--data", "phantom", cache_dir=cache_dir)


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_judged(
    cache_dir: str, user: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (user / "shared").mkdir(mode=0o555)
    out = user / "shared" / "judged.json"
    assert complaint(capsys, user, "--data", "phantom", "--out", out, cache_dir=cache_dir) == (
        f"error: --out {out}: cannot be written (Permission denied); give another --out\n"
    )


def test_options_that_cannot_be(
    run_dir: Path, images: Path, tmp_path: Path, cache_dir: str, capsys: pytest.CaptureFixture[str]
) -> None:
    say = complaint(capsys, run_dir, "--data", "phantom", "--part", "train", cache_dir=cache_dir)
    assert "--part train: allowed is one of test, validation" in say
    say = complaint(capsys, run_dir, "--data", "phantom", "--out", tmp_path / "a" / "b.json", cache_dir=cache_dir)
    assert f"there is no folder {tmp_path / 'a'}" in say
    say = complaint(capsys, run_dir, "--data", "phantom", "--resolution", "64", cache_dir=cache_dir)
    assert f"--resolution 64: {run_dir} draws 32 px" in say
    say = complaint(capsys, run_dir, "--data", tmp_path / "nowhere", cache_dir=cache_dir)
    assert "there is no such folder" in say
    assert "--data is missing" in complaint(capsys, images, cache_dir=cache_dir)
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"not the published file")
    extractor = ["--set=evaluation.extractor=inception-v3", f"--set=evaluation.extractor-weights={weights}"]
    say = complaint(
        capsys, images, "--data", "phantom", "--set=data.phantom-images=400", *extractor, cache_dir=cache_dir
    )
    assert "it is not loaded" in say
    assert "sha256" in say
