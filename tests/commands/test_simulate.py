"""The command line in real processes: what a person types, sees and finds on disk."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import ForkServer

from federation.metrics.random_filters import RandomFiltersExtractor
from federation.models.final import load_final
from federation.run_directory import read_lines

REPOSITORY = Path(__file__).resolve().parents[2]

# Small enough for seconds, real all the same: hospitals, networks, evaluation.
TINY = [
    "--set=rounds=2",
    "--set=data.phantom-images=400",
    "--set=partition.min-images=1",
    "--set=stylegan2.channel-max=16",
    "--set=stylegan2.latent-size=16",
    "--set=training.local-steps=2",
    "--set=training.batch-size=4",
    "--set=evaluation.every=1",
    "--set=evaluation.images=40",
    "--set=evaluation.utility-steps=10",
    "--set=evaluation.utility-seeds=1",
    "--set=evaluation.draws=2",
    "--set=evaluation.threads=1",
    "--set=checkpoint.every=1",
]

# Without what takes longest of the end, where a test is not about it.
UNJUDGED = ["--set=evaluation.utility=false", "--set=evaluation.authenticity=false"]

# Of another family of models, and with less that is judged.
TINY_VAE = [
    *(argument for argument in TINY if "=stylegan2." not in argument),
    "--set=model.name=vae",
    "--set=vae.channel-max=8",
    "--set=vae.channel-base=32",
    "--set=vae.latent-size=4",
    "--set=partition.scheme=iid",
    "--set=partition.hospitals=2",
    *UNJUDGED,
    "--set=simulation.engine=in-process",
]


def command(*arguments: str, cache_dir: str) -> list[str]:
    return ["run_simulation.py", f"--set=data.cache-dir={cache_dir}", *arguments]


Simulate = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def simulate(fork_server: ForkServer, cache_dir: str) -> Simulate:
    """Run the command line in a process that need not import anything."""
    return lambda *arguments: fork_server.run(*command(*arguments, cache_dir=cache_dir))


def final_bytes(run_dir: Path) -> str:
    return hashlib.sha256((run_dir / "final" / "generator.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, cache_dir: str) -> tuple[Path, str]:
    """One in-process run and what it printed, started as a person does: the others need not import anything."""
    run_dir = tmp_path_factory.mktemp("runs") / "in-process"
    arguments = command(*TINY, "--set=simulation.engine=in-process", f"--run-dir={run_dir}", cache_dir=cache_dir)
    process = subprocess.run(
        [sys.executable, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=300
    )
    assert process.returncode == 0, process.stderr
    return run_dir, process.stdout


def test_what_a_run_prints(finished: tuple[Path, str]) -> None:
    run_dir, printed = finished
    lines = printed.splitlines()
    assert lines[0] == f"run directory: {run_dir}"
    header = next(number for number, line in enumerate(lines) if line.split()[:1] == ["round"])
    assert [line.split()[0] for line in lines[header + 1 : header + 4]] == ["0/2", "1/2", "2/2"]
    assert len({len(line) for line in lines[header : header + 4]}) == 1  # aligned
    assert lines[header + 3].split()[-1] == "4/4"
    assert "done: 2 rounds, 64 images" in printed
    assert f"report: {run_dir / 'report.html'}" in printed


def test_what_a_run_leaves(finished: tuple[Path, str]) -> None:
    run_dir, _ = finished
    assert sorted(path.name for path in run_dir.iterdir()) == [
        "checkpoints",
        "closest-pairs.png",
        "config.toml",
        "environment.json",
        "extractor",
        "final",
        "hospitals",
        "hospitals.jsonl",
        "log.txt",
        "looks.png",
        "metrics.jsonl",
        "partition.json",
        "partition.png",
        "report.html",
        "samples",
        "split.csv",
        "summary.json",
        "tensorboard",
        "upload",
    ]
    with Image.open(run_dir / "looks.png") as looks:
        assert looks.height > 4 * 64  # a row for each hospital
    picture = base64.b64encode((run_dir / "looks.png").read_bytes()).decode()
    assert picture in (run_dir / "report.html").read_text(encoding="utf-8")
    description = json.loads((run_dir / "final" / "model.json").read_text())
    held = json.loads((run_dir / "partition.json").read_text())["hospitals"]
    assert description["looks"] == [
        {
            "hospital": name,
            "weights": [
                round(held[name]["classes"][label] / sum(each["classes"][label] for each in held.values()), 3)
                for label in description["classes"]
            ],
        }
        for name in sorted(held)
    ]
    metrics = read_lines(run_dir / "metrics.jsonl")
    assert [line["round"] for line in metrics] == [0, 1, 2]
    assert [line["images"] for line in metrics] == [0, 32, 64]
    assert all(line["extractor"].startswith("lesion-cnn-32@") for line in metrics)
    assert len({line["kid"] for line in metrics}) == 3
    second = RandomFiltersExtractor.load(run_dir / "extractor")
    assert {line["second_extractor"] for line in metrics} == {second.name}
    assert len({line["second_kid"] for line in metrics}) == 3

    hospitals = read_lines(run_dir / "hospitals.jsonl")
    names = ["coast-practice", "north-clinic", "slide-archive", "university-hospital"]
    assert [line["site"] for line in hospitals] == names * 2
    assert {line["status"] for line in hospitals} == {"ok"}
    assert len({line["worker_pid"] for line in hospitals}) == 1
    assert all(line["bytes_up"] == line["bytes_down"] > 10_000 for line in hospitals)
    partition = (run_dir / "partition.json").read_text()
    split = (run_dir / "split.csv").read_text().splitlines()
    assert split[0] == "image_id,part,hospital"
    assert len(split) == 1 + 400
    assert not any(line.split(",")[0] in partition for line in split[1:])  # ids in split.csv alone
    assert json.loads(partition)["images"] == sum(",train," in line for line in split)

    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["status"] == "done"
    assert summary["kid"] == metrics[-1]["kid"]
    assert summary["kid_floor"] < summary["kid_pca_gaussian"] < summary["kid_mean_image"]
    assert {"kid", "fid", "precision", "density", "recall", "coverage", "vendi"} <= summary["test"].keys()
    # On as many images and by the same extractor, test and validation differ, but not in kind.
    opinion = summary["test"]["second"]
    assert opinion["extractor"] == second.name
    assert opinion["real"]["kid"] < opinion["yardsticks"]["kid_pca_gaussian"] < opinion["kid"]
    assert opinion["kid"] == pytest.approx(metrics[-1]["second_kid"], rel=0.5)
    assert summary["test"]["spectrum"]["to_cycles"][-1] == 16
    assert all(0 < ratio < 10 for ratio in summary["test"]["colours"]["ratio"])
    assert set(metrics[-1]["kid_by_site"]) == set(names)
    real = summary["utility"]["arms"]["real"]["balanced_accuracy"]
    assert 0 <= real["mean"] <= 1
    assert real["interval"] is None, "one seed has no interval"
    assert summary["authenticity"]["extractor"] == metrics[-1]["extractor"]
    # Every hospital gets and sends what it said in its lines.
    assert [entry["up"] for entry in summary["speed"]["bytes"]] == [2 * hospitals[0]["bytes_up"]] * 4
    assert sum(summary["speed"]["shares"].values()) == pytest.approx(1)
    assert (run_dir / "report.html").read_text().startswith("<!doctype html>")
    for number in range(3):
        with Image.open(run_dir / "samples" / f"round-{number:04d}.png") as sheet:
            assert sheet.size[0] > 12 * 64
    final = load_final(run_dir / "final")
    assert final.classes == ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.whole), 2])
def test_ray_gives_the_same_bytes(simulate: Simulate, finished: tuple[Path, str], workers: int, tmp_path: Path) -> None:
    run_dir = tmp_path / "ray"
    process = simulate(*TINY, *UNJUDGED, f"--set=simulation.workers={workers}", f"--run-dir={run_dir}")
    assert process.returncode == 0, process.stderr
    assert final_bytes(run_dir) == final_bytes(finished[0])
    pids = {line["worker_pid"] for line in read_lines(run_dir / "hospitals.jsonl")}
    assert len(pids) == workers
    assert f"{workers} {'worker' if workers == 1 else 'workers'} side by side of " in process.stdout
    assert "% of the bound" in process.stdout
    engine = json.loads((run_dir / "summary.json").read_text())["engine"]
    assert len(engine["utilisation"]) == engine["workers"] == workers
    assert 0 < engine["bound_seconds"] <= engine["round_seconds"]
    kids = [[line["kid"] for line in read_lines(path / "metrics.jsonl")] for path in (run_dir, finished[0])]
    assert kids[0] == kids[1]


def ray_processes(marker: Path) -> list[int]:
    """Return the ids of living Ray processes whose environment holds the marker."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes()
            name = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if b"ray" in name and str(marker).encode() in environment:
            found.append(int(entry.name))
    return found


def test_another_seed_differs(simulate: Simulate, finished: tuple[Path, str], tmp_path: Path) -> None:
    run_dir = tmp_path / "seed"
    process = simulate(*TINY, *UNJUDGED, "--set=seed=1", "--set=simulation.engine=in-process", f"--run-dir={run_dir}")
    assert process.returncode == 0, process.stderr
    assert final_bytes(run_dir) != final_bytes(finished[0])
    # The split, the extractor and so the yardsticks stay: seeds are compared on the same ground.
    summaries = [json.loads((path / "summary.json").read_text()) for path in (run_dir, finished[0])]
    assert summaries[0]["kid_mean_image"] == summaries[1]["kid_mean_image"]
    assert summaries[0]["extractor"] == summaries[1]["extractor"]


def test_resume_refuses_another_configuration(simulate: Simulate, finished: tuple[Path, str]) -> None:
    process = simulate("--resume", f"--run-dir={finished[0]}", "--set=stylegan2.gamma=9")
    assert process.returncode == 2
    assert "stylegan2.gamma: the run was started with 2.0 and cannot go on with 9.0" in process.stderr


@pytest.mark.parametrize(
    ("engine", "number", "code"), [("ray", signal.SIGTERM, 143), ("in-process", signal.SIGINT, 130)]
)
def test_being_asked_to_end_ends_cleanly(
    engine: str, number: int, code: int, fork_server: ForkServer, tmp_path: Path, cache_dir: str
) -> None:
    """By Slurm, docker or kill, or by Ctrl-C; twice, by somebody impatient."""
    run_dir = tmp_path / "interrupted"
    arguments = command(
        *TINY,
        "--set=rounds=500",
        *(["--set=simulation.workers=1"] if engine == "ray" else []),
        f"--set=simulation.engine={engine}",
        f"--run-dir={run_dir}",
        cache_dir=cache_dir,
    )
    environment = {**os.environ, "DERMAFED_TEST_MARKER": str(run_dir)}
    process = fork_server.start(*arguments, env=environment)
    deadline = time.monotonic() + 200
    while not (run_dir / "checkpoints" / "round-0002").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (ray_processes(run_dir) != []) == (engine == "ray")
    process.send_signal(number)
    time.sleep(0.01)
    process.send_signal(number)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert errors == f"interrupted by {signal.Signals(number).name}\n"
    assert f"go on with --resume --run-dir {run_dir}" in printed
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert (run_dir / "checkpoints" / f"round-{summary['rounds']:04d}" / "global.safetensors").exists()
    assert not list(run_dir.rglob(".*"))
    time.sleep(1.0 if engine == "ray" else 0.0)
    assert not ray_processes(run_dir)


def test_dry_run_writes_nothing(simulate: Simulate, tmp_path: Path) -> None:
    run_dir = tmp_path / "dry"
    process = simulate(*TINY, "--dry-run", f"--run-dir={run_dir}")
    assert process.returncode == 0, process.stderr
    assert not run_dir.exists()
    for text in ('classes = "akiec,bcc,bkl,df,mel,nv,vasc"', "extractor", "validation", "university-hospital", "JSD"):
        assert text in process.stdout


def test_unconditional_runs_and_says_what_is_not_measured(
    simulate: Simulate, finished: tuple[Path, str], tmp_path: Path
) -> None:
    run_dir = tmp_path / "unconditional"
    process = simulate(
        *TINY,
        "--set=rounds=1",
        "--set=model.conditional=false",
        "--set=strategy.private=discriminator",
        "--set=simulation.engine=in-process",
        f"--run-dir={run_dir}",
    )
    assert process.returncode == 0, process.stderr
    assert "classifiers: not measured: the generated images bear no class" in process.stdout
    assert load_final(run_dir / "final").classes == ()
    line = read_lines(run_dir / "hospitals.jsonl")[0]
    whole = read_lines(finished[0] / "hospitals.jsonl")[0]
    assert 0 < line["bytes_up"] < 0.8 * whole["bytes_up"]  # the discriminator stayed


@pytest.mark.parametrize("scheme", ["dirichlet", "pathological", "quantity", "iid"])
def test_every_scheme_runs(simulate: Simulate, scheme: str, tmp_path: Path) -> None:
    process = simulate(
        *TINY,
        "--set=rounds=1",
        f"--set=partition.scheme={scheme}",
        "--set=partition.hospitals=3",
        *(["--set=partition.classes-per-hospital=3"] if scheme == "pathological" else []),
        *UNJUDGED,
        "--set=simulation.engine=in-process",
        f"--run-dir={tmp_path / 'run'}",
    )
    assert process.returncode == 0, process.stderr
    assert "hospitals: hospital-0" in process.stdout


def test_one_hospital_pools_all_images(simulate: Simulate, tmp_path: Path) -> None:
    process = simulate(
        *TINY,
        "--set=rounds=1",
        "--set=partition.hospitals=1",
        *UNJUDGED,
        "--set=simulation.engine=in-process",
        f"--run-dir={tmp_path / 'run'}",
    )
    assert process.returncode == 0, process.stderr
    assert "hospitals: all (" in process.stdout


def test_another_family_runs_resumes_draws_and_is_judged(
    simulate: Simulate, fork_server: ForkServer, tmp_path: Path, cache_dir: str
) -> None:
    run_dir = tmp_path / "run"
    process = simulate(*TINY_VAE, "--set=rounds=1", f"--run-dir={run_dir}")
    assert process.returncode == 0, process.stderr
    assert "done: 1 rounds, 16 images" in process.stdout
    header = next(line for line in process.stdout.splitlines() if line.split()[:1] == ["round"])
    assert header.split()[:3] == ["round", "-ELBO", "recon."]
    resumed = simulate("--resume", "--set=rounds=2", f"--run-dir={run_dir}")
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed after round 1" in resumed.stdout
    assert "done: 2 rounds, 32 images" in resumed.stdout
    assert [line["round"] for line in read_lines(run_dir / "metrics.jsonl")] == [0, 1, 2]
    line = read_lines(run_dir / "hospitals.jsonl")[0]
    assert {"loss_negative_elbo", "loss_reconstruction", "loss_divergence"} <= line.keys()
    assert "loss_generator" not in line
    assert json.loads((run_dir / "final" / "model.json").read_text())["model"]["name"] == "vae"

    out = tmp_path / "images"
    drawn = fork_server.run("dermafed", "generate", run_dir / "final", "--count", "5", "--out", out)
    assert (drawn.returncode, drawn.stderr) == (0, "")
    assert drawn.stdout.startswith(f"wrote 5 images of 32 px to {out}\nlabels: akiec 1, ")
    for number, pixels in enumerate(load_final(run_dir).generate(5).numpy()):
        with Image.open(out / f"{number:06d}.png") as image:
            assert (np.asarray(image) == pixels).all()

    figures = tmp_path / "judged.json"
    settings = ("--set=evaluation.authenticity=true", f"--set=data.cache-dir={cache_dir}", "--out", figures)
    judged = fork_server.run("dermafed", "evaluate", run_dir, "--data", "phantom", *settings)
    assert judged.returncode == 0, judged.stderr
    found = json.loads(figures.read_text())
    summary = json.loads((run_dir / "summary.json").read_text())
    assert {name: found[name] for name in summary["test"]} == summary["test"]
    membership = found["authenticity"]["membership"]
    assert 0 < membership["networks"]["auc"] < 1
    # The hospital with the fewest images is audited as the one with the most is.
    held = json.loads((run_dir / "partition.json").read_text())["hospitals"]
    sizes = {name: entry["images"] for name, entry in held.items()}
    for name, size in (("upload_smallest", min(sizes.values())), ("upload_largest", max(sizes.values()))):
        assert 0 < membership[name]["auc"] < 1, membership[name]
        assert sizes[membership[name]["site"]] == size
    assert membership["upload_smallest"]["site"] != membership["upload_largest"]["site"]
    assert membership["score"] == "evidence lower bound"
