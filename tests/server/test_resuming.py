"""A run goes on with the images that it was started with, wherever they lie now."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import server.benchmark.run
from data_partitions.partition import write_split_csv
from federation.config import Configuration, parse_assignments
from federation.errors import RunDirectoryError
from federation.run_directory import RunDirectory, to_json
from server.benchmark.plan import Cell
from server.inputs import RunInputs, prepare_inputs
from server.resuming import check_directory, check_images
from server.run_state import RunState
from strategies.configuration import resolve


def write_image(path: Path, seed: int) -> None:
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Sixty images of two classes, with a csv."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(60):
        write_image(folder / f"i{number:02d}.png", number)
    rows = [f"i{number:02d}.png,{'nv' if number % 2 else 'mel'}" for number in range(60)]
    (folder / "list.csv").write_text("\n".join(["image,label", *rows]) + "\n")
    return folder


def settings(root: Path, *assignments: str) -> Configuration:
    common = [
        "data.source=folder", f"data.root={root}", f"data.cache-dir={root.parent / 'cache'}", "partition.scheme=iid",
        "partition.hospitals=2", "partition.min-images=1", "simulation.engine=in-process",
    ]  # fmt: skip
    return resolve([parse_assignments([*common, *assignments])])


@pytest.fixture
def started(root: Path, tmp_path: Path) -> tuple[RunDirectory, RunInputs]:
    """What a run has written before its first round."""
    directory = RunDirectory(tmp_path / "run")
    directory.path.mkdir()
    inputs = prepare_inputs(settings(root))
    directory.config.write_text(inputs.configuration.to_toml())
    directory.partition.write_text(to_json(inputs.manifest()))
    directory.environment.write_text(to_json({"packages": {"numpy": "1.26.4", "flwr-datasets": "0.5.0"}}))
    write_split_csv(inputs.index, inputs.parts, inputs.partition, directory.split)
    return directory, inputs


def nothing(root: Path, name: str) -> None:
    """Change nothing."""


def remove(root: Path, name: str) -> None:
    rows = [row for row in (root / "list.csv").read_text().splitlines() if not row.startswith(name)]
    (root / "list.csv").write_text("\n".join(rows) + "\n")


def rename(root: Path, name: str) -> None:
    (root / name).rename(root / "new.png")
    (root / "list.csv").write_text((root / "list.csv").read_text().replace(name, "new.png"))


def draw_anew(root: Path, name: str) -> None:
    write_image(root / name, 99)


def give_another_class(root: Path, name: str) -> None:
    text = (root / "list.csv").read_text()
    (root / "list.csv").write_text(text.replace(f"{name},nv", f"{name},mel"))


CONTENT = "they have the same names and sizes, and another content, class, group or site"


@pytest.mark.parametrize(
    ("part", "change", "expected"),
    [
        ("train", remove, r"training images then and now: hospital-0\d \d+ and \d+ .*; 1 image is gone \(i\d\d\.png\)"),
        ("test", remove, r"started with: 1 image is gone \(i\d\d\.png\)\. Put back what was changed"),
        ("train", rename, r"1 image is gone \(i\d\d\.png\); 1 image is new \(new\.png\)"),
        ("validation", draw_anew, CONTENT),
        (
            "train",
            give_another_class,
            r"training images then and now: hospital-0\d \d+ and \d+ \(mel \d+ and \d+",
        ),
        ("extractor", give_another_class, CONTENT),
    ],
)
def test_changed_images_are_refused_by_what_changed(
    started: tuple[RunDirectory, RunInputs],
    root: Path,
    part: str,
    change: Callable[[Path, str], None],
    expected: str,
) -> None:
    directory, inputs = started
    table = inputs.index.table[inputs.parts == part]
    name = table[table.label == inputs.index.classes.index("nv")].image_id.iloc[0]
    change(root, name)
    with pytest.raises(RunDirectoryError, match=expected) as caught:
        check_images(directory, prepare_inputs(settings(root)))
    assert str(caught.value).endswith("or start a run anew with another --run-dir")


def test_a_finished_cell_of_a_benchmark_is_of_the_same_images(
    started: tuple[RunDirectory, RunInputs], root: Path
) -> None:
    directory, inputs = started
    cell = Cell("fedgan", "iid", "model", 0, settings(root))
    server.benchmark.run.check_images([(cell, directory)], lambda what, done, total: None, print)
    draw_anew(root, inputs.index.table.image_id[0])
    with pytest.raises(RunDirectoryError, match=CONTENT):
        server.benchmark.run.check_images([(cell, directory)], lambda what, done, total: None, print)


def test_images_that_have_moved_are_the_same(
    started: tuple[RunDirectory, RunInputs], root: Path, tmp_path: Path
) -> None:
    directory, inputs = started
    check_images(directory, inputs)
    elsewhere = tmp_path / "elsewhere" / "images"
    shutil.copytree(root, elsewhere)
    shutil.rmtree(root)
    moved = prepare_inputs(settings(elsewhere, "resume=true", f"data.csv={elsewhere / 'list.csv'}"))
    check_images(directory, moved)
    check_directory(directory, moved.configuration, state_of(directory))


def test_the_same_images_divided_otherwise_are_refused(started: tuple[RunDirectory, RunInputs], root: Path) -> None:
    directory, inputs = started
    other = prepare_inputs(settings(root, "partition.seed=1")).partition
    with pytest.raises(RunDirectoryError) as caught:
        check_images(directory, replace(inputs, partition=other))
    assert "images of the same name would be at another hospital or in another part; NumPy and" in str(caught.value)
    assert f"(numpy 1.26.4 then and {np.__version__} here, flwr-datasets 0.5.0 then and " in str(caught.value)


def test_a_partition_that_cannot_be_read_is_named(started: tuple[RunDirectory, RunInputs]) -> None:
    directory, inputs = started
    directory.partition.write_text(directory.partition.read_text()[:100])
    with pytest.raises(RunDirectoryError, match=r"partition.json: cannot be read .*restore it from a copy"):
        check_images(directory, inputs)


def state_of(directory: RunDirectory) -> RunState:
    counts = {"num_images": 0, "num_evaluations": 0, "images_shown": 0.0}
    return RunState(completed_rounds=0, record=None, last_rounds={}, strategy={}, **counts)  # type: ignore[arg-type]


def test_classes_in_another_order_are_refused(started: tuple[RunDirectory, RunInputs], root: Path) -> None:
    directory, _ = started
    other = settings(root, "resume=true", "data.classes=nv,mel")
    with pytest.raises(
        RunDirectoryError, match="data.classes: the run was started with 'mel,nv' and cannot go on with"
    ):
        check_directory(directory, other, state_of(directory))
    with pytest.raises(RunDirectoryError, match="started with: the classes were mel, nv and are nv, mel now"):
        check_images(directory, prepare_inputs(other))


def test_weights_are_not_named_where_the_run_has_kept_its_extractor(
    started: tuple[RunDirectory, RunInputs], root: Path, tmp_path: Path
) -> None:
    """They would be without effect."""
    directory, inputs = started
    weights = f"evaluation.extractor-weights={tmp_path / 'weights.pth'}"
    named = settings(root, "resume=true", f"data.classes={inputs.configuration.data.classes}", weights)
    check_directory(directory, named, state_of(directory))  # the scores name the extractor: those are compared
    directory.extractor.mkdir()
    with pytest.raises(RunDirectoryError, match="evaluation.extractor-weights: the run was started with '' and cannot"):
        check_directory(directory, named, state_of(directory))
