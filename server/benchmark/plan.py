"""The file of a benchmark: what is compared, under which budget; and the cells that it asks for."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from federation.config import Configuration, Layer, flatten, parse_assignments
from federation.errors import ConfigurationError
from federation.toml_files import parse_toml
from server.benchmark.budget import planned_bytes, planned_evaluations, planned_images
from strategies.catalogue import STRATEGIES
from strategies.configuration import names_in_use, resolve, with_values

PlanT = TypeVar("PlanT", bound=BaseModel)
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
BUDGET_TOLERANCE = 0.02
"""Part of the baseline's budget by which another strategy's may differ: a matter of rounding."""
BUDGET_WORDS = {
    "images": "images",
    "evaluations": "network evaluations",
    "rounds": "rounds",
    "bytes": "bytes",
}
"""What is equal, by ``budget``."""
_SEPARATOR = "--"

# Which table may hold which settings: what is compared must be all that differs between two cells of a place.
_OF_THE_BENCHMARK = re.compile(r"^(seed|name|run-dir|resume)$")
_OF_STRATEGIES = re.compile(r"^strategy\.(name|generator|discriminator)$")
_OF_ALL_STRATEGIES = re.compile(r"^(data\..*|partition\..*|evaluation\..*|model\.resolution|early-stopping\..*)$")
_OF_THE_BUDGET = re.compile(r"^(training\.local-steps|training\.local-epochs|training\.batch-size|participation\..*)$")


class Tuning(BaseModel):
    """How hyper-parameters are chosen: so many short runs for each strategy, by KID on validation images."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    trials: int = Field(ge=1, le=1000)
    """Most settings that any strategy may try."""
    rounds: int = Field(ge=1)
    """Rounds of a trial."""
    seed: int = Field(ge=0)
    """Seed of the trials; none of the benchmark's own."""


class BenchmarkPlan(BaseModel):
    """A benchmark file, as it stands."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str = Field(pattern=NAME_PATTERN)
    budget: Literal["images", "evaluations", "rounds", "bytes"]
    """What is equal for all strategies: images shown, passes of an image through a network, rounds, or bytes sent."""
    baseline: str
    """The strategy that the others are compared with."""
    seeds: list[int] = Field(min_length=1)
    hyperparameters: str = Field(min_length=1)
    """A sentence on where they come from, e.g. ``untuned: published defaults``; it stands beside every table."""
    tuning: Tuning | None = None
    base: dict[str, Any] = Field(default_factory=dict)
    """Settings of every cell, as in a preset."""
    strategies: dict[str, dict[str, Any]] = Field(min_length=2)
    """By name, settings of their own; ``tune`` may list values to try for some keys."""
    partitions: dict[str, dict[str, Any]] = Field(min_length=1)
    models: dict[str, dict[str, Any]] = Field(default={"model": {}}, min_length=1)
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Settings of every cell that win over all tables: what ``--set`` gives."""


@dataclass(frozen=True)
class Cell:
    """One run of a benchmark."""

    strategy: str
    partition: str
    model: str
    seed: int
    configuration: Configuration
    """Complete but for the run directory."""
    trial: str = ""
    """Of a run that chooses hyper-parameters: which values it tries. Empty: a run that counts."""

    @property
    def key(self) -> str:
        """Name of the cell's folder."""
        parts = [self.strategy, self.partition, self.model, f"seed-{self.seed}"]
        return _SEPARATOR.join([*parts, self.trial] if self.trial else parts)

    @property
    def place(self) -> tuple[str, str, int]:
        """What a pair of strategies is compared within."""
        return self.partition, self.model, self.seed


def load_plan(path: Path, assignments: Sequence[str] = ()) -> BenchmarkPlan:
    """Read a benchmark file.

    Parameters
    ----------
    path
        The file.
    assignments
        ``KEY=VALUE`` for every cell; they win over all tables.

    Raises
    ------
    ConfigurationError
        With every problem of the file itself.
    """
    plan = read_plan(path, BenchmarkPlan, "a benchmark file, e.g. conf/benchmark-smoke.toml", _describe)
    given = parse_assignments(assignments).values
    problems = [f"{path}: {problem}" for problem in _problems(plan)]
    problems += [f"--set {key}: {problem}" for key in given for problem in _misplaced(key)]
    if problems:
        raise ConfigurationError(problems)
    return plan.model_copy(update={"overrides": dict(flatten(plan.overrides)) | dict(given)})


def read_plan(path: Path, kind: type[PlanT], wanted: str, describe: Callable[[Path, Any], str]) -> PlanT:
    """Read a file that says what is compared.

    Parameters
    ----------
    path
        The file.
    kind
        What stands in it.
    wanted
        What to give in its place where it cannot be read.
    describe
        Says in a sentence what is wrong with a key, from the path and pydantic's detail.

    Raises
    ------
    ConfigurationError
        With every problem of the file's keys.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror}); give {wanted}") from None
    try:
        return kind.model_validate(parse_toml(content, str(path)))
    except ValidationError as error:
        raise ConfigurationError([describe(path, detail) for detail in error.errors()]) from None


def _describe(path: Path, detail: Any) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        known = [*BenchmarkPlan.model_fields, *(f"tuning.{name}" for name in Tuning.model_fields)]
        nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
        return (
            f"{path}: {key}: unknown key; the nearest known key is {nearest}. Settings of the cells stand in [base], "
            "[strategies.NAME], [partitions.NAME] and [models.NAME]"
        )
    if detail["type"] == "missing":
        example = {
            "name": 'name = "mine"',
            "budget": 'budget = "images"',
            "baseline": 'baseline = "fedgan"',
            "seeds": "seeds = [0, 1, 2]",
            "hyperparameters": 'hyperparameters = "untuned: published defaults"',
            "tuning.trials": "trials = 4 under [tuning]",
            "tuning.rounds": "rounds = 10 under [tuning]",
            "tuning.seed": "seed = 100 under [tuning]",
        }.get(key, f"[{key}.NAME]")
        return f"{path}: {key}: is missing; write for example {example}"
    return f"{path}: {key} = {detail['input']!r}: {detail['msg']}"


def _misplaced(key: str, table: str = "") -> Iterator[str]:
    """Yield why a key may not stand in a table: one of ``strategies``, ``tune``, or any other."""
    if _OF_THE_BENCHMARK.match(key):
        yield "the benchmark sets it: seeds, name and --out stand for it"
    elif _OF_STRATEGIES.match(key) and table != "strategies":
        yield "belongs into [strategies.NAME] alone, or a strategy would run under another one's name"
    elif _OF_ALL_STRATEGIES.match(key) and table in ("strategies", "tune"):
        yield "must be the same for all strategies; set it in [base], [partitions.NAME] or [models.NAME]"


def _problems(plan: BenchmarkPlan) -> Iterator[str]:
    for table in ("strategies", "partitions", "models"):
        for name, settings in getattr(plan, table).items():
            if not re.match(NAME_PATTERN, name) or _SEPARATOR in name:
                yield f"[{table}.{name}]: names are letters, digits, '.', '_' and single '-', as they become folders"
            for key, _ in flatten(_own(settings)):
                yield from (f"[{table}.{name}] {key}: {problem}" for problem in _misplaced(key, table))
    for table, settings in (("base", plan.base), ("overrides", plan.overrides)):
        for key, _ in flatten(settings):
            yield from (f"[{table}] {key}: {problem}" for problem in _misplaced(key))
    for name, settings in plan.strategies.items():
        own = dict(flatten(_own(settings)))
        if name not in STRATEGIES and not {"strategy.name", "strategy.generator"} & own.keys():
            nearest = difflib.get_close_matches(name, STRATEGIES, n=1, cutoff=0.4)
            meant = f"; did you mean {nearest[0]}?" if nearest else ""
            yield f"[strategies.{name}]: is no strategy's name, and strategy.name is not set there{meant}"
        elif name in STRATEGIES and own.get("strategy.name", name) != name:
            yield (
                f"[strategies.{name}]: is a strategy's name, and strategy.name = {own['strategy.name']!r}; "
                "give the table another name"
            )
    if plan.baseline not in plan.strategies:
        yield f"baseline = {plan.baseline!r}: is none of [strategies]: {', '.join(plan.strategies)}"
    if len(set(plan.seeds)) != len(plan.seeds) or min(plan.seeds) < 0:
        yield f"seeds = {plan.seeds}: each is a whole number from 0 on, and stands there once"
    yield from _tuning_problems(plan)


def _tuning_problems(plan: BenchmarkPlan) -> Iterator[str]:
    tuned = {name: table["tune"] for name, table in plan.strategies.items() if "tune" in table}
    for name, tune in tuned.items():
        where = f"[strategies.{name}.tune]"
        problems = list(_axis_problems(tune, plan.budget))
        yield from (f"{where} {problem}" for problem in problems)
        if problems:
            continue
        count = len(list(trials(plan.strategies[name])))
        if plan.tuning is not None and count > plan.tuning.trials:
            yield f"{where}: asks for {count} trials, and tuning.trials = {plan.tuning.trials}"
    if tuned and plan.tuning is None:
        yield f"[strategies.{next(iter(tuned))}.tune]: there is no [tuning] with trials, rounds and seed"
    if plan.tuning is not None:
        if not tuned:
            yield "[tuning]: no strategy has a table tune with values to try; leave it out"
        if plan.tuning.seed in plan.seeds:
            yield f"tuning.seed = {plan.tuning.seed}: is one of seeds; what chooses must not be what counts"


def _axis_problems(tune: Any, budget: str) -> Iterator[str]:
    """Yield what is wrong with the values that a strategy tries."""
    if not isinstance(tune, Mapping) or not tune:
        yield "is a table of lists, e.g. strategy.server-learning-rate = [0.01, 0.1]"
        return
    for key, values in flatten(tune):
        if not isinstance(values, list) or not values or len({str(value) for value in values}) < len(values):
            yield f"{key} = {values!r}: is a list of values to try, each of them once"
        yield from (f"{key}: {problem}" for problem in _misplaced(key, "tune"))
        counts = key == "rounds" or (budget != "rounds" and _OF_THE_BUDGET.match(key) is not None)
        # Families differ in how many networks an image passes through.
        if counts or (budget == "evaluations" and key == "model.name"):
            yield f"{key}: would change the budget, which is equal for all"


def _own(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a strategy's settings without what is tried for them."""
    return {key: value for key, value in table.items() if key != "tune"}


def trials(table: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield each combination of the values that a strategy tries."""
    axes = dict(flatten(table.get("tune", {})))
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def make_cells(plan: BenchmarkPlan, path: Path, chosen: Mapping[str, Mapping[str, Any]] | None = None) -> list[Cell]:
    """Resolve the settings of every cell that counts, all of one seed before the next.

    Parameters
    ----------
    plan, path
        The file and what stands in it.
    chosen
        Values that tuning has chosen, by strategy.

    Raises
    ------
    ConfigurationError
        With every problem of every cell, and where the budget is not equal.
    """
    cells = []
    problems: list[str] = []
    for seed, partition, model, strategy in itertools.product(
        plan.seeds, plan.partitions, plan.models, plan.strategies
    ):
        try:
            tuned = (chosen or {}).get(strategy, {})
            configuration = _configuration(plan, path, strategy, partition, model, seed, tuned, {})
            cells.append(Cell(strategy, partition, model, seed, configuration))
        except ConfigurationError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise ConfigurationError(problems)
    cells = equal_bytes(plan, cells) if plan.budget == "bytes" else cells
    problems = list(_budget_problems(plan, cells))
    if problems:
        raise ConfigurationError(problems)
    return cells


def make_trials(plan: BenchmarkPlan, path: Path) -> list[Cell]:
    """Resolve the runs that choose hyper-parameters: on the first partition and the first model."""
    if plan.tuning is None:
        return []
    partition, model = next(iter(plan.partitions)), next(iter(plan.models))
    cells = []
    for strategy, table in plan.strategies.items():
        if "tune" not in table:
            continue
        for values in trials(table):
            name = "trial-" + "-".join(f"{key.rsplit('.', 1)[-1]}-{value}" for key, value in values.items())
            shortened = {
                "rounds": plan.tuning.rounds,
                "evaluation.every": plan.tuning.rounds,
                "evaluation.utility": False,
                "evaluation.authenticity": False,
            }
            configuration = _configuration(plan, path, strategy, partition, model, plan.tuning.seed, values, shortened)
            cells.append(Cell(strategy, partition, model, plan.tuning.seed, configuration, name))
    return cells


def trial_values(plan: BenchmarkPlan, strategy: str) -> list[dict[str, Any]]:
    """Return what a strategy tries, in the order of :func:`make_trials`."""
    return list(trials(plan.strategies[strategy]))


def _configuration(
    plan: BenchmarkPlan,
    path: Path,
    strategy: str,
    partition: str,
    model: str,
    seed: int,
    tuned: Mapping[str, Any],
    fixed: Mapping[str, Any],
) -> Configuration:
    tables = (
        ("[base]", plan.base),
        (f"[models.{model}]", plan.models[model]),
        (f"[partitions.{partition}]", plan.partitions[partition]),
        (f"[strategies.{strategy}]", _own(plan.strategies[strategy])),
        ("--set", plan.overrides),
    )
    name = {"strategy.name": strategy} if strategy in STRATEGIES else {}
    layers = [
        # A cell is a process of its own, and as many of them run side by side as there are cores.
        Layer("benchmark", {"simulation.engine": "in-process", "evaluation.threads": 1, **name}),
        *(Layer(where if where == "--set" else f"{path} {where}", dict(flatten(table))) for where, table in tables),
        Layer(f"{path} [strategies.{strategy}.tune]", tuned),
        Layer("benchmark", {"seed": seed, "name": f"{plan.name}-{strategy}", **fixed}),
    ]
    return resolve(layers).with_absolute_paths()


def equal_bytes(plan: BenchmarkPlan, cells: Sequence[Cell]) -> list[Cell]:
    """Set the rounds of each cell so that all send as many bytes as the baseline; those that send none keep theirs."""
    budgets = {
        cell.place: planned_bytes(cell.configuration) * cell.configuration.rounds
        for cell in cells
        if cell.strategy == plan.baseline
    }
    if not all(budgets.values()):
        raise ConfigurationError(
            f"budget = 'bytes': the baseline {plan.baseline} sends nothing, so nothing can be made equal; choose "
            "another baseline, or another budget"
        )
    found = []
    for cell in cells:
        per_round = planned_bytes(cell.configuration)
        configuration = cell.configuration
        if per_round:
            rounds = max(1, round(budgets[cell.place] / per_round))
            configuration = with_values(configuration, {"rounds": rounds})
        found.append(Cell(cell.strategy, cell.partition, cell.model, cell.seed, configuration))
    return found


def _budget_problems(plan: BenchmarkPlan, cells: Sequence[Cell]) -> Iterator[str]:
    """Yield a sentence for each strategy whose budget is not the baseline's."""
    if any(cell.configuration.early_stopping.patience for cell in cells):
        yield "early-stopping.patience: runs would end at different budgets; leave it out"
    if plan.budget == "bytes":
        return
    baselines = {cell.place: cell for cell in cells if cell.strategy == plan.baseline}
    told = set()
    for cell in cells:
        if (cell.strategy, cell.partition, cell.model) in told:
            continue
        told.add((cell.strategy, cell.partition, cell.model))
        base = baselines[cell.place].configuration
        where = f"[strategies.{cell.strategy}] on {cell.partition}, {cell.model}"
        if plan.budget == "evaluations" and any(
            STRATEGIES[name].adversarial for name in names_in_use(cell.configuration.strategy)
        ):
            yield f"{where}: trains at the server too, which this budget does not count; choose another budget"
            continue
        in_epochs = [one.training.local_epochs > 0 for one in (base, cell.configuration)]
        if plan.budget != "rounds" and in_epochs[0] != in_epochs[1]:
            yield f"{where}: has epochs or steps where the baseline has the other; give both training.local-steps"
            continue
        wanted, found = (_planned(plan.budget, one) for one in (base, cell.configuration))
        # A step more or less in a round is a matter of rounding.
        if abs(found - wanted) > BUDGET_TOLERANCE * wanted:
            unit = _IN_EPOCHS.get(plan.budget, plan.budget) if in_epochs[0] else BUDGET_WORDS[plan.budget]
            yield (
                f"{where}: {found:,.4g} {unit}, and the baseline {plan.baseline} has {wanted:,.4g}; set rounds and "
                f"training.{'local-epochs' if in_epochs[0] else 'local-steps'} so that they agree, or another budget"
            )


_IN_EPOCHS = {"images": "epochs", "evaluations": "network evaluations of each training image"}


def _planned(budget: str, configuration: Configuration) -> float:
    """Return what a run has of a budget; with ``training.local-epochs``, for each image of the federation."""
    if budget == "rounds":
        return configuration.rounds
    return planned_evaluations(configuration) if budget == "evaluations" else planned_images(configuration)


def plan_text(plan: BenchmarkPlan) -> str:
    """Return the plan as toml, as it is kept beside the results."""
    return tomli_w.dumps(plan.model_dump(exclude_none=True))
