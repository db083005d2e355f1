"""What a run directory holds, read for the report: whole where it can be, with gaps where a run ended early."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from federation.config import Configuration, Layer, fields_by_key, flatten, resolve, schema, with_new_names
from federation.errors import ConfigurationError, RunDirectoryError
from federation.models.anatomy import Anatomy
from federation.models.families import FAMILIES
from federation.run_directory import RunDirectory
from federation.settings.section import split_names
from federation.toml_files import parse_toml


@dataclass(frozen=True)
class RunRecord:
    """The content of a run directory."""

    path: Path
    """The directory."""
    written: dict[str, Any]
    """Every key of ``config.toml``, dotted, as it stands there."""
    environment: dict[str, Any]
    """``environment.json``; empty where there is none."""
    partition: dict[str, Any]
    """``partition.json``; empty where there is none."""
    metrics: list[dict[str, Any]]
    """Lines of ``metrics.jsonl``: an evaluated round each, ascending."""
    hospitals: list[dict[str, Any]]
    """Lines of ``hospitals.jsonl``."""
    summary: dict[str, Any]
    """``summary.json``; empty while a run goes on, or where its process was killed."""
    sheets: dict[int, Path]
    """Sample sheets by round, ascending."""
    closest_pairs: Path | None
    """The picture of generated images beside training images, where there is one."""
    looks: Path | None
    """The picture of the same generated lesions at each hospital, where there is one."""

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings by the names that this version has for them, without the tables of families not in use.

        In the order of this version; those that it does not know come last.
        """
        found = with_new_names(self.written)
        others = FAMILIES.keys() - {str(found.get("model.name", defaults()["model.name"]))}
        keys = [*(key for key in defaults() if key in found), *(key for key in found if key not in defaults())]
        return {key: found[key] for key in keys if key.partition(".")[0] not in others}

    @cached_property
    def anatomy(self) -> Anatomy | None:
        """What the model is made of; None where this version does not know its family."""
        known = {key: value for key, value in self.settings.items() if key in fields_by_key()}
        # Settings of another version may be refused now: then that of the family's defaults.
        for settings in (known, {"model.name": self.setting("model.name")}):
            try:
                return resolve([Layer("config.toml", settings, settled=True)]).anatomy
            except ConfigurationError:
                continue
        return None

    @property
    def status(self) -> str:
        """How the run ended: ``done``, ``failed``, ``interrupted``, or ``unfinished`` without a summary."""
        status = self.summary.get("status")
        return status if isinstance(status, str) else "unfinished"

    @property
    def classes(self) -> tuple[str, ...]:
        """Diagnoses in the order of their label."""
        return split_names(str(self.settings.get("data.classes", "")))

    @property
    def is_conditional(self) -> bool:
        """Whether the generator is told the diagnosis."""
        return bool(self.setting("model.conditional"))

    @property
    def may_show_real_images(self) -> bool:
        """Whether real images may be seen. Phantom images show no patient."""
        return self.setting("data.source") == "phantom" or self.settings.get("report.show-real-images") is True

    @property
    def adds_noise(self) -> bool:
        """Whether what was shared was to be covered by noise: then no numbers of hospitals' training are shown."""
        return (number(self.settings, "strategy.noise-multiplier") or 0) > 0

    @property
    def extractor(self) -> str:
        """The extractor of the newest validation figures; empty where there are none."""
        return str(self.metrics[-1].get("extractor", "")) if self.metrics else ""

    @property
    def scores(self) -> list[dict[str, Any]]:
        """Lines of :attr:`metrics` that are of the newest line's extractor: those that can be compared."""
        return [line for line in self.metrics if str(line.get("extractor", "")) == self.extractor]

    def setting(self, key: str) -> Any:
        """Return a setting, or its default where an earlier version did not know it."""
        return self.settings.get(key, defaults().get(key))

    def rounds_done(self) -> int:
        """Return the last completed round, as far as the files tell."""
        stated = number(self.summary, "rounds")
        if stated is not None:
            return int(stated)
        return int(max((number(line, "round") or 0 for line in (*self.metrics, *self.hospitals)), default=0))

    def why_missing(self, name: str) -> str:
        """Say why a section of ``summary.json`` holds no figures; empty where it does."""
        entry = self.summary.get(name)
        stated = not_measured(entry)
        if stated:
            return _sentence(stated)
        if isinstance(entry, Mapping) and any(key in entry for key in _FIGURES.get(name, entry)):
            return ""
        if self.status == "unfinished":
            return "summary.json is missing: the run is still going on, or its process was killed before the end."
        if self.status != "done":
            return f"The run {_ENDS.get(self.status, 'ended')} after round {self.rounds_done()}, before its end."
        if isinstance(entry, Mapping) and entry:
            return f"The section {name} of summary.json is that of another version of dermafed."
        return f"summary.json has no section {name}: an earlier version of dermafed wrote it."


def defaults() -> dict[str, Any]:
    """Return every key of this version with its default."""
    return _defaults_of(schema())


@lru_cache(maxsize=8)
def _defaults_of(kind: type[Configuration]) -> dict[str, Any]:
    return dict(kind().to_flat())


# By what the sections of this version are known.
_FIGURES = {
    "test": ("kid", "fid"),
    "gain": ("hospitals",),
    "utility": ("arms",),
    "authenticity": ("valid",),
    "speed": ("images_per_second", "shares", "time_to_kid"),
}
_ENDS = {"failed": "failed", "interrupted": "was interrupted"}


def read_run(directory: RunDirectory) -> RunRecord:
    """Read a run directory.

    Raises
    ------
    RunDirectoryError
        If it does not exist, holds no run, or a file in it cannot be read; with every problem found.
    """
    path = directory.path
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise RunDirectoryError(f"run directory {path}: {what}; give the folder of a run")
    if not directory.config.is_file():
        raise RunDirectoryError(
            f"run directory {path}: has no config.toml, so it holds no run; give the folder that --run-dir named"
        )
    problems: list[str] = []
    record = RunRecord(
        path=path,
        written=_read_toml(directory.config, problems),
        environment=_read_json(directory.environment, problems),
        partition=_read_json(directory.partition, problems),
        metrics=sorted(_read_lines(directory.metrics, problems), key=lambda line: number(line, "round") or 0),
        hospitals=_read_lines(directory.hospitals, problems),
        summary=_read_json(directory.summary, problems),
        sheets=dict(sorted(_find_sheets(directory.samples))),
        closest_pairs=directory.closest_pairs if directory.closest_pairs.is_file() else None,
        looks=directory.looks if directory.looks.is_file() else None,
    )
    if problems:
        raise RunDirectoryError(problems)
    return record


def _read_text(path: Path, problems: list[str]) -> str | None:
    """Return a file's text; None where there is no file, or it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        problems.append(f"{path}: cannot be read ({error.strerror}); change its permissions, or move it away")
    except UnicodeDecodeError:
        problems.append(f"{path}: is not a text file; {_REMEDY}")
    return None


_REMEDY = "restore it from a copy, or move it away: the report then says what is missing"


def _read_toml(path: Path, problems: list[str]) -> dict[str, Any]:
    text = _read_text(path, problems)
    if text is None:
        return {}
    try:
        return dict(flatten(parse_toml(text.encode(), str(path))))
    except ConfigurationError as error:
        problems.append(f"{error}; put it back from a copy")
        return {}


def _read_json(path: Path, problems: list[str]) -> dict[str, Any]:
    text = _read_text(path, problems)
    if text is None:
        return {}
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        problems.append(f"{path}: is not valid json (line {error.lineno}: {error.msg}); {_REMEDY}")
        return {}
    if not isinstance(content, dict):
        problems.append(f"{path}: holds no json object; {_REMEDY}")
        return {}
    return content


def _read_lines(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    """Read a line file; a last line without its end, left by a killed run, is not read."""
    text = _read_text(path, problems)
    entries = []
    for count, line in enumerate((text or "").splitlines(keepends=True), start=1):
        if not line.endswith("\n"):
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            problems.append(f"{path}: line {count} is not valid json ({error.msg}); {_REMEDY}")
            return []
        if not isinstance(entry, dict):
            problems.append(f"{path}: line {count} holds no json object; {_REMEDY}")
            return []
        entries.append(entry)
    return entries


def _find_sheets(folder: Path) -> Iterator[tuple[int, Path]]:
    for path in folder.glob("round-*.png"):
        digits = path.stem.removeprefix("round-")
        if digits.isdecimal():
            yield int(digits), path


# ---------------------------------------------------------------- looking into what may be missing


def section(value: Any, *keys: str) -> dict[str, Any]:
    """Return a nested object; empty where there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return dict(value) if isinstance(value, Mapping) else {}


def entries(value: Any, *keys: str) -> list[dict[str, Any]]:
    """Return a nested list of objects; empty where there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return [dict(entry) for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []


def widest_interval(value: Any, *keys: str) -> tuple[float, float] | None:
    """Return a nested interval over test images and seeds; with one seed, over test images; None where none is."""
    return interval(value, *keys, "whole_interval") or interval(value, *keys, "test_interval")


def number(value: Any, *keys: str) -> int | float | None:
    """Return a nested number; None where there is none, or it is not finite."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def interval(value: Any, *keys: str) -> tuple[float, float] | None:
    """Return a nested [low, high]; None where there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    low, high = (number(entry) for entry in value)
    return None if low is None or high is None else (low, high)


def text(value: Any, *keys: str) -> str:
    """Return a nested text; empty where there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, str) else ""


def not_measured(value: Any) -> str:
    """Return the sentence of ``{"not_measured": …}``; empty for anything else."""
    return text(value, "not_measured")


def _sentence(words: str) -> str:
    words = words.strip()
    # Not the keys and names that a sentence may begin with.
    first = words.split(" ", 1)[0]
    begin = words if "." in first or "-" in first else words[:1].upper() + words[1:]
    return begin if begin.endswith((".", "!", "?")) else f"{begin}."
