"""A study from its file to its tables."""

from __future__ import annotations

import contextlib
import json
import shlex
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_partitions.wording import counted
from federation.config import with_new_names
from federation.errors import NotFiniteError, RunDirectoryError
from federation.models.classifier import Progress
from federation.models.efficientnet import find_imagenet_weights
from federation.models.final import DESCRIPTION
from federation.run_directory import RunDirectory, read_json, to_json, write_text, written_atomically
from server.benchmark.archive import CELL_FILES, CELLS, ENVIRONMENT
from server.benchmark.cells import CellRunner, comparable
from server.benchmark.plan import Cell
from server.benchmark.run import check_images, default_jobs
from server.environment import describe_environment
from server.evaluation.threads import use_threads
from server.inputs import RunInputs, prepare_inputs
from server.study.judging import JudgedRow, TableJudge, judged_by, judging_configuration, names_of_resampled
from server.study.page import markdown, render_page
from server.study.plan import Row, StudyPlan, load_study, make_rows, plan_text, split_classes, table_configuration
from server.study.results import KeptRow, StudyResults

PLAN, ROWS = "study.toml", "rows"
TABLES = ("raw.csv", "tables.md", "tables.html")
_HEAD = "# What is committed of a study, after each row if need be: git add the folder. The rest stays here."


@dataclass(frozen=True)
class FinishedStudy:
    """A study that has run to its end."""

    results: StudyResults
    folder: Path
    failed: list[str]
    """Rows that were not judged since a run of theirs, or a classifier, failed."""


@dataclass(frozen=True)
class Voice:
    """How a study is heard of."""

    say: Callable[[str], None]
    """Called with lines for a person."""
    show: Callable[[int, int, list[str]], None]
    """Called often with runs that are done, of how many, and what is running."""
    prepare: Progress
    """Called while images are read and generators judged."""


def run_study(
    path: Path, folder: Path, *, assignments: Sequence[str] = (), resume: bool, jobs: int, voice: Voice
) -> FinishedStudy:
    """Train what is not trained, judge what is not judged; write the tables.

    Parameters
    ----------
    path
        The study's file.
    folder
        Where everything goes.
    assignments
        ``KEY=VALUE`` for every run.
    resume
        Whether the folder may hold a part of this study already.
    jobs
        Runs, and classifiers, side by side; 0: as many as there are cores for.
    voice
        How it is heard of.

    Raises
    ------
    InputError
        If anything is wrong with the file, a run's settings or its images; nothing was written then.
    """
    plan = load_study(path, assignments)
    directory = RunDirectory(folder, "--out")
    if resume and not (folder / PLAN).is_file():
        raise RunDirectoryError(f"--out {folder}: holds no study to go on with; leave --resume out to start one there")
    with directory.taken(resume=resume):
        if directory.note:
            voice.say(directory.note)
        kept = _classes_of_finished(plan, path, folder)
        inputs = {} if kept else {name: _inputs(plan, path, name, voice) for name in plan.tables}
        classes = kept or {name: found.index.classes for name, found in inputs.items()}
        against = {name: split_classes(plan, names)[0] for name, names in classes.items()}
        rows = make_rows(plan, path, classes)
        jobs = jobs or default_jobs([cell for row in rows for cell in row.cells])
        study = _Study(plan, folder, inputs, against, CellRunner(folder / CELLS, jobs, voice.say, voice.show), voice)
        study.check(rows)
        _begin(plan, folder)
        facts = _facts(path, assignments, folder, jobs, classes)
        voice.say(
            "every row is judged: no image is read, and the tables are made again" if kept else _describe(rows, jobs)
        )
        with _saying_how_to_go_on(resume_command(path, folder, assignments), voice.say):
            failed = study.run(rows)
        return _finish(plan, folder, rows, against, failed, facts)


def _classes_of_finished(plan: StudyPlan, path: Path, folder: Path) -> dict[str, Sequence[str]]:
    """Return the classes of each table where every row was judged: the tables are then made without an image."""
    facts = folder / ENVIRONMENT
    if not facts.is_file():
        return {}
    classes: dict[str, Sequence[str]] = read_json(facts).get("classes", {})
    rows = make_rows(plan, path, dict.fromkeys(plan.tables, ()))
    is_done = plan.tables.keys() <= classes.keys() and all(row_path(folder, row).is_file() for row in rows)
    return {name: classes[name] for name in plan.tables} if is_done else {}


def _inputs(plan: StudyPlan, path: Path, table: str, voice: Voice) -> RunInputs:
    configuration = judging_configuration(table_configuration(plan, path, table), plan)
    found = prepare_inputs(configuration, voice.prepare)
    for note in found.notes:
        voice.say(f"data of {table}: {note}")
    return found


class _Study:
    """The rows of a study, and what is known of each."""

    def __init__(
        self,
        plan: StudyPlan,
        folder: Path,
        inputs: Mapping[str, RunInputs],
        against: Mapping[str, str],
        runner: CellRunner,
        voice: Voice,
    ) -> None:
        self.plan, self.folder, self.inputs, self.against = plan, folder, inputs, against
        self.runner, self.voice = runner, voice
        self._judges: dict[str, TableJudge] = {}
        self._kept: dict[str, KeptRow] = {}

    def check(self, rows: Sequence[Row]) -> None:
        """Refuse to go on where a row is damaged, or was judged, or a run begun, with other settings or images.

        All of it now, and not after hours of training.
        """
        self._kept = {}
        problems: list[str] = []
        for row in rows:
            kept = read_row(self.folder, row)
            if kept is not None:
                self._kept[row.key] = kept
                problems += _differences(row_path(self.folder, row), kept.record["settings"], self._settings(row))
        if problems:
            more = len(problems) - 8
            raise RunDirectoryError(problems[:8] + ([f"and {more} more like these"] if more > 0 else []))
        pending = [row for row in rows if row.key not in self._kept]
        cells = [cell for row in pending for cell in row.cells]
        self.runner.check(cells)
        self._check_generators(cells)
        self._check_weights(pending)
        if cells:
            check_images([(cell, self.runner.directory(cell)) for cell in cells], self.voice.prepare, lambda note: None)

    def _check_generators(self, cells: Sequence[Cell]) -> None:
        """Refuse finished runs without their generators, which are not committed: nothing could be judged."""
        directories = [self.runner.directory(cell) for cell in cells if self.runner.is_done(cell)]
        problems = [
            f"{directory.final}: is missing, its run is finished and its row is not judged; put it back from where it "
            f"was trained, or remove {directory.path} to train anew"
            for directory in directories
            if not (directory.final / DESCRIPTION).is_file()
        ]
        if problems:
            raise RunDirectoryError(problems)

    def _check_weights(self, pending: Sequence[Row]) -> None:
        """Refuse weights of EfficientNet-B2 that are named and are not there, or not the published ones."""
        asked = self.plan.classifiers.get("efficientnet-b2")
        for table in {row.table for row in pending if asked and asked.concerns(row.table, row.regime, row.seed)}:
            settings = self.inputs[table].configuration.evaluation
            find_imagenet_weights(settings.utility_weights, allow_downloads=settings.allow_downloads)

    def run(self, rows: Sequence[Row]) -> list[str]:
        """Train and judge, all of one seed before the next; return the rows that could not be judged."""
        failed = []
        for table in dict.fromkeys(row.table for row in rows if row.key not in self._kept):
            if any(kept.table == table for kept in self._kept.values()):
                self._judge_of(table)  # that it is another one must show now
        for seed in dict.fromkeys(row.seed for row in rows):
            pending = [row for row in rows if row.seed == seed and not row_path(self.folder, row).is_file()]
            outcomes = {
                outcome.cell.key: outcome for outcome in self.runner.run(cell for row in pending for cell in row.cells)
            }
            for row in pending:
                if any(outcomes[cell.key].summary is None for cell in row.cells):
                    failed.append(row.key)
                    continue
                try:
                    judged = self._judge(row)
                except NotFiniteError as error:
                    self.voice.say(f"{row.key} could not be judged: {error}")
                    failed.append(row.key)
                    continue
                self._keep(row, judged)
        return failed

    def _judge(self, row: Row) -> JudgedRow:
        judge = self._judge_of(row.table)
        return judge.judge(row, [self.runner.directory(cell) for cell in row.cells])

    def _judge_of(self, table: str) -> TableJudge:
        """Return the judge of a table, made once."""
        if table not in self._judges:
            use_threads(1)
            judge = TableJudge(
                self.inputs[table],
                self.plan,
                self.against[table],
                threads=self.runner.jobs,
                progress=self.voice.prepare,
            )
            self.voice.say(f"extractor of {table}: {judge.sentence}")
            self._check_same_judge(table, {"extractor": judge.extractor.name, "second extractor": judge.second.name})
            self._judges[table] = judge
        return self._judges[table]

    def _check_same_judge(self, table: str, found: Mapping[str, str]) -> None:
        """Refuse to put rows beside each other that were judged by other networks.

        Raises
        ------
        RunDirectoryError
            Naming both.
        """
        for key, kept in self._kept.items():
            before = judged_by(kept.record)
            for what, name in found.items():
                if kept.table == table and before.get(what, name) != name:
                    raise RunDirectoryError(
                        f"{self.folder / ROWS / key}.json: its {what} was {before[what]}, and here it is {name}: the "
                        "rows could not be compared. What is trained here differs from machine to machine: go on "
                        "where the rows were judged, or remove them to judge anew"
                    )

    def _keep(self, row: Row, judged: JudgedRow) -> None:
        """Write the resampled sets first: where the record is, the row is done."""
        self._check_same_judge(row.table, judged_by(judged.record))
        path = row_path(self.folder, row)
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_atomically(path.with_suffix(".npz")) as temporary, temporary.open("wb") as file:
            kept: dict[str, Any] = {name: sets.astype(np.float32) for name, sets in judged.resampled.items()}
            np.savez_compressed(file, **kept)
        content = {"settings": self._settings(row), **judged.record}
        write_text(path, to_json(content) + "\n")
        self._kept[row.key] = KeptRow(row.table, row.regime, row.kind, row.seed, content, judged.resampled)
        kids = [one["test"]["kid"] for one in judged.record["generators"]]
        shown = ", ".join("–" if kid is None else f"{kid:.3f}" for kid in kids)
        self.voice.say(f"judged {row.key}: KID {shown}")

    def _settings(self, row: Row) -> dict[str, Any]:
        """Return what a row's figures depend on."""
        networks = {
            name: one.steps
            for name, one in self.plan.classifiers.items()
            if one.concerns(row.table, row.regime, row.seed)
        }
        settings = {
            f"{cell.model}: {key}": value for cell in row.cells for key, value in comparable(cell.configuration).items()
        }
        settings |= {f"classifiers.{name}.steps": steps for name, steps in networks.items()}
        return json.loads(json.dumps(settings | {"against": self.against[row.table]}))


def row_path(folder: Path, row: Row) -> Path:
    """Return where a row is kept."""
    return folder / ROWS / f"{row.key}.json"


def _differences(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    before = dict(starmap(_by_names_of_today, before.items()))
    for key in sorted(before.keys() | now.keys()):
        if key in before and key in now and before[key] != now[key]:
            yield (
                f"{path}: {key} was {before[key]!r} and is {now[key]!r} now; give another --out, or set it back, or "
                "remove the file to judge anew"
            )
        # A setting that an earlier version did not have was what it is by default now.
        elif (key in before) != (key in now) and key.startswith("classifiers."):
            yield f"{path}: {key} has come or gone; give another --out, set it back, or remove the file to judge anew"


def _by_names_of_today(key: str, value: Any) -> tuple[str, Any]:
    """Return a key, behind the model that it is of, and its value as both are called now."""
    head, of, rest = key.rpartition(": ")
    ((name, found),) = with_new_names({rest: value}).items()
    return head + of + name, found


def _begin(plan: StudyPlan, folder: Path) -> None:
    write_text(folder / PLAN, plan_text(plan))
    ignored = folder / ".gitignore"
    if not ignored.exists():
        kept = [".gitignore", PLAN, ENVIRONMENT, *TABLES, f"{ROWS}/*.json", f"{ROWS}/*.npz"]
        kept += [f"{CELLS}/*/{name}" for name in CELL_FILES]
        write_text(ignored, "\n".join([_HEAD, "*", "!*/", *(f"!/{name}" for name in kept)]) + "\n")


def _describe(rows: Sequence[Row], jobs: int) -> str:
    runs = sum(len(row.cells) for row in rows)
    return f"{counted(len(rows), 'row')} of {counted(runs, 'run')}, {jobs} side by side"


def resume_command(path: Path, folder: Path, assignments: Sequence[str]) -> str:
    """Return what is typed to go on."""
    given = [part for one in assignments for part in ("--set", one)]
    return shlex.join(["dermafed", "study", str(path), "--out", str(folder), *given, "--resume"])


@contextlib.contextmanager
def _saying_how_to_go_on(command: str, say: Callable[[str], None]) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        say(f"interrupted; go on with {command}")
        raise


def read_row(folder: Path, row: Row) -> KeptRow | None:
    """Read a row that was judged; None where it was not.

    Raises
    ------
    RunDirectoryError
        If it is not as it was written.
    """
    path = row_path(folder, row)
    if not path.is_file():
        return None
    again = f"or remove {path} to judge anew"
    try:
        record = read_json(path)
        names = names_of_resampled(record)
        missing = sorted({"settings", "costs"} - record.keys())
    except RunDirectoryError as error:
        raise RunDirectoryError(f"{error}, {again}") from None
    except (KeyError, TypeError, AttributeError):
        missing = ["generators"]
    if missing:
        raise RunDirectoryError(
            f"{path}: is damaged (without {' and '.join(missing)}); put it back from a copy, {again}"
        )
    sets = path.with_suffix(".npz")
    try:
        with sets.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            resampled = {name: kept[name].astype(np.float64) for name in names}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise RunDirectoryError(f"{sets}: cannot be read ({error}); put it back, {again}") from None
    return KeptRow(row.table, row.regime, row.kind, row.seed, record, resampled)


def _finish(
    plan: StudyPlan,
    folder: Path,
    rows: Sequence[Row],
    against: Mapping[str, str],
    failed: list[str],
    facts: Mapping[str, Any],
) -> FinishedStudy:
    """Write raw figures, tables and page."""
    kept = [found for row in rows if (found := read_row(folder, row)) is not None]
    results = StudyResults(plan, kept, against)
    write_text(folder / "raw.csv", results.raw_csv())
    write_text(folder / "tables.md", markdown(results))
    shown = [
        ("Date", facts["date"]),
        ("Rows", f"{len(results.rows)} of {len(rows)} judged"),
        ("Machine", f"{counted(facts['cores'], 'core')}, {facts['processor']}, {facts['device']}"),
        ("Command", facts["command"]),
    ]
    write_text(folder / "tables.html", render_page(results, shown))
    return FinishedStudy(results, folder, failed)


def _facts(
    path: Path, assignments: Sequence[str], folder: Path, jobs: int, classes: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Return command and machine of the study's first part, and the classes of its tables; kept in the folder."""
    kept = folder / ENVIRONMENT
    named = {name: list(names) for name, names in classes.items()}
    if kept.is_file():
        before = read_json(kept)
        if named.items() <= before.get("classes", {}).items():
            return before
        # A table that has come since: its classes are to be known too, when all its rows are judged.
        facts = before | {"classes": before.get("classes", {}) | named}
        write_text(kept, to_json(facts, indent=2) + "\n")
        return facts
    command = ["dermafed", "study", path.name, *(part for given in assignments for part in ("--set", given))]
    facts = {
        "command": shlex.join(command),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "jobs": jobs,
        "classes": named,
        **describe_environment(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
    }
    write_text(kept, to_json(facts, indent=2) + "\n")
    return facts
