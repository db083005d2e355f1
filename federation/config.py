"""The whole configuration: one validated schema, each default written once.

Keys are dotted and kebab-case (``training.batch-size``) in a toml file, in ``--set``, in
``[tool.flwr.app.config]`` and in ``flwr run --run-config``. Values are int, float, bool or str,
because Flower's run configuration and the messages to hospitals take nothing else.

The tables stand in :mod:`federation.settings`, those of families of models beside the models. What a strategy makes
of a configuration is known on the next floor: :func:`strategies.configuration.resolve` is this module's and more.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import tomli_w
from pydantic import Field, ValidationError, create_model
from pydantic.fields import FieldInfo

from federation.errors import ConfigurationError, RunDirectoryError
from federation.home import expand_home
from federation.models.anatomy import Anatomy
from federation.models.families import FAMILIES
from federation.models.family import Family
from federation.settings.data import DataSettings, PartitionSettings
from federation.settings.evaluation import EvaluationSettings
from federation.settings.participation import AttackSettings, ParticipationSettings
from federation.settings.run import CheckpointSettings, EarlyStoppingSettings, ReportSettings, SimulationSettings
from federation.settings.section import InVain, Scalar, Section, kebab
from federation.settings.strategy import StrategySettings
from federation.settings.training import ModelSettings, TrainingSettings
from federation.toml_files import parse_toml

Table = TypeVar("Table", bound=Section)

_OF_STYLEGAN2 = {
    "model": ("latent-size", "mapping-layers", "channel-base", "channel-max", "resampling", "minibatch-std"),
    "training": (
        "loss",
        "gamma",
        "penalty-every",
        "style-mixing",
        "path-length-weight",
        "path-length-every",
        "path-length-decay",
        "fake-labels",
        "label-dropout",
        "transition-start-images",
        "transition-images",
    ),
}
_OF_AUGMENTATION = ("name", "transforms", "p", "ada-target", "ada-every", "ada-kimg")

RENAMED_KEYS: dict[str, str] = {
    **{f"{table}.{key}": f"stylegan2.{key}" for table, keys in _OF_STYLEGAN2.items() for key in keys},
    **{f"augmentation.{key}": f"stylegan2.augmentation.{key}" for key in _OF_AUGMENTATION},
}
"""Keys of earlier versions and what they are called now. Files of users and ``--set`` are told so; what a run has left
behind is read with the new names."""

# What earlier versions did where they had no setting for it: for what they left behind.
_BEFORE = {"training.learning-rate-decay": "none", "model.site-embedding": "off"}

# Values that are called otherwise: a default since families of models have their own, and what was a switch.
_RENAMED_VALUES: dict[tuple[str, str | bool], str] = {
    ("strategy.fairness-loss", "loss-discriminator"): "auto",
    ("training.balanced-classes", True): "hospital",
    ("training.balanced-classes", False): "none",
}


class Configuration(Section):
    """Everything that decides a run's result.

    An instance has a table for each family of models beside these; see :func:`schema`.
    """

    name: str = Field(default="phantom", min_length=1, max_length=80, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run, part of its directory's name."""
    seed: int = Field(default=0, ge=0)
    """Seed of initial weights, local training and evaluation."""
    rounds: int = Field(default=350, ge=1)
    """Rounds of the federation."""
    run_dir: str = ""
    """The run directory. Empty: ``runs/<utc time>-<name>``."""
    resume: bool = False
    """Whether to go on from the last checkpoint in the run directory."""
    data: DataSettings = DataSettings()
    """Which images there are."""
    partition: PartitionSettings = PartitionSettings()
    """Which hospital holds which training images."""
    model: ModelSettings = ModelSettings()
    """Which generative model is trained."""
    training: TrainingSettings = TrainingSettings()
    """What a hospital does in a round."""
    strategy: StrategySettings = StrategySettings()
    """How the hospitals' updates are combined."""
    attack: AttackSettings = AttackSettings()
    """Hospitals that do harm."""
    participation: ParticipationSettings = ParticipationSettings()
    """Who takes part in a round, and how long others wait for them."""
    early_stopping: EarlyStoppingSettings = EarlyStoppingSettings()
    """When to end before the last round."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """How the global generator is judged."""
    checkpoint: CheckpointSettings = CheckpointSettings()
    """What is kept for ``--resume``."""
    simulation: SimulationSettings = SimulationSettings()
    """How hospitals are simulated on this machine."""
    report: ReportSettings = ReportSettings()
    """What a run directory may show."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names in ``data.classes``, in the order of their label."""
        return self.data.class_names

    @property
    def family(self) -> Family:
        """The family of ``model.name``."""
        return FAMILIES[self.model.name]

    def own(self, kind: type[Table]) -> Table:
        """Return the table of the family in use; `kind` is the class of its settings."""
        table = getattr(self, self.model.name)
        assert isinstance(table, kind)
        return table

    @property
    def anatomy(self) -> Anatomy:
        """What the model is made of."""
        return self.family.anatomy(self)

    @property
    def balanced_over(self) -> str:
        """Over whom classes are balanced: ``none``, each ``hospital`` by itself, or the ``federation``."""
        if self.training.balanced_classes == "auto":
            return "federation" if self.model.conditional else "none"
        return self.training.balanced_classes

    @property
    def num_sites(self) -> int:
        """Hospitals that the generator is told apart; 0: it is not told them."""
        hospitals = self.partition.hospitals
        is_told = self.model.site_embedding != "off" and self.family.knows_sites and hospitals > 1
        return hospitals if is_told else 0

    def asked_hospitals(self) -> int:
        """Return how many hospitals are asked in a round."""
        return self.participation.asked(self.partition.hospitals)

    def to_flat(self) -> dict[str, Scalar]:
        """Return every key, dotted, with its value: what travels in a Flower record."""
        return dict(flatten(self.model_dump(by_alias=True)))

    def to_toml(self) -> str:
        """Return the whole configuration as toml."""
        return tomli_w.dumps(self.model_dump(by_alias=True))

    def with_absolute_paths(self) -> Configuration:
        """Return a copy whose paths do not depend on a process's working directory."""
        flat = self.to_flat()
        paths = {key: str(flat[key]) for key in _PATHS if flat[key] and flat[key] not in SHIPPED_WEIGHTS}
        # A folder that nothing reads, as a later layer has chosen another source, was accepted before.
        absolute = {key: str(expand_home(path, key).absolute()) for key, path in paths.items()}
        return resolve([Layer("configuration", flat | absolute, settled=True)])

    def with_values(self, values: Mapping[str, Scalar]) -> Configuration:
        """Return a copy with some dotted keys set anew, validated as by :func:`resolve`."""
        return resolve([Layer("configuration", self.to_flat(), settled=True), Layer("update", dict(values))])


@lru_cache(maxsize=8)
def _schema(families: tuple[tuple[str, type[Section]], ...]) -> type[Configuration]:
    tables: dict[str, Any] = {
        name: (settings, Field(default=settings(), description=f"What only ``model.name`` = {name} has."))
        for name, settings in families
    }
    return create_model("Configuration", __base__=Configuration, __module__=__name__, **tables)


def schema() -> type[Configuration]:
    """Return the class of configurations: the tables that all have, and one for each family of models."""
    return _schema(tuple((name, family.settings) for name, family in FAMILIES.items()))


_PATHS = (
    "run-dir",
    "data.root",
    "data.cache-dir",
    "model.initial",
    "evaluation.extractor-weights",
    "evaluation.utility-weights",
)
SHIPPED_WEIGHTS = ("phantoms",)
"""What ``model.initial`` may be beside a path."""


@dataclass(frozen=True)
class Layer:
    """Values from one place, dotted; later layers win."""

    origin: str
    """Where they come from, for error messages: a file's path, ``--set``, …"""
    values: Mapping[str, Any]
    settled: bool = False
    """Whether they were accepted before, maybe by an earlier version: what does nothing among them is not refused."""


def flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and their values."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def fields_by_key() -> dict[str, FieldInfo]:
    """Return the field behind each dotted key, in the schema's order."""

    def walk(section: type[Section], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
        for name, field in section.model_fields.items():
            annotation = field.annotation
            if isinstance(annotation, type) and issubclass(annotation, Section):
                yield from walk(annotation, f"{prefix}{kebab(name)}.")
            else:
                yield f"{prefix}{kebab(name)}", field

    return dict(walk(schema(), ""))


def describe_allowed(field: FieldInfo) -> str:
    """Say in words which values a field takes."""
    annotation = field.annotation
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(annotation))
    if annotation is bool:
        return "true or false"
    if annotation is str:
        for constraint in field.metadata:
            if getattr(constraint, "pattern", None):
                return "letters, digits, '.', '_' and '-', beginning with a letter or a digit"
        return "a text"
    words = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    bounds = [
        f"{words[kind]} {getattr(constraint, kind):g}"
        for constraint in field.metadata
        for kind in words
        if getattr(constraint, kind, None) is not None
    ]
    return " ".join(["a whole number" if annotation is int else "a number", " and ".join(bounds)]).strip()


def load_toml(path: Path) -> Layer:
    """Read a toml file into a layer.

    Raises
    ------
    ConfigurationError
        If there is no such file or it is not toml.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"--config {path}: cannot be read ({error.strerror}); give the path of a toml file, e.g. conf/smoke.toml"
        ) from None
    return Layer(str(path), dict(flatten(parse_toml(content, f"--config {path}"))))


def load_stored_toml(path: Path) -> Layer:
    """Read a toml file that a run has left behind, maybe of an earlier version; see :func:`load_toml`.

    Raises
    ------
    RunDirectoryError
        If it is not there, or not as it was left.
    """
    try:
        values = dict(flatten(parse_toml(path.read_bytes(), str(path))))
    except OSError as error:
        raise RunDirectoryError(f"{path}: cannot be read ({error.strerror}); put it back from a copy") from None
    except ConfigurationError as error:
        raise RunDirectoryError(f"{error}; put it back from a copy") from None
    return Layer(str(path), _BEFORE | with_new_names(values), settled=True)


def with_new_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted keys and their values, those of earlier versions under the names that they have now."""
    return {
        RENAMED_KEYS.get(key, key): _RENAMED_VALUES.get((key, value), value) if isinstance(value, str | bool) else value
        for key, value in values.items()
    }


def parse_assignments(assignments: Sequence[str]) -> Layer:
    """Turn ``KEY=VALUE`` texts into a layer. A value is read as toml, and as a plain text where it is not.

    Raises
    ------
    ConfigurationError
        If a text has no ``=``.
    """
    values: dict[str, Any] = {}
    problems = []
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator or not key.strip():
            problems.append(f"--set {assignment}: is not KEY=VALUE; write for example --set rounds=10")
            continue
        field = fields_by_key().get(key.strip())
        if field is not None and (field.annotation is str or get_origin(field.annotation) is Literal):
            # What must be a text is taken as it stands: data.classes=1 names a class "1".
            values[key.strip()] = text.strip().strip("\"'")
            continue
        try:
            values[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            values[key.strip()] = text.strip()
    if problems:
        raise ConfigurationError(problems)
    return Layer("--set", values)


def resolve(
    layers: Iterable[Layer], *, check: Callable[[Configuration], Iterable[str]] = lambda configuration: ()
) -> Configuration:
    """Merge layers over the defaults and validate the whole, but for what strategies ask of it.

    Parameters
    ----------
    layers
        Lowest first: a later layer's value wins.
    check
        Yields further problems of a configuration whose every value is allowed by itself, but maybe for the family.

    Raises
    ------
    ConfigurationError
        With every problem found: unknown keys with the nearest known one, wrong types, values out
        of range, contradictions.
    """
    layers = list(layers)
    merged, origins, problems = _merge(layers)
    configuration = _validate(merged, origins, problems)
    found: list[str] = []
    for section in _sections(configuration):
        found += section.problems(configuration)
    if configuration.model.name in FAMILIES:
        found += _family_problems(configuration)
    else:
        found.append(f"model.name = {configuration.model.name!r}: allowed is one of {', '.join(FAMILIES)}")
    found += check(configuration)
    problems += (problem for problem in found if not _is_excused(problem, layers))
    if problems:
        raise ConfigurationError(problems)
    if configuration.training.local_epochs > 0 and configuration.training.local_steps != 0:
        training = configuration.training.model_copy(update={"local_steps": 0})
        configuration = configuration.model_copy(update={"training": training})
    return configuration


def _is_excused(problem: str, layers: Sequence[Layer]) -> bool:
    """Return whether a setting does nothing because a later layer says so, or was accepted as it is."""
    if not isinstance(problem, InVain):
        return False
    places = {key: place for place, layer in enumerate(layers) for key in layer.values}
    place = places.get(problem.key, -1)
    return place >= 0 and (layers[place].settled or any(places.get(key, -1) > place for key in problem.switches))


def _merge(layers: Iterable[Layer]) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """Return the values by key, where each comes from, and what is wrong with keys."""
    known = fields_by_key()
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    problems: list[str] = []
    for layer in layers:
        for key, value in layer.values.items():
            if key in known:
                merged[key] = value
                origins[key] = layer.origin
            elif key in RENAMED_KEYS:
                problems.append(f"{key} ({layer.origin}): is called {RENAMED_KEYS[key]} now; write that in its place")
            else:
                nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
                problems.append(f"{key} ({layer.origin}): unknown key; the nearest known key is {nearest}")
    return merged, origins, problems


def _validate(merged: Mapping[str, Any], origins: Mapping[str, str], problems: list[str]) -> Configuration:
    """Return the configuration of dotted keys; raise with `problems` and those of single values."""
    known = fields_by_key()
    nested: dict[str, Any] = {}
    for key, value in merged.items():
        table = nested
        *parents, leaf = key.split(".")
        for parent in parents:
            table = table.setdefault(parent, {})
        table[leaf] = value
    try:
        return schema().model_validate(nested)
    except ValidationError as error:
        found = list(problems)
        for detail in error.errors():
            key = ".".join(kebab(str(part)) for part in detail["loc"])
            field = known[key]
            found.append(
                f"{key} = {merged[key]!r} ({origins[key]}): allowed is {describe_allowed(field)}; "
                f"the default is {field.default!r}"
            )
        raise ConfigurationError(found) from None


def _sections(configuration: Configuration) -> Iterator[Section]:
    """Yield the tables that all configurations have."""
    for name in Configuration.model_fields:
        value = getattr(configuration, name)
        if isinstance(value, Section):
            yield value


def _family_problems(configuration: Configuration) -> Iterator[str]:
    """Yield what is wrong with the table of the family in use, and which tables of others are set in vain."""
    name = configuration.model.name
    yield from configuration.family.problems(configuration)
    for other in FAMILIES:
        if other == name:
            continue
        table = getattr(configuration, other)
        defaults = dict(flatten(type(table)().model_dump(by_alias=True)))
        for key, value in flatten(table.model_dump(by_alias=True)):
            if value != defaults[key]:
                yield (
                    f"{other}.{key} = {value!r}: is an option of model.name = {other}, and here model.name = {name}; "
                    f"leave it out, or set model.name={other}"
                )


def flower_table() -> str:
    """Return the toml table ``[tool.flwr.app.config]`` that pyproject.toml must hold.

    ``python -m federation.config`` prints it; a test compares the two.
    """
    return tomli_w.dumps({"tool": {"flwr": {"app": {"config": schema()().model_dump(by_alias=True)}}}})


if __name__ == "__main__":
    print(flower_table(), end="")
