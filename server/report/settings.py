"""Settings, environment, and how to do a run again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from federation.config import RENAMED_KEYS, fields_by_key
from server.report.run_record import RunRecord, defaults, section, text
from server.report.tables import (
    Body,
    Column,
    Table,
    named,
    words,
)


def settings_tables(record: RunRecord) -> tuple[Table | None, Table]:
    """Lay out the settings that differ from their defaults, and all of them."""
    fields, known = fields_by_key(), defaults()
    rows, changed = [], []
    for key, held in record.settings.items():
        field = fields.get(key)
        description = " ".join((field.description or "").replace("``", "").split()) if field is not None else ""
        is_changed = _is_changed(key, held)
        before = _setting(known[key]) if key in known else "unknown to this version"
        mark = Markup('<strong class="changed">changed</strong>') if is_changed else ""
        rows.append([named(key, description), words(_setting(held)), words(before), words(mark)])
        if is_changed and key not in _NOT_SET:
            changed.append([named(key, description), words(_setting(held)), words(before)])
    columns = (
        Column("Key", is_numeric=False),
        Column("Value", is_numeric=False),
        Column("Default", is_numeric=False),
        Column("", is_numeric=False),
    )
    everything = Table(
        name="settings", caption="Every setting", columns=columns, bodies=[Body(rows)], is_sortable=False
    )
    if not changed:
        return None, everything
    return (
        Table(
            name="changed",
            caption="Settings that are not the default",
            columns=columns[:3],
            bodies=[Body(changed)],
        ),
        everything,
    )


# Where a run lies is no part of what it computes.
_NOT_SET = ("run-dir", "resume")


def _is_changed(key: str, held: Any) -> bool:
    known = defaults()
    return key not in known or known[key] != held


def _setting(held: Any) -> str:
    if isinstance(held, bool):
        return "true" if held else "false"
    return "(empty)" if held == "" else str(held)


def changed_settings(record: RunRecord) -> dict[str, Any]:
    """Return the settings that a new run of the same result needs to be told.

    By the names that config.toml has for them: it is the same code that does the run again.
    """
    changed = {
        key: held
        for key, held in record.written.items()
        if key not in _NOT_SET
        and (now := RENAMED_KEYS.get(key, key)) in record.settings
        and _is_changed(now, record.settings[now])
    }
    # Given epochs, steps are set to 0 by themselves.
    if record.settings.get("training.local-epochs"):
        changed.pop("training.local-steps", None)
    return changed


def commands(record: RunRecord) -> list[tuple[str, str]]:
    """Return what to type to do the run again: words and command."""
    name = shlex.quote(f"{record.setting('name')}-again")
    assignments = [
        "--set " + shlex.quote(f"{key}={'' if held == '' else _setting(held)}")
        for key, held in changed_settings(record).items()
    ]
    whole = " \\\n    ".join(["dermafed simulate", f"--run-dir {name}", *assignments])
    found = [
        ("With this run's own config.toml", f"dermafed simulate --config config.toml --run-dir {name}"),
        ("Without it", whole),
    ]
    commit = text(record.environment, "git_commit")
    if commit:
        found.insert(0, ("The same code", f"git checkout {shlex.quote(commit)}"))
    return found


def environment_rows(record: RunRecord) -> list[tuple[str, str]]:
    """Return what the run was computed with."""
    return list(_environment_rows(record.environment))


def _environment_rows(environment: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    labels = {
        "created": "Started",
        "dermafed": "dermafed",
        "git_commit": "Git commit",
        "python": "Python",
        "platform": "Platform",
        "processor": "Processor",
        "cores": "Cores",
        "device": "Device",
    }
    for key, label in labels.items():
        if environment.get(key) is not None:
            yield label, str(environment[key])
    for package, version in section(environment, "packages").items():
        yield str(package), str(version) if version is not None else "not installed"
