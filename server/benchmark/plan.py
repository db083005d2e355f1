"""The file of a benchmark: what is compared, under which budget; and the cells that it asks for."""

from __future__ import annotations

import difflib
import itertools
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from federation.config import Configuration, Layer, flatten, parse_assignments, resolve
from federation.errors import ConfigurationError
from federation.strategy_facts import STRATEGY_FACTS
from server.benchmark.budget import planned_bytes, planned_images

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
_SEPARATOR = "--"


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
    budget: Literal["images", "rounds", "bytes"]
    """What is equal for all strategies: images shown, rounds, or bytes sent."""
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
    models: dict[str, dict[str, Any]] = Field(default={"model": {}})
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
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"{path}: cannot be read ({error.strerror}); give a benchmark file, e.g. conf/benchmark-smoke.toml"
        ) from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{path}: is not valid toml: {error}") from None
    try:
        plan = BenchmarkPlan.model_validate(values)
    except ValidationError as error:
        raise ConfigurationError([_describe(path, detail) for detail in error.errors()]) from None
    problems = [f"{path}: {problem}" for problem in _problems(plan)]
    if problems:
        raise ConfigurationError(problems)
    overrides = dict(flatten(plan.overrides)) | dict(parse_assignments(assignments).values)
    return plan.model_copy(update={"overrides": overrides})


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
        field = BenchmarkPlan.model_fields.get(key)
        example = {
            "budget": 'budget = "images"',
            "baseline": 'baseline = "fedgan"',
            "seeds": "seeds = [0, 1, 2]",
            "hyperparameters": 'hyperparameters = "untuned: published defaults"',
        }.get(key, f"[{key}.…]")
        assert field is not None or "." in key
        return f"{path}: {key}: is missing; write for example {example}"
    return f"{path}: {key} = {detail['input']!r}: {detail['msg']}"


def _problems(plan: BenchmarkPlan) -> Iterator[str]:
    import re

    for table in ("strategies", "partitions", "models"):
        for name in getattr(plan, table):
            if not re.match(NAME_PATTERN, name) or _SEPARATOR in name:
                yield f"[{table}.{name}]: names are letters, digits, '.', '_' and single '-', as they become folders"
    for name, settings in plan.strategies.items():
        if name not in STRATEGY_FACTS and not {"strategy.name", "strategy.generator"} & dict(flatten(settings)).keys():
            nearest = difflib.get_close_matches(name, STRATEGY_FACTS, n=1, cutoff=0.4)
            meant = f"; did you mean {nearest[0]}?" if nearest else ""
            yield f"[strategies.{name}]: is no strategy's name, and strategy.name is not set there{meant}"
    if plan.baseline not in plan.strategies:
        yield f"baseline = {plan.baseline!r}: is none of [strategies]: {', '.join(plan.strategies)}"
    if len(set(plan.seeds)) != len(plan.seeds) or min(plan.seeds) < 0:
        yield f"seeds = {plan.seeds}: each is a whole number from 0 on, and stands there once"
    tuned = {name: len(list(_trials(table))) for name, table in plan.strategies.items() if "tune" in table}
    if tuned and plan.tuning is None:
        yield f"[strategies.{next(iter(tuned))}.tune]: there is no [tuning] with trials, rounds and seed"
    if plan.tuning is not None:
        if not tuned:
            yield "[tuning]: no strategy has a table tune with values to try; leave it out"
        if plan.tuning.seed in plan.seeds:
            yield f"tuning.seed = {plan.tuning.seed}: is one of seeds; what chooses must not be what counts"
        for name, count in tuned.items():
            if count > plan.tuning.trials:
                yield f"[strategies.{name}.tune]: asks for {count} trials, and tuning.trials = {plan.tuning.trials}"


def _own(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a strategy's settings without what is tried for them."""
    return {key: value for key, value in table.items() if key != "tune"}


def _trials(table: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
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
            values = (chosen or {}).get(strategy, {})
            configuration = _configuration(plan, path, strategy, partition, model, seed, values)
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
        for values in _trials(table):
            name = "trial-" + "-".join(f"{key.rsplit('.', 1)[-1]}-{value}" for key, value in values.items())
            extra = values | {
                "rounds": plan.tuning.rounds,
                "evaluation.every": plan.tuning.rounds,
                "evaluation.utility": False,
                "evaluation.authenticity": False,
            }
            configuration = _configuration(plan, path, strategy, partition, model, plan.tuning.seed, extra)
            cells.append(Cell(strategy, partition, model, plan.tuning.seed, configuration, name))
    return cells


def trial_values(plan: BenchmarkPlan, strategy: str) -> list[dict[str, Any]]:
    """Return what a strategy tries, in the order of :func:`make_trials`."""
    return list(_trials(plan.strategies[strategy]))


def _configuration(
    plan: BenchmarkPlan, path: Path, strategy: str, partition: str, model: str, seed: int, values: Mapping[str, Any]
) -> Configuration:
    tables = (
        ("[base]", plan.base),
        (f"[models.{model}]", plan.models[model]),
        (f"[partitions.{partition}]", plan.partitions[partition]),
        (f"[strategies.{strategy}]", _own(plan.strategies[strategy])),
        ("--set", plan.overrides),
    )
    name = {"strategy.name": strategy} if strategy in STRATEGY_FACTS else {}
    layers = [
        # A cell is a process of its own, and as many of them run side by side as there are cores.
        Layer("benchmark", {"simulation.engine": "in-process", "evaluation.threads": 1, **name}),
        *(Layer(where if where == "--set" else f"{path} {where}", dict(flatten(table))) for where, table in tables),
        Layer("benchmark", {"seed": seed, "name": f"{plan.name}-{strategy}", **values}),
    ]
    return resolve(layers).with_absolute_paths()


def equal_bytes(plan: BenchmarkPlan, cells: Sequence[Cell]) -> list[Cell]:
    """Set the rounds of each cell so that all send as many bytes as the baseline; those that send none keep theirs."""
    budgets = {
        cell.place: planned_bytes(cell.configuration) * cell.configuration.rounds
        for cell in cells
        if cell.strategy == plan.baseline
    }
    found = []
    for cell in cells:
        per_round = planned_bytes(cell.configuration)
        configuration = cell.configuration
        if per_round:
            rounds = max(1, round(budgets[cell.place] / per_round))
            configuration = configuration.with_values({"rounds": rounds})
        found.append(Cell(cell.strategy, cell.partition, cell.model, cell.seed, configuration))
    return found


def _budget_problems(plan: BenchmarkPlan, cells: Sequence[Cell]) -> Iterator[str]:
    """Yield a sentence for each strategy whose budget is not the baseline's."""
    if plan.budget == "bytes":
        return
    baselines = {cell.place: cell for cell in cells if cell.strategy == plan.baseline}
    told = set()
    for cell in cells:
        wanted, found = (
            (one.configuration.rounds if plan.budget == "rounds" else planned_images(one.configuration))
            for one in (baselines[cell.place], cell)
        )
        # A step more or less in a round is a matter of rounding.
        if abs(found - wanted) > 0.02 * wanted and (cell.strategy, cell.partition, cell.model) not in told:
            told.add((cell.strategy, cell.partition, cell.model))
            yield (
                f"[strategies.{cell.strategy}] on {cell.partition}, {cell.model}: {found:,.0f} {plan.budget}, and the "
                f"baseline {plan.baseline} has {wanted:,.0f}; set rounds and training.local-steps so that they agree, "
                "or another budget"
            )


def plan_text(plan: BenchmarkPlan) -> str:
    """Return the plan as toml, as it is kept beside the results."""
    return tomli_w.dumps(plan.model_dump(exclude_none=True))
