"""Initial weights from somewhere: training that continues from a run, an exported generator or a file (transfer).

Whatever weights of ours a source holds are taken where an entry's name and shape are those of the new model; what is
not taken is named. An exported generator is a running average, and begins both the generator and its average. Rows
that belong to a class are matched by the class's name; rows of hospitals are constants. A run keeps what it began
with as ``initial.safetensors``: it can be resumed, and repeated, without the source.

``python -m federation.models.initial SOURCE OUT.safetensors`` writes one file of a source: its trained parts.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from federation.config import SHIPPED_WEIGHTS, Configuration, load_stored_toml, resolve
from federation.errors import DataError
from federation.models import build_model
from federation.models.final import DESCRIPTION, WEIGHTS, read_description
from federation.run_directory import RunDirectory, written_atomically
from federation.settings.section import join_names, split_names
from federation.sharing import load_tensors, named_tensors

if TYPE_CHECKING:
    from federation.models.protocol import GenerativeModel

_SHIPPED = {name: Path(__file__).with_name(f"{name}-32.safetensors") for name in SHIPPED_WEIGHTS}
_GLOBAL = "global.safetensors"
_MOST_NAMED = 3


@dataclass(frozen=True)
class InitialWeights:
    """What a source holds."""

    file: Path
    """The file that was read."""
    sha256: str
    tensors: Mapping[str, Tensor]
    """By full name, ``generator.mapping.…``; fp32."""
    classes: tuple[str, ...]
    """In the order of class rows; empty where they are not known."""
    resolution: int | None
    """Side in pixels, where it is known."""


@dataclass(frozen=True)
class Taken:
    """What of a source a model begins with."""

    tensors: Mapping[str, Tensor]
    """By full name, of the model's shapes."""
    notes: tuple[str, ...] = field(default=())
    """What was not taken, and why, a sentence each."""


def read_initial(configuration: Configuration) -> InitialWeights:
    """Read what ``model.initial`` names.

    Raises
    ------
    DataError
        If there is nothing that can be read, or it belongs to another family or resolution.
    """
    given = configuration.model.initial
    path = _SHIPPED.get(given) or Path(given)
    found = _read(path, configuration)
    expected = configuration.model.resolution
    if found.resolution not in (None, expected):
        raise DataError(
            f"model.initial = {given!r}: its networks draw {found.resolution} px, and model.resolution = {expected}; "
            "layers of one name do other work there: give weights of this resolution, or set model.resolution"
        )
    return found


def _read(path: Path, configuration: Configuration) -> InitialWeights:
    if path.is_dir():
        run = RunDirectory(path)
        rounds = run.checkpoint_rounds()
        if rounds and run.config.is_file():
            stored = resolve([load_stored_toml(run.config)])
            classes = stored.class_names if stored.model.conditional else ()
            return _of_file(run.checkpoint(max(rounds)) / _GLOBAL, classes, stored.model.resolution)
        folder = path if (path / DESCRIPTION).is_file() else run.final
        if (folder / DESCRIPTION).is_file():
            return _of_final(folder)
        raise DataError(
            f"model.initial = {str(path)!r}: holds no weights, neither checkpoints/ nor final/ nor {DESCRIPTION}; give "
            "a run's directory, its final/ folder, or a safetensors file"
        )
    if path in _SHIPPED.values() and not path.exists():
        raise DataError(
            f"{path}: is not in this copy of dermafed, as Flower's app bundles hold no weights; set model.initial to "
            "the path of that file in an installation, or leave it empty"
        )
    if not path.exists():
        raise DataError(
            f"model.initial = {str(path)!r}: does not exist; give a run's directory, its final/ folder, a safetensors "
            f"file, or one of {', '.join(SHIPPED_WEIGHTS)}"
        )
    if path.with_name(DESCRIPTION).is_file():  # one of the files of final/
        return _of_final(path.parent, path)
    return _of_file(path, (), None)


def _of_final(folder: Path, file: Path | None = None) -> InitialWeights:
    configuration, classes, mixture, _ = read_description(folder / DESCRIPTION)
    if mixture and file is None:
        names = ", ".join(entry["file"] for entry in mixture)
        raise DataError(
            f"model.initial = {str(folder)!r}: holds the generators of several hospitals; give one of its files, that "
            f"is {names}"
        )
    (drawing,) = configuration.anatomy.drawing
    return _of_file(file or folder / WEIGHTS, classes, configuration.model.resolution, drawing)


def _of_file(file: Path, classes: tuple[str, ...], resolution: int | None, part: str = "") -> InitialWeights:
    tensors, told, sha256 = _load(file)
    if part:
        tensors = {f"{part}.{name}": value for name, value in tensors.items()}
    return InitialWeights(
        file=file,
        sha256=sha256,
        tensors=tensors,
        classes=classes or split_names(told.get("classes", "")),
        resolution=resolution or (int(told["resolution"]) if "resolution" in told else None),
    )


def _load(file: Path) -> tuple[dict[str, Tensor], dict[str, str], str]:
    """Return a file's floating-point entries in fp32, the words about it, and its sha256."""
    try:
        data = file.read_bytes()
        tensors = safetensors.torch.load(data)
        with safetensors.safe_open(file, "pt") as opened:
            told = opened.metadata() or {}
    except (OSError, safetensors.SafetensorError) as error:
        raise DataError(f"model.initial: {file} cannot be read as a safetensors file ({error})") from error
    return (
        {name: value.float() for name, value in tensors.items() if value.is_floating_point()},
        dict(told),
        hashlib.sha256(data).hexdigest(),
    )


def take(initial: InitialWeights, model: GenerativeModel, classes: Sequence[str]) -> Taken:
    """Choose what a model begins with.

    Parameters
    ----------
    initial
        Of :func:`read_initial`.
    model
        As it was built, from random weights; it is not changed.
    classes
        Its classes in the order of its rows; empty where it is told none.

    Raises
    ------
    DataError
        If nothing of it fits, or something is not finite.
    """
    entries, states = named_tensors(model.networks), model.anatomy.of_kind("state", "frozen")
    rows = _with_followers(model.class_rows, model)
    of_hospitals = _with_followers(model.site_rows, model)
    taken: dict[str, Tensor] = {}
    other_shapes: list[str] = []
    absent: list[str] = []
    for name, like in entries.items():
        if not like.is_floating_point() or name.split(".")[0] in states or name in of_hospitals:
            continue
        value = _find(name, initial.tensors, model)
        if value is not None and name in rows and initial.classes and value.shape[1:] == like.shape[1:]:
            taken[name] = _matched_rows(value, like, initial.classes, classes)
        elif value is not None and value.shape == like.shape:
            taken[name] = value
        else:
            (absent if value is None else other_shapes).append(name)
    if spoiled := [name for name, value in taken.items() if not torch.isfinite(value).all()]:
        raise DataError(f"model.initial: {initial.file} holds values that are not finite in {_named(spoiled)}")
    if not taken:
        raise DataError(
            f"model.initial: nothing of {initial.file} fits: {_named(other_shapes) or 'no entry'} of other shapes, "
            f"{len(absent)} not there; give weights of a model of the same family and sizes (model.*, "
            "stylegan2.channel-base, stylegan2.latent-size)"
        )
    return Taken(taken, tuple(_notes(initial, classes, rows & taken.keys(), other_shapes, absent)))


def _with_followers(rows: Sequence[str], model: GenerativeModel) -> set[str]:
    """Return entries and those of running averages that follow them."""
    return {name for row in rows for name in (row, *model.anatomy.follower_of(row).values())}


def _find(name: str, tensors: Mapping[str, Tensor], model: GenerativeModel) -> Tensor | None:
    """Return an entry, or that of its running average, or that which it is the average of."""
    part, _, rest = name.partition(".")
    averages = model.anatomy.averages
    others = [follower for follower, leader in averages.items() if leader == part] + [averages.get(part, "")]
    for candidate in (part, *others):
        if f"{candidate}.{rest}" in tensors:
            return tensors[f"{candidate}.{rest}"]
    return None


def _matched_rows(value: Tensor, like: Tensor, known: Sequence[str], classes: Sequence[str]) -> Tensor:
    """Return rows by class name: those of the source where it has the class, else the model's own."""
    matched = like.detach().clone()
    for row, name in enumerate(classes):
        if name in known:
            matched[row] = value[known.index(name)]
    return matched


def _notes(
    initial: InitialWeights, classes: Sequence[str], rows: set[str], other_shapes: Sequence[str], absent: Sequence[str]
) -> Iterator[str]:
    if rows and initial.classes:
        if new := [name for name in classes if name not in initial.classes]:
            yield f"classes that begin at random, as it does not know them: {', '.join(new)}"
    elif rows:
        yield "it does not say which classes it knows: rows are taken in their order"
    if other_shapes:
        yield f"of other shapes there, and begin at random: {_named(other_shapes)}"
    if absent:
        yield f"not there, and begin at random: {_named(absent)}"


def _named(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def write_taken(file: Path, taken: Mapping[str, Tensor], **told: str) -> None:
    """Write entries, with words about them.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    with written_atomically(file) as temporary:
        tensors = {name: value.detach().cpu().contiguous() for name, value in taken.items()}
        safetensors.torch.save_file(tensors, temporary, metadata=told)


def read_kept(file: Path) -> tuple[Taken, dict[str, str]]:
    """Read what a run has kept of what it began with, and the words about it.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    tensors, told, _ = _load(file)
    return Taken(tensors), told


def build_initial_model(configuration: Configuration, *, device: torch.device | str = "cpu") -> GenerativeModel:
    """Build a model with what its run began with: random weights, and over them ``initial.safetensors``.

    Raises
    ------
    DataError
        If that file should be in the run directory and cannot be read.
    """
    model = build_model(configuration, device=device)
    if configuration.model.initial:
        file = RunDirectory(Path(configuration.run_dir)).initial
        load_tensors(model.networks, read_kept(file)[0].tensors)
    return model


def main(source: str, out: str) -> None:
    """Write the trained parts of a run, in bf16, with what it says of them."""
    run = RunDirectory(Path(source))
    configuration = resolve([load_stored_toml(run.config)])
    initial = _read(Path(source), configuration)
    anatomy: Any = configuration.anatomy
    kept = {}
    for name, value in initial.tensors.items():
        part, _, rest = name.partition(".")
        if part in anatomy.averages:  # what draws best begins what draws
            kept[f"{anatomy.averages[part]}.{rest}"] = value.bfloat16()
        elif part in anatomy.trained:
            kept.setdefault(name, value.bfloat16())
    write_taken(
        Path(out),
        kept,
        classes=join_names(initial.classes),
        resolution=str(configuration.model.resolution),
        model=configuration.model.name,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
