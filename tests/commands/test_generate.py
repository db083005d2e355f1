"""``dermafed generate``: what a person types, sees and finds on disk."""

from __future__ import annotations

import csv
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import ForkServer

from commands.main import _exit_code, cli
from data_partitions.sources import load_index
from federation.config import Configuration, parse_assignments
from federation.models import build_model
from federation.models.drawing import Looks, drawer_of
from federation.models.final import load_final, save_final
from federation.models.stylegan2.step import StyleGAN2
from federation.run_directory import lock_folder
from federation.settings.data import DataSettings
from strategies.configuration import resolve

REPOSITORY = Path(__file__).resolve().parents[2]
HOSPITALS = ("north", "south", "east", "west")
DERMAFED = [sys.executable, "-c", "from commands.main import main; main()"]


def saved(folder: Path, *assignments: str) -> Path:
    """A small generator without training, whose noise is heard."""
    fixed = ["data.classes=nv,mel,bcc", "stylegan2.channel-max=16", "stylegan2.latent-size=16"]
    configuration: Configuration = resolve([parse_assignments([*fixed, *assignments])])
    model = build_model(configuration)
    assert isinstance(model, StyleGAN2)
    with torch.no_grad():
        for layer in model.generator_ema.layers:
            layer.noise_strength.fill_(0.3)  # type: ignore[operator, union-attr]
    looks = Looks(HOSPITALS, ((1.0,), (2.0,), (1.0,), (0.0,))) if model.num_sites else None
    save_final(folder, drawer_of(model, looks), configuration)
    return folder


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What generating needs of a finished run."""
    path = tmp_path_factory.mktemp("run")
    saved(path / "final")
    return path


def generate(*arguments: object) -> int:
    """Run the command in this process and return its exit code: PyTorch need not be imported again."""
    try:
        return _exit_code(lambda: cli(["generate", *map(str, arguments)]))
    except SystemExit as exit_:
        return int(exit_.code or 0)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---------------------------------------------------------------- what it writes


def test_a_process_writes_images_labels_and_nothing_else(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "images"
    arguments = [*DERMAFED, "generate", str(run_dir), "--count", "40", "--seed", "5", "--out", str(out)]
    process = subprocess.run(arguments, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120)
    assert (process.returncode, process.stderr) == (0, "")  # no bar without a terminal
    assert process.stdout == f"wrote 40 images of 32 px to {out}\nlabels: nv 14, mel 13, bcc 13\n"
    assert [path.name for path in out.parent.iterdir()] == ["images"]
    names = [f"{number:06d}.png" for number in range(40)]
    assert sorted(path.name for path in out.iterdir()) == [*names, "labels.csv"]
    rows = [f"{name},{('nv', 'mel', 'bcc')[number % 3]}\n" for number, name in enumerate(names)]
    assert (out / "labels.csv").read_bytes() == "".join(["image,label\n", *rows]).encode()
    expected = load_final(run_dir / "final").generate(40, seed=5).numpy()
    for number, name in enumerate(names):
        with Image.open(out / name) as image:
            assert (image.mode, image.info) == ("RGB", {})
            assert np.array_equal(np.asarray(image), expected[number])

    # This process, another folder of the same run, an empty folder that exists, two threads: the same bytes.
    again = tmp_path / "again"
    again.mkdir()
    assert generate(run_dir / "final", "--count=40", "--seed=5", "--threads=2", f"--out={again}") == 0
    assert content(again) == content(out)
    # Fewer images are the first of more.
    assert generate(run_dir, "--count=33", "--seed=5", f"--out={tmp_path / 'fewer'}") == 0
    fewer = content(tmp_path / "fewer")
    assert content(out)["labels.csv"].startswith(fewer.pop("labels.csv"))
    assert fewer == {name: content(out)[name] for name in names[:33]}
    # Another seed.
    assert generate(run_dir, "--count=33", "--seed=6", f"--out={tmp_path / 'other'}") == 0
    other = content(tmp_path / "other")
    assert not any(other[name] == fewer[name] for name in names[:33])
    assert "labels: nv 11, mel 11, bcc 11\n" in capsys.readouterr().out


def test_classes_and_truncation(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = {}
    for name, options in {
        "all": [],
        "mel": ["--class=mel"],
        "two": ["--class=bcc", "--class=nv"],
        "truncated": ["--truncation=0.5"],
    }.items():
        assert generate(run_dir, "--count=6", *options, f"--out={tmp_path / name}") == 0
        folders[name] = content(tmp_path / name)
    assert capsys.readouterr().out.splitlines()[1::2] == [
        "labels: nv 2, mel 2, bcc 2",
        "labels: mel 6",
        "labels: bcc 3, nv 3",
        "labels: nv 2, mel 2, bcc 2",
    ]
    names = [f"{number:06d}.png" for number in range(6)]
    # Classes in turn: nv mel bcc nv mel bcc; bcc nv bcc nv bcc nv.
    assert [folders["mel"][name] == folders["all"][name] for name in names] == [False, True, False] * 2
    assert [folders["two"][name] == folders["all"][name] for name in names] == [False, False, True, True, False, False]
    assert not any(folders["truncated"][name] == folders["all"][name] for name in names)
    assert folders["truncated"]["labels.csv"] == folders["all"]["labels.csv"]


@pytest.mark.parametrize("conditional", [True, False])
def test_the_images_can_be_fed_back(conditional: bool, tmp_path: Path, cache_dir: str) -> None:
    final = saved(tmp_path / "final", f"model.conditional={str(conditional).lower()}")
    out = tmp_path / "images"
    assert generate(final, "--count=20", f"--out={out}") == 0
    index = load_index(DataSettings(source="folder", root=str(out), cache_dir=cache_dir), resolution=32)
    assert index.notes == ()
    assert index.classes == (("bcc", "mel", "nv") if conditional else ("unlabelled",))
    assert index.table.image_id.tolist() == [f"{number:06d}.png" for number in range(20)]
    found = Counter(index.classes[label] for label in index.labels)
    assert found == ({"nv": 7, "mel": 7, "bcc": 6} if conditional else {"unlabelled": 20})
    with (out / "labels.csv").open() as file:
        labels = {row["image"]: row["label"] for row in csv.DictReader(file)}
    assert [index.classes[label] for label in index.labels] == list(labels.values())
    assert np.array_equal(index.read_image(7), load_final(final).generate(8)[7].numpy())


# ---------------------------------------------------------------- what goes wrong


def test_all_problems_at_once(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "images"
    out.mkdir()
    (out / "holiday.jpg").touch()
    code = generate(
        run_dir, "--count=0", "--seed=-1", "--truncation=nan", "--threads=0", "--device=tpu", f"--out={out}",
        "--class=mel", "--class=df", "--class=akiec", "--hospital=rome",
    )  # fmt: skip
    assert code == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: --count 0: allowed is a whole number >= 1",
        "error: --seed -1: allowed is a whole number >= 0",
        "error: --threads 0: allowed is a whole number >= 1",
        "error: --truncation nan: allowed is a number from 0 (the typical image) to 1 (as learned)",
        "error: --device tpu: allowed is one of auto, cpu, cuda",
        f"error: --out {out}: is not empty; give a new or an empty folder, or remove what it holds",
        "error: --class 'df': this generator knows no such class; its classes are nv, mel, bcc",
        "error: --class 'akiec': this generator knows no such class; its classes are nv, mel, bcc",
        "error: --hospital 'rome': this generator knows no such hospital; its hospitals are north, south, east, west",
    ]
    assert content(out) == {"holiday.jpg": b""}
    assert list(tmp_path.iterdir()) == [out]


def test_images_of_one_hospital(run_dir: Path, tmp_path: Path) -> None:
    assert generate(run_dir, "--count=6", "--class=mel", "--hospital=east", f"--out={tmp_path / 'east'}") == 0
    assert generate(run_dir, "--count=6", "--class=mel", "--hospital=south", f"--out={tmp_path / 'south'}") == 0
    east, south = content(tmp_path / "east"), content(tmp_path / "south")
    assert east.keys() == south.keys()
    assert east["labels.csv"] == south["labels.csv"]
    assert all(east[name] != south[name] for name in east if name.endswith(".png"))


def test_a_generator_that_is_told_no_hospitals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    final = saved(tmp_path / "final", "model.site-embedding=off")
    assert generate(final, "--count=1", "--hospital=east", f"--out={tmp_path / 'images'}") == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: --hospital 'east': this generator is not told hospitals; ask for none, or train a stylegan2 of several "
        "hospitals with model.site-embedding=on",
    ]
    assert not (tmp_path / "images").exists()


def test_wrong_places(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unfinished, file = tmp_path / "unfinished", tmp_path / "file"
    unfinished.mkdir()
    (unfinished / "config.toml").touch()
    file.touch()
    before = sorted(tmp_path.rglob("*"))
    out = tmp_path / "images"
    for arguments, expected in (
        (
            (unfinished, f"--out={out}"),
            f"run directory {unfinished}: has no final/ yet, since the run is not finished; "
            f"finish it with dermafed simulate --resume --run-dir {unfinished}",
        ),
        (
            (tmp_path / "no", f"--out={out}"),
            f"{tmp_path / 'no'}: does not exist; give the directory of a finished run, or its final/ folder",
        ),
        ((run_dir, f"--out={file}"), f"--out {file}: is a file; give a new folder"),
        (
            (run_dir, f"--out={file / 'in'}"),
            f"--out {file / 'in'}: cannot be made (Not a directory); give another --out",
        ),
    ):
        assert generate(*arguments, "--count=1") == 2
        assert capsys.readouterr().err == f"error: {expected}\n"
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_another_process_fills_is_refused_at_once(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "images"
    hidden = tmp_path / ".images.part"
    hidden.mkdir()
    (hidden / "000009.png").touch()  # and was killed: it is not among the next one's images
    descriptor, _ = lock_folder(hidden)
    assert generate(run_dir, "--count=1", f"--out={out}") == 2
    assert capsys.readouterr().err == (
        f"error: --out {out}: another process writes there; wait for its end, or give another --out\n"
    )
    assert sorted(tmp_path.rglob("*")) == [hidden, hidden / "000009.png"]
    os.close(descriptor)
    assert generate(run_dir, "--count=1", f"--out={out}") == 0
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["000000.png", "images", "labels.csv"]


def test_the_working_directory_is_not_replaced(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert generate(run_dir, "--count=1", "--out=.") == 2
    assert capsys.readouterr().err == (
        "error: --out .: is the working directory; give a folder in it, e.g. --out generated\n"
    )


def test_classes_of_a_generator_without(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    final = saved(tmp_path / "final", "model.conditional=false")
    assert generate(final, "--count=1", "--class=mel", f"--out={tmp_path / 'images'}") == 2
    assert capsys.readouterr().err == (
        "error: --class 'mel': this generator was trained without classes; ask for none\n"
    )
    assert not (tmp_path / "images").exists()


def test_weights_of_another_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    final = saved(tmp_path / "final")
    description = final / "model.json"
    description.write_text(description.read_text().replace('"latent-size": 16', '"latent-size": 8'))
    assert generate(final, "--count=1", f"--out={tmp_path / 'images'}") == 2
    errors = capsys.readouterr().err
    assert f"error: {final / 'generator.safetensors'}: mapping.w_mean: found shape (16,), expected (8,)" in errors
    assert not (tmp_path / "images").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(run_dir, "--count=1", "--device=cuda", f"--out={tmp_path / 'images'}") == 2
    assert capsys.readouterr().err == (
        "error: --device cuda: PyTorch finds no GPU on this machine; use --device cpu, or leave it out\n"
    )


def test_a_full_disk_leaves_nothing(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "images"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # bytes in a file; an image has more
    try:
        code = generate(run_dir, "--count=3", f"--out={out}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 1
    assert capsys.readouterr().err.startswith(
        f"failed: --out {out}: cannot be written (File too large); nothing was kept"
    )
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_nothing(fork_server: ForkServer, run_dir: Path, tmp_path: Path) -> None:
    arguments = ["generate", run_dir, "--count", "1000000", "--out", tmp_path / "new" / "images"]
    process = fork_server.start("dermafed", *arguments)
    deadline = time.monotonic() + 100
    while len(list(tmp_path.glob("new/.images.*/*.png"))) < 40:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert not (tmp_path / "new" / "images").exists()  # a reader never sees half of it
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert (process.returncode, printed, errors) == (130, "", "interrupted by SIGINT\n")
    assert list(tmp_path.iterdir()) == []


def test_help_does_not_wait_for_pytorch() -> None:
    program = "import sys, commands.main; print([name for name in ('torch', 'flwr', 'ray') if name in sys.modules])"
    process = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert process.stdout == "[]\n"
