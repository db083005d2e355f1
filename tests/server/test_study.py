"""A study: its runs, its sources of images, its tables, and going on with it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from commands.main import cli
from federation.errors import ConfigurationError
from federation.models.final import FinalGenerator
from server.evaluation.mixes import FIGURES, MIXES
from server.study.judging import figures_of, resampled_name
from server.study.plan import Row, StudyPlan, load_study, make_rows, split_classes
from server.study.results import FIDELITY, KeptRow, StudyResults, sentences
from server.study.supplies import ConditionalSource, PairSource

CONF = Path(__file__).resolve().parents[2] / "conf"
CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
SMALL = """
name = "small"
seeds = [0, 1]
[base]
rounds = 4
training.local-steps = 2
[classifiers.small-cnn]
steps = 5
[tables.both]
settings.partition = { scheme = "iid", hospitals = 3 }
"""


def study_file(folder: Path, text: str = SMALL) -> Path:
    path = folder / "small.toml"
    path.write_text(text)
    return path


def rows_of(path: Path) -> list[Row]:
    plan = load_study(path)
    return make_rows(plan, path, dict.fromkeys(plan.tables, CLASSES))


# The file ----------------------------------------------------------------------------------------------------------


def test_the_runs_that_a_study_asks_for(tmp_path: Path) -> None:
    rows = rows_of(study_file(tmp_path))
    assert len(rows) == 12
    assert [row.seed for row in rows] == [0] * 6 + [1] * 6
    shown = {
        row.key: [
            (
                cell.configuration.strategy.name,
                cell.configuration.partition.hospitals,
                cell.configuration.rounds,
                cell.configuration.training.local_steps,
                cell.configuration.model.conditional,
                cell.configuration.data.only,
            )
            for cell in row.cells
        ]
        for row in rows[:6]
    }
    rest = "akiec,bcc,bkl,df,nv,vasc"
    assert shown == {
        "both--centralised--conditional--seed-0": [("centralised", 1, 4, 6, True, "")],
        "both--centralised--unconditional--seed-0": [
            ("centralised", 1, 2, 6, False, "mel"),
            ("centralised", 1, 2, 6, False, rest),
        ],
        "both--federated--conditional--seed-0": [("fedgan", 3, 4, 2, True, "")],
        "both--federated--unconditional--seed-0": [("fedgan", 3, 2, 2, False, "mel"), ("fedgan", 3, 2, 2, False, rest)],
        "both--alone--conditional--seed-0": [("alone", 3, 4, 2, True, "")],
        "both--alone--unconditional--seed-0": [("alone", 3, 2, 2, False, "mel"), ("alone", 3, 2, 2, False, rest)],
    }
    # Of every row as many images are shown.
    images = {
        sum(
            one.rounds * one.training.local_steps * one.training.batch_size * one.partition.hospitals
            for one in (cell.configuration for cell in row.cells)
        )
        for row in rows
    }
    assert images == {4 * 2 * 8 * 3}


def test_the_published_studies_are_valid() -> None:
    for path in CONF.glob("study-*.toml"):
        plan = load_study(path, ["data.root=/images"] if "ham10000" in path.name else [])
        rows = make_rows(plan, path, dict.fromkeys(plan.tables, CLASSES))
        assert len({row.key for row in rows}) == len(rows) > 5
    ham10000 = load_study(CONF / "study-ham10000.toml", ["data.root=/images"])
    rows = make_rows(ham10000, CONF / "study-ham10000.toml", dict.fromkeys(ham10000.tables, CLASSES))
    assert sum(len(row.cells) for row in rows) == 29
    whole = [row for row in rows if row.table == "three-hospitals"]
    assert {(row.regime, row.kind, row.seed) for row in whole} == {
        (regime, kind, seed)
        for regime in ("centralised", "federated", "alone")
        for kind in ("conditional", "unconditional")
        for seed in (0, 1, 2)
    }


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("seeds = [0, 1]", "", "seeds: is missing; write for example seeds = "),
        ("rounds = 4", "rounds = 3", "rounds = 3: each of a pair of unconditional generators has half of them"),
        ("rounds = 4", "seed = 3", r"\[base\] seed: seeds stands for it"),
        ("rounds = 4", "evaluation.gain = true", r"\[base\] evaluation.gain: the study judges the generators itself"),
        ("rounds = 4", "ronds = 4", "unknown key; the nearest known key is rounds"),
        ("steps = 5", "step = 5", "classifiers.small-cnn.step: unknown key"),
        ("steps = 5", "steps = 5\nseeds = [7]", "seeds: 7 is no seed of a table"),
        ("steps = 5", 'steps = 5\ntables = ["other"]', r"there is no \[tables.other\]"),
        ("[tables.both]", '[tables.both]\nregimes = ["pooled"]', "tables.both.regimes.0 = 'pooled'"),
        ('name = "small"', 'name = "small"\nagainst = "melanoma"', "against: there is no class 'melanoma'"),
        ("[tables.both]", '[tables."a--b"]', "names are letters, digits"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path: Path, before: str, after: str, message: str) -> None:
    assert before in SMALL
    path = study_file(tmp_path, SMALL.replace(before, after))
    with pytest.raises(ConfigurationError) as caught:
        rows_of(path)
    assert any(re.search(message, problem) for problem in caught.value.problems), caught.value.problems


def test_the_class_that_is_told_from_the_rest() -> None:
    plan = StudyPlan.model_validate({"name": "a", "seeds": [0], "classifiers": {}, "tables": {"a": {}}} | _SOME)
    assert split_classes(plan, ("nv", "MEL")) == ("MEL", ("nv",))
    with pytest.raises(ConfigurationError, match="no class is melanoma by its name; name one of a, b"):
        split_classes(plan, ("a", "b"))


_SOME: dict[str, Any] = {"classifiers": {"small-cnn": {"steps": 2}}}


# Where images come from --------------------------------------------------------------------------------------------


class Painter:
    """In a generator's place: every image is of one colour; the red of a conditional one counts classes."""

    def __init__(self, colour: int, classes: tuple[str, ...] = ()) -> None:
        self.colour, self.classes = colour, classes

    def batches(self, count: int, *, class_name: list[str] | None, seed: int, threads: int) -> Iterator[Any]:
        import torch

        drawn = torch.full((count, 4, 4, 3), self.colour, dtype=torch.uint8)
        drawn[:, 0, 0, 1] = torch.arange(count, dtype=torch.int64).to(torch.uint8)
        if class_name is not None:
            drawn[:, 0, 0, 0] = torch.tensor([self.classes.index(name) for name in class_name], dtype=torch.uint8)
        yield from drawn.split(7)


def painter(colour: int, classes: tuple[str, ...] = ()) -> FinalGenerator:
    return Painter(colour, classes)  # type: ignore[return-value]


def test_a_pair_gives_each_label_an_image_of_its_generator_in_order() -> None:
    source = PairSource(painter(10), painter(20), seed=0, threads=1, label=4)
    labels = np.array([4, 0, 1, 4, 5, 6] * 100)
    given, batches = source.draw(labels, "draw 0")
    images = np.concatenate(list(batches))
    assert given is None
    assert images[:, 1, 1, 0].tolist() == np.where(labels == 4, 10, 20).tolist()
    # Each generator's images are taken in their order, none twice.
    for colour, count in ((10, 200), (20, 400)):
        taken = images[images[:, 1, 1, 0] == colour, 0, 0, 1].tolist()
        assert taken == [number % 256 for number in range(count)]
    assert source.of_class(True, 3, "mixes")[:, 1, 1, 0].tolist() == [10, 10, 10]
    assert source.of_class(False, 3, "mixes")[:, 1, 1, 0].tolist() == [20, 20, 20]


def test_a_conditional_generator_is_asked_for_the_rest_as_often_as_there_are_images_of_it() -> None:
    labels = np.repeat([0, 4, 5], [30, 100, 270])
    source = ConditionalSource(painter(10, CLASSES), seed=0, threads=1, label=4, labels=labels)
    assert set(source.of_class(True, 50, "mixes")[:, 0, 0, 0]) == {4}
    rest = source.of_class(False, 2000, "mixes")[:, 0, 0, 0]
    assert set(rest) == {0, 5}
    assert (rest == 0).mean() == pytest.approx(0.1, abs=0.02)


# Tables ------------------------------------------------------------------------------------------------------------


def made_up_row(regime: str, kind: str, seed: int, *, kid: float, area: float, hospitals: int = 1) -> KeptRow:
    """A row whose generators differ by .02 in KID; classifiers gain `area` from every mix, more with the seed."""
    names = [""] if hospitals == 1 else [f"hospital-{number:02d}" for number in range(hospitals)]
    rng = np.random.default_rng(seed)
    generators, resampled = [], {}
    for number, name in enumerate(names):
        mixes = {mix: dict.fromkeys(FIGURES, 0.7 + (0 if mix == "real" else area + seed / 1000)) for mix in MIXES}
        test = {"kid": kid + seed / 100 + 0.02 * number, "second": {"kid": 2 * kid, "real": {"kid": 0.001}}}
        generators.append(
            {
                "hospital": name,
                "test": test | {"real": {"kid": 0.002}},
                "utility": {},
                "mixes": {"small-cnn": mixes},
                "classifiers": {"small-cnn": "slim-cnn-32"},
            }
        )
        shared = rng.normal(0, 0.01, 200)
        for mix, figures in mixes.items():
            for figure, value in figures.items():
                resampled[resampled_name(name, "small-cnn", mix, figure)] = value + shared
    costs = {"seconds": 100.0, "images": 1000, "seconds_per_kimg": 100.0, "bytes": 2_500_000}
    return KeptRow("both", regime, kind, seed, {"costs": costs, "generators": generators}, resampled)


def made_up_results(tmp_path: Path) -> StudyResults:
    rows = []
    for seed in (0, 1, 2):
        rows.append(made_up_row("federated", "conditional", seed, kid=0.5, area=0.05))
        rows.append(made_up_row("centralised", "conditional", seed, kid=0.3, area=-0.05))
        rows.append(made_up_row("alone", "conditional", seed, kid=0.7, area=0.0, hospitals=3))
    return StudyResults(load_study(study_file(tmp_path)), rows, {"both": "mel"})


def test_figures_are_means_over_hospitals_and_seeds(tmp_path: Path) -> None:
    results = made_up_results(tmp_path)
    found = results.figure("both", ("alone", "conditional"), FIDELITY[0])
    assert found is not None
    assert found.values == pytest.approx({0: 0.72, 1: 0.73, 2: 0.74})
    # Student's t of two degrees of freedom, 4.303, times .01 / sqrt 3.
    assert found.interval == pytest.approx((0.73 - 0.02484, 0.73 + 0.02484), abs=1e-4)
    above = results.mix("both", ("federated", "conditional"), "small-cnn", "real+half", "auroc", above_real=True)
    assert above is not None
    assert above.mean == pytest.approx(0.051)
    # What both classifiers owe to the choice of test lesions is not in their difference: seeds alone are.
    assert above.interval is not None
    assert above.interval[0] == pytest.approx(0.051 - 0.0025, abs=1e-3)
    whole = results.mix("both", ("federated", "conditional"), "small-cnn", "real+half", "auroc")
    assert whole is not None
    assert whole.interval is not None
    assert whole.interval[1] - whole.interval[0] > 0.02
    assert figures_of(results.rows[0].record, "small-cnn")["bytes"] == 2_500_000


def test_what_a_table_shows_in_words(tmp_path: Path) -> None:
    said = list(sentences(made_up_results(tmp_path), "both"))
    assert said[0] == (
        "Conditional generators: one place with all images is closer to real images than the federation (KID +0.200 "
        "[+0.200, +0.200] by the first extractor, +0.400 [+0.400, +0.400] by the second extractor)."
    )
    assert said[1].startswith(
        "Conditional generators: the federation is closer to real images than a hospital alone (mean) (KID -0.220"
    )
    federated = next(sentence for sentence in said if "images of the federation" in sentence)
    assert "help in real+class, real+third, real+half (AUROC above real images alone: real+class +0.051 [" in federated
    assert "harm in real+class" in next(sentence for sentence in said if "images of one place" in sentence)
    assert len(said) == 5


def test_one_seed_tells_nothing_apart(tmp_path: Path) -> None:
    rows = [row for row in made_up_results(tmp_path).rows if row.seed == 0]
    results = StudyResults(load_study(study_file(tmp_path)), rows, {"both": "mel"})
    assert next(iter(sentences(results, "both"))) == (
        "Conditional generators: with one seed the federation and one place with all images cannot be told apart (KID "
        "+0.200 by the first extractor, +0.400 by the second extractor)."
    )


# The command -------------------------------------------------------------------------------------------------------


def test_a_study_that_is_not_there() -> None:
    result = CliRunner().invoke(cli, ["study", "absent.toml"])
    assert isinstance(result.exception, ConfigurationError)
    assert "absent.toml: cannot be read (No such file or directory)" in str(result.exception)


@pytest.mark.whole
def test_the_whole_road_of_a_study(tmp_path: Path, cache_dir: str) -> None:
    """Every run, every row, every table; then again without a single run, from what would be committed."""
    command = ["study", str(CONF / "study-smoke.toml"), "--out", str(tmp_path / "out")]
    command += ["--set", f"data.cache-dir={cache_dir}"]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    rows = sorted(path.stem for path in (tmp_path / "out" / "rows").glob("*.json"))
    assert len(rows) == 6
    before = {name: (tmp_path / "out" / name).read_bytes() for name in ("raw.csv", "tables.md", "tables.html")}
    shutil.rmtree(tmp_path / "out" / "cells")
    result = CliRunner().invoke(cli, [*command, "--resume"])
    assert result.exit_code == 0, result.output
    assert "every row is judged: no image is read" in result.output
    assert {name: (tmp_path / "out" / name).read_bytes() for name in before} == before
    record = json.loads((tmp_path / "out" / "rows" / f"{rows[0]}.json").read_text())
    assert len(record["generators"]) == 2
    result = CliRunner().invoke(cli, [*command, "--resume", "--set", "training.batch-size=16"])
    assert "conditional: training.batch-size was 8 and is 16 now" in str(result.exception)
