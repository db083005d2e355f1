"""A study: its runs, its sources of images, its tables, and going on with it."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from commands.main import cli
from data_partitions.holdings import find_holdings
from federation.config import Configuration
from federation.errors import ConfigurationError, NotFiniteError, RunDirectoryError
from federation.models.final import FinalGenerator
from server.benchmark.cells import CellRunner, Outcome
from server.evaluation.mixes import FIGURES, MIXES
from server.study import judging
from server.study.judging import JudgedRow, TableJudge, figures_of, judging_configuration, resampled_name
from server.study.plan import Row, StudyPlan, load_study, make_rows, split_classes, table_configuration
from server.study.results import COSTS, FIDELITY, KeptRow, StudyResults, sentences
from server.study.run import Voice, _facts, _Study, resume_command, run_study
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
steps = 10
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
        ("steps = 10", "step = 10", "classifiers.small-cnn.step: unknown key"),
        ("steps = 10", "steps = 10\nseeds = [7]", "seeds: 7 is no seed of a table"),
        ("steps = 10", 'steps = 10\ntables = ["other"]', r"there is no \[tables.other\]"),
        ("[tables.both]", '[tables.both]\nregimes = ["pooled"]', "tables.both.regimes.0 = 'pooled'"),
        ('name = "small"', 'name = "small"\nagainst = "melanoma"', "against: there is no class 'melanoma'"),
        ("[tables.both]", '[tables."a--b"]', "names are letters, digits"),
        # What would be without effect, or would set rows apart by more than a table says.
        ("steps = 10", "", r"classifiers.small-cnn.steps: is missing; write for example steps = 300"),
        ("steps = 10", "steps = 9", r"classifiers.small-cnn.steps = 9: Input should be greater than or equal to 10"),
        ("steps = 10", "steps = 10\nseeds = []", r"\[classifiers.small-cnn\]: no row is of its tables, regimes and"),
        ("[tables.both]", '[tables.both]\nregimes = ["alone", "alone"]', r"regimes = .*: each stands there once"),
        (
            "[tables.both]",
            '[tables.both]\nkinds = ["conditional", "conditional"]',
            r"kinds = .*: each stands there once",
        ),
        ("rounds = 4", 'rounds = 4\nstrategy.name = "alone"', r"strategy.name = 'alone': regimes stands for it"),
        ("training.local-steps = 2", "training.local-epochs = 1.0", "every row shows as many images; set training.loc"),
        ("rounds = 4", "rounds = 4\nearly-stopping.patience = 1", "early-stopping.patience: every row shows as many"),
        ("rounds = 4", 'rounds = 4\nevaluation.utility-yardsticks = ""', "the study has arms of its own"),
        (
            "rounds = 4",
            'rounds = 4\nevaluation.utility-weights = "a"',
            r"no \[classifiers.efficientnet-b2\] reads them",
        ),
        (
            "[tables.both]",
            "[kinds.conditional]\ndata.split-seed = 1\n[tables.both]",
            "is alike for all kinds; set it in",
        ),
        ("[tables.both]", "[kinds.conditional]\nrounds = 8\n[tables.both]", "seed-0 would show 384 images and both--c"),
        (
            "[tables.both]",
            '[kinds.unconditional]\nstylegan2.channel-max = 32\n[tables.both]\nkinds = ["conditional"]',
            r"\[kinds.unconditional\]: no table has such generators",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path: Path, before: str, after: str, message: str) -> None:
    assert before in SMALL
    path = study_file(tmp_path, SMALL.replace(before, after))
    with pytest.raises(ConfigurationError) as caught:
        rows_of(path)
    assert any(re.search(message, problem) for problem in caught.value.problems), caught.value.problems


def test_what_a_classifier_is_not_trained_for_is_named(tmp_path: Path) -> None:
    """Seed 1 is a seed of the study, but of none of the rows that are left."""
    more = 'seeds = [0, 1]\ntables = ["other"]\n[tables.other]\nseeds = [0]\nregimes = ["federated"]\n'
    text = SMALL.replace("steps = 10", f"steps = 10\n{more}")
    with pytest.raises(
        ConfigurationError, match=r"small-cnn\] seeds: 1 has no row that it is trained for; leave it out"
    ):
        load_study(study_file(tmp_path, text))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("seed=3", "--set seed: seeds stands for it"),
        ("strategy.name=centralised", "--set strategy.name = 'centralised': regimes stands for it"),
        ("data.root=/images", "--set data.root: every table is of generated images; leave it out"),
    ],
)
def test_what_cannot_be_set_for_all_runs(tmp_path: Path, given: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_study(study_file(tmp_path, SMALL.replace("rounds = 4", 'rounds = 4\ndata.source = "phantom"')), [given])


@pytest.mark.parametrize("partition", ["iid", "dirichlet", "prevalence"])
def test_a_hospital_holds_the_same_images_of_a_class_in_every_row(tmp_path: Path, partition: str) -> None:
    rows = rows_of(study_file(tmp_path, SMALL.replace("iid", partition)))
    held: dict[str, dict[str, set[int]]] = {}
    for cell in (cell for row in rows if row.regime == "alone" and row.seed == 0 for cell in row.cells):
        settings = cell.configuration
        settings = settings.with_values({"partition.min-images": 1})
        found = find_holdings(settings.data, settings.partition, 32).partition
        held[cell.model] = {name: set(rows.tolist()) for name, rows in found.rows.items()}
    assert len(held["conditional"]) == 3
    for name, whole in held["conditional"].items():
        assert held["melanoma"][name] | held["rest"][name] == whole
        assert not held["melanoma"][name] & held["rest"][name]
        assert held["melanoma"][name]


def test_the_class_that_is_told_from_the_rest() -> None:
    plan = StudyPlan.model_validate({"name": "a", "seeds": [0], "classifiers": {}, "tables": {"a": {}}} | _SOME)
    assert split_classes(plan, ("nv", "MEL")) == ("MEL", ("nv",))
    with pytest.raises(ConfigurationError, match="no class is melanoma by its name; name one of a, b"):
        split_classes(plan, ("a", "b"))


_SOME: dict[str, Any] = {"classifiers": {"small-cnn": {"steps": 10}}}


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


def test_the_same_values_have_the_same_interval_in_every_row(tmp_path: Path) -> None:
    """Real images alone are the same classifiers, whoever made the images of the other mixes."""
    results = made_up_results(tmp_path)
    found = [
        results.mix("both", (regime, "conditional"), "small-cnn", mix, "auroc", above_real=above)
        for regime, mix, above in (
            ("federated", "real", False),
            ("centralised", "real", False),
            ("federated", "real+half", True),
            ("federated", "synthetic", True),
        )
    ]
    intervals = [figure.interval for figure in found if figure is not None and figure.interval is not None]
    assert intervals[0] == intervals[1]
    assert intervals[2] == intervals[3]
    # Seeds alone differ there, by a thousandth each: Student's interval of 2 degrees of freedom, and not chance's.
    assert intervals[2] == pytest.approx((0.051 - 0.002484, 0.051 + 0.002484), abs=2e-4)


def test_an_amount_is_not_below_nought(tmp_path: Path) -> None:
    results = made_up_results(tmp_path)
    for seed, seconds in enumerate((100.0, 100.0, 700.0)):
        results.of("both", ("federated", "conditional"))[seed].record["costs"]["seconds"] = seconds
    found = results.figure("both", ("federated", "conditional"), COSTS[0])
    assert found is not None
    assert found.interval is not None
    assert found.interval[0] == 0.0


def test_one_seed_tells_nothing_apart(tmp_path: Path) -> None:
    rows = [row for row in made_up_results(tmp_path).rows if row.seed == 0]
    results = StudyResults(load_study(study_file(tmp_path)), rows, {"both": "mel"})
    # Classifiers gain .05 in every resampled set; those of another seed need not.
    assert list(sentences(results, "both"))[3].startswith(
        "mel against the rest, small-cnn, images of the federation, conditional: with one seed it cannot be told if "
        "synthetic images beside real ones help (AUROC above real images alone: real+class +0.050 [+0.050, +0.050]"
    )
    assert next(iter(sentences(results, "both"))) == (
        "Conditional generators: with one seed the federation and one place with all images cannot be told apart (KID "
        "+0.200 by the first extractor, +0.400 by the second extractor)."
    )


# The command -------------------------------------------------------------------------------------------------------


def test_a_study_that_is_not_there() -> None:
    result = CliRunner().invoke(cli, ["study", "absent.toml"])
    assert isinstance(result.exception, ConfigurationError)
    assert "absent.toml: cannot be read (No such file or directory)" in str(result.exception)


# Going on ----------------------------------------------------------------------------------------------------------


SILENT = Voice(lambda line: None, lambda done, total, running: None, lambda what, done, total: None)


class Kept:
    """A study of which every row was judged, as it lies in its folder."""

    def __init__(self, folder: Path) -> None:
        self.path, self.folder = study_file(folder), folder / "out"
        self.rows = rows_of(self.path)
        self.said: list[str] = []
        voice = Voice(self.said.append, SILENT.show, SILENT.prepare)
        runner = CellRunner(self.folder / "cells", 1, voice.say, voice.show)
        self.study = _Study(load_study(self.path), self.folder, {}, {"both": "mel"}, runner, voice)
        (self.folder / "rows").mkdir(parents=True)
        (self.folder / "study.toml").write_text(self.path.read_text())
        facts = {"classes": {"both": CLASSES}, "date": "2026-01-01", "cores": 2, "processor": "a", "device": "cpu"}
        (self.folder / "environment.json").write_text(json.dumps(facts | {"command": "dermafed study small.toml"}))
        for row in self.rows:
            hospitals = 3 if row.regime == "alone" else 1
            made_up = made_up_row(row.regime, row.kind, row.seed, kid=0.5, area=0.0, hospitals=hospitals)
            made_up.record["generators"][0]["test"]["extractor"] = "lesion-cnn-32@aaaa"
            self.study._keep(row, JudgedRow(dict(made_up.record), dict(made_up.resampled)))

    def go_on(self) -> None:
        run_study(self.path, self.folder, resume=True, jobs=1, voice=SILENT)

    def file(self, number: int, suffix: str = ".json") -> Path:
        return self.folder / "rows" / f"{self.rows[number].key}{suffix}"


def test_tables_are_made_again_from_what_is_kept(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.go_on()
    assert "# small" in (kept.folder / "tables.md").read_text()
    assert len((kept.folder / "raw.csv").read_text().splitlines()) > 100


def damage_settings(kept: Kept) -> str:
    path = kept.file(0)
    path.write_text(
        json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != "costs"})
    )
    return "is damaged (without costs); put it back from a copy, or remove "


def damage_figures(kept: Kept) -> str:
    path = kept.file(0, ".npz")
    with np.load(path) as sets:
        fewer = {name: sets[name] for name in sets.files[1:]}
    np.savez_compressed(path, **fewer)
    return "real|f1 is not a file in the archive"


def cut(suffix: str) -> Callable[[Kept], str]:
    def damage(kept: Kept) -> str:
        path = kept.file(3, suffix)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return f"remove {kept.file(3)} to judge anew"

    return damage


def remove_figures(kept: Kept) -> str:
    kept.file(2, ".npz").unlink()
    return f"No such file or directory: '{kept.file(2, '.npz')}'); put it back, or remove {kept.file(2)} to judge anew"


@pytest.mark.parametrize("damage", [cut(".json"), cut(".npz"), remove_figures, damage_settings, damage_figures])
def test_a_damaged_row_is_named_before_anything_runs(tmp_path: Path, damage: Callable[[Kept], str]) -> None:
    kept = Kept(tmp_path)
    message = damage(kept)
    with pytest.raises(RunDirectoryError) as caught:
        kept.go_on()
    assert message in str(caught.value)
    assert not (kept.folder / "tables.md").exists()


def test_a_finished_run_without_its_generator_is_named(tmp_path: Path) -> None:
    """As in a fresh clone: weights are not committed."""
    kept = Kept(tmp_path)
    kept.file(1).unlink()
    directory = kept.study.runner.directory(kept.rows[1].cells[0]).path
    directory.mkdir(parents=True)
    (directory / "summary.json").write_text('{"status": "done"}')
    with pytest.raises(
        RunDirectoryError, match=r"final: is missing, its run is finished and its row is not judged; put"
    ):
        kept.study.check(kept.rows)


def test_rows_of_other_judges_are_not_put_beside_each_other(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.study.check(kept.rows)
    row = kept.rows[0]
    made_up = made_up_row(row.regime, row.kind, row.seed, kid=0.5, area=0.0)
    for what, entry in (("extractor", made_up.record["generators"][0]["test"]), ("classifier small-cnn", None)):
        if entry is not None:
            entry["extractor"] = "lesion-cnn-32@bbbb"
        else:
            made_up.record["generators"][0]["test"]["extractor"] = "lesion-cnn-32@aaaa"
            made_up.record["generators"][0]["classifiers"]["small-cnn"] = "another"
        with pytest.raises(
            RunDirectoryError, match=f"its {what} was .* and here it is .*: the rows could not be compared"
        ):
            kept.study._keep(row, JudgedRow(dict(made_up.record), dict(made_up.resampled)))


def test_a_classifier_that_diverges_costs_its_row_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept(tmp_path)
    kept.file(0).unlink()
    kept.file(1).unlink()
    kept.study._kept = {}
    runner = kept.study.runner
    monkeypatch.setattr(runner, "run", lambda cells: [Outcome(cell, runner.directory(cell), {}) for cell in cells])

    def judge(row: Row) -> JudgedRow:
        if row.key == kept.rows[0].key:
            raise NotFiniteError("the loss is not finite")
        made_up = made_up_row(row.regime, row.kind, row.seed, kid=0.5, area=0.0)
        made_up.record["generators"][0]["test"]["kid"] = None
        return JudgedRow(dict(made_up.record), dict(made_up.resampled))

    monkeypatch.setattr(kept.study, "_judge", judge)
    assert kept.study.run(kept.rows) == [kept.rows[0].key]
    assert kept.file(1).is_file()
    assert kept.said[-2:] == [
        f"{kept.rows[0].key} could not be judged: the loss is not finite",
        f"judged {kept.rows[1].key}: KID –",
    ]


def test_a_table_that_comes_later_needs_no_image_at_the_end(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    facts = json.loads((kept.folder / "environment.json").read_text())
    (kept.folder / "environment.json").write_text(json.dumps(facts | {"classes": {"another": ["a"]}}))
    _facts(kept.path, [], kept.folder, 1, {"both": CLASSES})
    kept.go_on()
    assert json.loads((kept.folder / "environment.json").read_text())["classes"] == {
        "another": ["a"],
        "both": list(CLASSES),
    }


def test_who_interrupts_while_rows_are_judged_is_told_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(tmp_path)

    def run(self: _Study, rows: list[Row]) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(_Study, "run", run)
    voice = Voice(kept.said.append, SILENT.show, SILENT.prepare)
    given = ["data.cache-dir=/a b"]
    with pytest.raises(KeyboardInterrupt):
        run_study(kept.path, kept.folder, assignments=given, resume=True, jobs=1, voice=voice)
    typed = f"dermafed study {kept.path} --out {kept.folder} --set 'data.cache-dir=/a b' --resume"
    assert kept.said[-1] == f"interrupted; go on with {typed}"
    assert resume_command(kept.path, kept.folder, given) == typed


def test_classifiers_of_all_classes_are_trained_where_the_small_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = load_study(study_file(tmp_path, SMALL.replace("steps = 10", 'steps = 10\nregimes = ["federated"]')))
    configuration = judging_configuration(table_configuration(plan, tmp_path, "both"), plan)
    asked = []

    @dataclasses.dataclass
    class Inputs:
        configuration: Configuration

    class Listening:
        def __init__(self, inputs: Inputs, *others: object, **more: object) -> None:
            asked.append((inputs.configuration.evaluation.utility, inputs.configuration.evaluation.utility_steps))

    judge = TableJudge.__new__(TableJudge)
    vars(judge).update(
        inputs=Inputs(configuration), plan=plan, extractor=None, second=None, device="cpu", progress=None
    )
    monkeypatch.setattr(judging, "Judge", Listening)
    monkeypatch.setattr(judging, "costs", lambda row, directories: {})
    monkeypatch.setattr(TableJudge, "_sources", lambda self, row, finals: iter(()))
    for row in rows_of(tmp_path / "small.toml")[:6:2]:
        judge.judge(row, [])
    assert asked == [(False, 10), (True, 10), (False, 10)]


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


def test_the_published_tables_are_made_again_without_an_image(tmp_path: Path) -> None:
    published = CONF.parent / "docs" / "study-ham10000"
    with tarfile.open(published / "rows.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    shutil.copy(published / "environment.json", tmp_path)
    (tmp_path / "study.toml").touch()
    command = ["study", str(CONF / "study-ham10000.toml"), "--set", "data.root=PATH", "--out", str(tmp_path)]
    result = CliRunner().invoke(cli, [*command, "--resume"])
    assert result.exit_code == 0, result.output
    for name in ("raw.csv", "tables.md", "tables.html"):
        assert (tmp_path / name).read_bytes() == (published / name).read_bytes(), name
