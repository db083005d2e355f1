"""The file of a study: who trains, which kinds of generator, on which hospitals; and the runs that it asks for.

It is the design of Carrasco Limeros et al. 2022 (arXiv 2208.11702): generators that are trained in one place, by a
federation of hospitals, and by each of them alone; conditional ones, which learn all classes, and unconditional ones,
one for melanoma and one for all else, each with half the images; judged by fidelity, diversity, cost, and by
classifiers that tell melanoma from the rest, trained on mixes of real and synthetic images.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field

from federation.config import Configuration, Layer, flatten, parse_assignments
from federation.diagnoses import find_melanoma_class
from federation.errors import ConfigurationError
from federation.settings.section import join_names
from server.benchmark.cells import Cell
from server.benchmark.plan import NAME_PATTERN, read_plan
from strategies.configuration import resolve

Regime = Literal["centralised", "federated", "alone"]
Kind = Literal["conditional", "unconditional"]
REGIMES: tuple[Regime, ...] = ("centralised", "federated", "alone")
"""Who trains: one place that holds all images, the hospitals together, each of them for itself."""
KINDS: tuple[Kind, ...] = ("conditional", "unconditional")
CONDITIONAL, MELANOMA, REST = "conditional", "melanoma", "rest"
"""What a run trains: one generator of all classes, or one of a pair."""
_MEMBERS = {"conditional": (CONDITIONAL,), "unconditional": (MELANOMA, REST)}
_STRATEGIES = {"centralised": "centralised", "alone": "alone"}
_SEPARATOR = "--"
# Where images are, which is not the same for every table.
_OF_IMAGES = ("data.root", "data.csv")
# What the study decides; who sets it would compare other things than the table says.
_OURS = {
    "seed": "seeds stands for it",
    "name": "name at the top stands for it",
    "run-dir": "--out stands for it",
    "resume": "--resume stands for it",
    "data.only": "the study decides which generator learns from which class",
    "model.conditional": "kinds stands for it",
    "evaluation.utility": "the study judges the generators itself",
    "evaluation.gain": "the study judges the generators itself",
    "evaluation.authenticity": "the study judges the generators itself; judge a run with dermafed evaluate",
    "evaluation.part": "a study is judged on test images",
    "evaluation.utility-classifier": "[classifiers] stands for it",
    "evaluation.utility-steps": "[classifiers.NAME] steps stands for it",
    "evaluation.utility-seeds": "each seed of the study has classifiers of its own",
    "evaluation.utility-arms": "the study has arms of its own",
    "evaluation.utility-yardsticks": "the study has arms of its own",
    "training.local-epochs": "every row shows as many images; set training.local-steps",
    "early-stopping.patience": "every row shows as many images",
    "simulation.engine": "each run is a process of its own",
}
# What [kinds.NAME] may not set: a kind is a kind of generator, on the same images and before the same judge.
_OF_ALL_KINDS = ("data.", "partition.", "evaluation.", "strategy.", "participation.", "model.resolution")


class Classifiers(BaseModel):
    """How often, and for which seeds, one kind of classifier is trained."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    steps: int = Field(ge=10)
    """Training steps of each."""
    seeds: list[int] | None = None
    """Seeds of the study for which it is trained; None: all."""
    tables: list[str] | None = None
    """Tables for which it is trained; None: all."""
    regimes: list[Regime] | None = None
    """Regimes for which it is trained; None: all."""

    def concerns(self, table: str, regime: str, seed: int) -> bool:
        """Return whether it is trained for some rows."""
        asked = ((self.tables, table), (self.regimes, regime), (self.seeds, seed))
        return all(wanted is None or one in wanted for wanted, one in asked)


class StudyTable(BaseModel):
    """One table of the study: hospitals, and what is compared on them."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    regimes: list[Regime] = Field(default=["centralised", "federated", "alone"], min_length=1)
    kinds: list[Kind] = Field(default=["conditional", "unconditional"], min_length=1)
    seeds: list[int] | None = None
    """None: those of the study."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of every run of the table: which data, which partition."""


class StudyPlan(BaseModel):
    """A study's file, as it stands."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str = Field(pattern=NAME_PATTERN)
    seeds: list[int] = Field(min_length=1)
    against: str = ""
    """The class that is told from the rest. Empty: the one that is melanoma by its name."""
    classifiers: dict[Literal["small-cnn", "efficientnet-b2"], Classifiers] = Field(min_length=1)
    base: dict[str, Any] = Field(default_factory=dict)
    """Settings of every run, as in a preset."""
    kinds: dict[Kind, dict[str, Any]] = Field(default_factory=dict)
    """Settings of the runs of one kind."""
    tables: dict[str, StudyTable] = Field(min_length=1)
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Settings of every run that win over all tables: what ``--set`` gives."""

    def seeds_of(self, table: str) -> list[int]:
        """Return the seeds of a table."""
        own = self.tables[table].seeds
        return self.seeds if own is None else own


@dataclass(frozen=True)
class Row:
    """What one regime and one kind of generator come to, with one seed."""

    table: str
    regime: str
    kind: str
    seed: int
    cells: tuple[Cell, ...]
    """The runs that train its generators."""

    @property
    def key(self) -> str:
        """Name of its file."""
        return _SEPARATOR.join((self.table, self.regime, self.kind, f"seed-{self.seed}"))


def load_study(path: Path, assignments: Sequence[str] = ()) -> StudyPlan:
    """Read a study's file.

    Parameters
    ----------
    path
        The file.
    assignments
        ``KEY=VALUE`` for every run; they win over all tables.

    Raises
    ------
    ConfigurationError
        With every problem of the file itself.
    """
    plan = read_plan(path, StudyPlan, "a study's file, e.g. conf/study-ham10000.toml", _describe)
    given = parse_assignments(assignments).values
    problems = [f"{path}: {problem}" for problem in _problems(plan)]
    problems += _problems_of_assignments(plan, given)
    if problems:
        raise ConfigurationError(problems)
    return plan.model_copy(update={"overrides": dict(flatten(plan.overrides)) | dict(given)})


_EXAMPLES = {"name": 'name = "mine"', "seeds": "seeds = [0, 1, 2]", "steps": "steps = 300"}


def _describe(path: Path, detail: Any) -> str:
    """Say what is wrong with one key of the file."""
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return (
            f"{path}: {key}: unknown key; known are {', '.join(StudyPlan.model_fields)}, in [tables.NAME] "
            f"{', '.join(StudyTable.model_fields)}, in [classifiers.NAME] {', '.join(Classifiers.model_fields)}. "
            "Settings of the runs stand in [base], [kinds.NAME] and [tables.NAME.settings]"
        )
    if detail["type"] == "missing":
        example = _EXAMPLES.get(str(detail["loc"][-1]), f"[{key}.NAME]")
        return f"{path}: {key}: is missing; write for example {example}"
    return f"{path}: {key} = {detail['input']!r}: {detail['msg']}"


def _problems(plan: StudyPlan) -> Iterator[str]:
    for where, settings in _places(plan):
        yield from _problems_of_settings(plan, where, settings)
    yield from _problems_of_kinds(plan)
    for name, table in plan.tables.items():
        if _SEPARATOR in name or not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
            yield f"[tables.{name}]: names are letters, digits, '.', '_' and single '-', as they become files"
        seeds = plan.seeds_of(name)
        if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
            yield f"[tables.{name}] seeds = {seeds}: each is a whole number from 0 on, and stands there once"
        for key, listed in (("regimes", table.regimes), ("kinds", table.kinds)):
            if len(set(listed)) != len(listed):
                yield f"[tables.{name}] {key} = {listed}: each stands there once"
    yield from _problems_of_classifiers(plan)


def _places(plan: StudyPlan) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield where settings stand in the file, and which."""
    yield "[base]", dict(flatten(plan.base))
    yield "[overrides]", dict(flatten(plan.overrides))
    yield from ((f"[kinds.{kind}]", dict(flatten(settings))) for kind, settings in plan.kinds.items())
    yield from ((f"[tables.{name}.settings]", dict(flatten(table.settings))) for name, table in plan.tables.items())


def _problems_of_settings(plan: StudyPlan, where: str, settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield what may not stand in a table of settings, or after ``--set``."""
    yield from (f"{where} {key}: {_OURS[key]}" for key in settings if key in _OURS)
    name = settings.get("strategy.name")
    if name in _STRATEGIES.values():
        yield f"{where} strategy.name = {name!r}: regimes stands for it; this is the strategy of the federation"
    elif name is not None and not any("federated" in table.regimes for table in plan.tables.values()):
        yield f"{where} strategy.name = {name!r}: no table has the regime federated; leave it out, or add that"
    if "evaluation.utility-weights" in settings and "efficientnet-b2" not in plan.classifiers:
        yield f"{where} evaluation.utility-weights: no [classifiers.efficientnet-b2] reads them; leave it out"


def _problems_of_kinds(plan: StudyPlan) -> Iterator[str]:
    used = {kind for table in plan.tables.values() for kind in table.kinds}
    for kind, settings in plan.kinds.items():
        if kind not in used:
            yield f"[kinds.{kind}]: no table has such generators; leave it out, or add it to a table's kinds"
        for key, _ in flatten(settings):
            if key.startswith(_OF_ALL_KINDS):
                yield f"[kinds.{kind}] {key}: is alike for all kinds; set it in [base] or [tables.NAME.settings]"


def _problems_of_classifiers(plan: StudyPlan) -> Iterator[str]:
    """Yield what classifiers are asked for that no row is of."""
    rows = [
        (name, regime, seed)
        for name, table in plan.tables.items()
        for regime, seed in itertools.product(table.regimes, plan.seeds_of(name))
    ]
    every = {seed for _, _, seed in rows}
    for name, classifiers in plan.classifiers.items():
        unknown = [f"seeds: {seed} is no seed of a table" for seed in sorted(set(classifiers.seeds or []) - every)]
        unknown += [
            f"tables: there is no [tables.{table}]"
            for table in sorted(set(classifiers.tables or []) - plan.tables.keys())
        ]
        yield from (f"[classifiers.{name}] {problem}" for problem in unknown)
        if unknown:
            continue
        concerned = [row for row in rows if classifiers.concerns(*row)]
        if not concerned:
            yield f"[classifiers.{name}]: no row is of its tables, regimes and seeds at once; widen these"
            continue
        asked = (("tables", classifiers.tables), ("regimes", classifiers.regimes), ("seeds", classifiers.seeds))
        for place, (key, listed) in enumerate(asked):
            idle = [one for one in dict.fromkeys(listed or []) if one not in {row[place] for row in concerned}]
            if idle:
                named = ", ".join(map(str, idle))
                yield f"[classifiers.{name}] {key}: {named} has no row that it is trained for; leave it out"


def _problems_of_assignments(plan: StudyPlan, given: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with ``--set``."""
    yield from _problems_of_settings(plan, "--set", given)
    last = {
        name: (dict(flatten(plan.base)) | dict(flatten(table.settings)) | dict(given)).get("data.source", "phantom")
        for name, table in plan.tables.items()
    }
    if set(last.values()) == {"phantom"}:
        yield from (
            f"--set {key}: every table is of generated images; leave it out" for key in _OF_IMAGES if key in given
        )


def table_configuration(plan: StudyPlan, path: Path, table: str) -> Configuration:
    """Return the settings with which a table is judged: those of a federation, and of classifiers.

    Raises
    ------
    ConfigurationError
        With every problem of the settings.
    """
    return _configuration(plan, path, table, "federated", CONDITIONAL, plan.seeds_of(table)[0], ())


def make_rows(plan: StudyPlan, path: Path, classes: Mapping[str, Sequence[str]]) -> list[Row]:
    """Resolve the settings of every run, all of one seed before the next.

    Parameters
    ----------
    plan, path
        The file and what stands in it.
    classes
        Of each table, the names of its data's classes.

    Raises
    ------
    ConfigurationError
        With every problem of every run.
    """
    rows: list[Row] = []
    problems: list[str] = []
    of_tables = [
        (seed, name, regime, kind)
        for name, table in plan.tables.items()
        for seed, regime, kind in itertools.product(plan.seeds_of(name), table.regimes, table.kinds)
    ]
    for seed, table, regime, kind in sorted(of_tables, key=lambda entry: entry[0]):
        cells = []
        for member in _MEMBERS[kind]:
            try:
                found = _configuration(plan, path, table, regime, member, seed, classes[table])
                cells.append(Cell(regime, table, member, seed, found))
            except ConfigurationError as error:
                problems += [problem for problem in error.problems if problem not in problems]
        rows.append(Row(table, regime, kind, seed, tuple(cells)))
    if problems:
        raise ConfigurationError(problems)
    _check_alike(rows)
    return rows


def _check_alike(rows: Sequence[Row]) -> None:
    """Refuse rows of one table that would be compared although they differ by more than the table says.

    Raises
    ------
    ConfigurationError
        Naming what differs.
    """
    problems: dict[str, str] = {}
    shown: dict[tuple[str, int], dict[str, float]] = {}
    for row in rows:
        for one in (cell.configuration for cell in row.cells):
            training = one.training
            images = one.rounds * one.asked_hospitals() * (1 - one.participation.dropout)
            images *= training.local_steps * training.batch_size
            of_row = shown.setdefault((row.table, row.seed), {})
            of_row[row.key] = of_row.get(row.key, 0) + images
    for (table, _), images_of in shown.items():
        least, most = min(images_of, key=images_of.__getitem__), max(images_of, key=images_of.__getitem__)
        # Centralised training takes a whole number of steps for those that are there.
        if images_of[most] > 1.05 * images_of[least]:
            problems.setdefault(
                f"images of {table}",
                f"[tables.{table}]: {most} would show {images_of[most]:,.0f} images and {least} "
                f"{images_of[least]:,.0f}; rows that are compared show as many: set rounds, training.local-steps and "
                "training.batch-size for all of them in [base] or [tables.NAME.settings]",
            )
    if problems:
        raise ConfigurationError(list(problems.values()))


def split_classes(plan: StudyPlan, classes: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Return the class that is told from the rest, and the rest.

    Raises
    ------
    ConfigurationError
        If there is no such class.
    """
    name = plan.against or find_melanoma_class(classes)
    if name is None or name not in classes:
        what = f"there is no class {plan.against!r}" if plan.against else "no class is melanoma by its name"
        raise ConfigurationError(f'against: {what}; name one of {", ".join(classes)}, e.g. against = "{classes[0]}"')
    return name, tuple(other for other in classes if other != name)


def _configuration(
    plan: StudyPlan, path: Path, table: str, regime: str, member: str, seed: int, classes: Sequence[str]
) -> Configuration:
    """Resolve one run."""
    kind = "conditional" if member == CONDITIONAL else "unconditional"
    fixed: dict[str, Any] = {
        "seed": seed,
        "name": f"{plan.name}-{regime}-{member}",
        "model.conditional": kind == "conditional",
        "evaluation.utility": False,
        "evaluation.authenticity": False,
    }
    if regime in _STRATEGIES:
        fixed["strategy.name"] = _STRATEGIES[regime]
    tables: list[tuple[str, Mapping[str, Any]]] = [
        (f"{path} [base]", plan.base),
        (f"{path} [kinds.{kind}]", plan.kinds.get(kind, {})),  # type: ignore[call-overload]
        (f"{path} [tables.{table}.settings]", plan.tables[table].settings),
        ("--set", plan.overrides),
    ]
    layers = [Layer("study", {"simulation.engine": "in-process", "evaluation.threads": 1})]
    layers += [Layer(where, dict(flatten(values))) for where, values in tables]
    sources = [layer.values["data.source"] for layer in layers if "data.source" in layer.values]
    if sources and sources[-1] == "phantom":
        # A table of generated images beside others has no use for where these are.
        layers[-1] = Layer("--set", {key: value for key, value in plan.overrides.items() if key not in _OF_IMAGES})
    if kind == "unconditional":
        fixed |= _half(layers)
        if classes:
            name, others = split_classes(plan, classes)
            fixed["data.only"] = join_names([name] if member == MELANOMA else others)
    return resolve([*layers, Layer("study", fixed)]).with_absolute_paths()


def _half(layers: Sequence[Layer]) -> dict[str, Any]:
    """Return what gives one of a pair half the rounds."""
    whole = resolve([*layers, Layer("study", {"evaluation.utility": False, "evaluation.authenticity": False})])
    if whole.rounds % 2:
        raise ConfigurationError(
            f"rounds = {whole.rounds}: each of a pair of unconditional generators has half of them; set an even number"
        )
    return {"rounds": whole.rounds // 2}


def plan_text(plan: StudyPlan) -> str:
    """Return the plan as toml, as it is kept beside the results."""
    return tomli_w.dumps(plan.model_dump(exclude_none=True))
