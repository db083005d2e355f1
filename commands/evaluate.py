"""``dermafed evaluate``: judge a run, an exported generator, or any folder of images."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from federation.allocation import keep_freed_memory
from federation.config import Configuration, Layer, load_stored_toml, parse_assignments
from federation.errors import InputError, RunDirectoryError, RunError, StorageError
from federation.heartbeat import Heartbeat
from federation.run_directory import RunDirectory, read_json, read_lines, to_json, write_text
from federation.settings.section import join_names
from strategies.configuration import resolve

if TYPE_CHECKING:
    from federation.metrics.features import FeatureExtractor
    from server.evaluation.membership import Attacked
    from server.evaluation.supply import ImageSupply
    from server.inputs import RunInputs

PARTS = ("test", "validation")
PHANTOM = "phantom"
_LARGEST, _LEAST = 512, 32


TargetArgument = Annotated[
    Path,
    typer.Argument(
        metavar="RUN_DIR|FINAL_DIR|IMAGE_FOLDER",
        help="A finished run, an exported generator (its final/ folder), or a folder of images from anywhere.",
        show_default=False,
    ),
]
DataOption = Annotated[
    str,
    typer.Option(
        metavar="DIR",
        help="The real images: HAM10000, ISIC 2019, ISIC 2020, a folder with a csv or with a sub-folder per class; "
        "the layout is recognised. The word phantom stands for the generated ones. A run knows its own.",
        show_default=False,
    ),
]
OutOption = Annotated[
    Path | None, typer.Option(metavar="FILE.json", help="Where the figures go. Default: the screen alone.")
]
CompareOption = Annotated[
    Path | None, typer.Option(metavar="OTHER", help="Judge this too, on the same real images, and say which is better.")
]
PartOption = Annotated[
    str,
    typer.Option(
        metavar="test|validation",
        help="Real images to compare with. What is chosen by looking at it is chosen on validation; test is for "
        "the end. Default: evaluation.part.",
    ),
]
UtilityOption = Annotated[
    bool | None,
    typer.Option(
        "--utility/--no-utility",
        help="Train classifiers on the images, to test if they serve one; it is said first what that costs. Default: "
        "of a run as its evaluation.utility says, else not.",
        show_default=False,
    ),
]
ResolutionOption = Annotated[
    int,
    typer.Option(
        metavar="PIXELS",
        help="IMAGE_FOLDER: the side at which images are judged, a power of two from 32; larger ones are reduced. "
        "Default: their own.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set one key, e.g. evaluation.utility=false, evaluation.extractor=inception-v3, data.group-column=id.",
    ),
]


def evaluate(
    target: TargetArgument,
    data: DataOption = "",
    out: OutOption = None,
    compare: CompareOption = None,
    part: PartOption = "",
    resolution: ResolutionOption = 0,
    utility: UtilityOption = None,
    set_values: SetOption = None,
) -> None:
    """Judge generated images: fidelity, diversity, predictive ability, authenticity.

    Real images are split by patient or lesion, by data.split-seed, into train,
    extractor, validation and test. Fidelity and diversity are against the test
    part. Membership inference asks if the train part was learned by heart, which
    is meant for generators that were trained on that part. An image folder has
    its classes from labels.csv, or from sub-folders, or none. A run brings its
    own settings and its own feature extractor.

    FILE.json has kid, fid, precision, density, recall, coverage and vendi at its
    top level with the extractor's name, and the sections gain, utility and
    authenticity.

    Exit codes: 0 done, 1 it failed, 2 the input is wrong, 130 interrupted (143
    by SIGTERM, 129 by SIGHUP).
    """
    if part and part not in PARTS:
        raise InputError(f"--part {part}: allowed is one of {', '.join(PARTS)}")
    _check_out(out)
    assignments = parse_assignments(set_values or [])
    targets = [target] if compare is None else [target, compare]
    configuration = _configuration(targets, data, resolution, utility, assignments)
    part = part or configuration.evaluation.part

    from server.evaluation.summary_text import describe_comparison, describe_judgement

    console = Console()
    with _Activity(Console(stderr=True)) as activity:
        # Classifiers take longest: what needs none is not lost with them.
        keep = None if out is None or compare is not None else partial(_keep, out, target, data)
        judged = _judge(targets, configuration, part, _asked(utility, assignments), activity, keep)
    for path, result in zip(targets, judged, strict=True):
        if compare is not None:
            typer.echo(f"{path}:")
        for line in describe_judgement(result):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    document = _document(target, data, judged[0])
    if compare is not None:
        document["other"] = _document(compare, data, judged[1])
        document["comparison"] = _compare(target, compare, *judged)
        for line in describe_comparison(document["comparison"]):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    if out is not None:
        try:
            write_text(out, to_json(document, indent=2) + "\n")
        except StorageError as error:
            raise RunError(
                f"--out {out}: cannot be written any more ({error.reason}); its figures stand above"
            ) from None
        typer.echo(f"wrote {out}")


def _keep(out: Path, target: Path, data: str, judged: dict[str, Any]) -> None:
    """Write what is known before classifiers are trained."""
    write_text(out, to_json(_document(target, data, judged), indent=2) + "\n")
    typer.echo(f"wrote {out}, all but what classifiers say", err=True)


class _Activity:
    """Shows on the error stream what is done: as a bar on a terminal, else in a line every half minute."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=None)
        self._heartbeat = None if console.is_terminal else Heartbeat(partial(typer.echo, err=True))

    def __enter__(self) -> _Activity:
        self._bar.start()
        if self._heartbeat is not None:
            self._heartbeat.doing("starting")
            self._heartbeat.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()
        if self._heartbeat is not None:
            self._heartbeat.stop()

    def __call__(self, description: str, done: int, total: int) -> None:
        self._bar.update(self._task, description=description, completed=done, total=total)
        if self._heartbeat is not None:
            self._heartbeat.doing(description, done, total)


def _check_out(out: Path | None) -> None:
    if out is None:
        return
    try:
        if out.is_dir():
            raise InputError(f"--out {out}: is a folder; give the name of a json file")
        if not out.resolve().parent.is_dir():
            raise InputError(f"--out {out}: there is no folder {out.resolve().parent}; make it, or give another --out")
        # Now, and not after an hour of judging.
        with TemporaryFile(dir=out.resolve().parent):
            pass
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written ({error.strerror}); give another --out") from None


def _is_run(path: Path) -> bool:
    return RunDirectory(path).config.is_file()


def _is_final(path: Path) -> bool:
    return (path / "model.json").exists() or (path / "generator.safetensors").exists()


def _configuration(
    targets: list[Path], data: str, resolution: int, utility: bool | None, assignments: Layer
) -> Configuration:
    """Resolve what to judge with: a run's own settings, or those that the target's files and the data's layout give."""
    from data_partitions.sources.layout import recognise_layout
    from federation.models.final import load_final

    for path in targets:
        if not path.is_dir():
            what = "is a file" if path.exists() else "does not exist"
            raise InputError(f"{path}: {what}; give a finished run, its final/ folder, or a folder of images")
    layers: list[Layer] = []
    of_a_run = False
    sides: dict[Path, int] = {}
    for path in targets:
        if _is_run(path):
            directory = RunDirectory(path)
            configuration = resolve([load_stored_toml(directory.config)])
            if not (directory.metrics.is_file() and directory.metrics.read_text(encoding="utf-8").strip()):
                raise RunDirectoryError(
                    f"run directory {path}: the run never reached its first evaluation, so that there is nothing to "
                    f"judge; go on with it: dermafed simulate --resume --run-dir {path}"
                )
            _check_finished(path)
            sides[path] = configuration.model.resolution
            if not layers:
                layers.append(load_stored_toml(directory.config))
                of_a_run = True
        elif _is_final(path):
            final = load_final(path)
            sides[path] = final.resolution
            if final.classes and not layers:
                layers.append(Layer(str(path), {"data.classes": join_names(final.classes)}))
    side = _common_side(targets, sides, resolution)
    if not _is_run(targets[0]):
        if not data:
            raise InputError(f"--data is missing: {targets[0]} does not know its real images; give their folder")
        # Sites are read from the data; who trained on what is not known.
        layers.append(Layer("target", {"partition.hospitals": 1}))
    if data:
        is_phantom = data == PHANTOM and not Path(data).exists()
        found = {"data.source": PHANTOM} if is_phantom else recognise_layout(data, assignments.values.keys())
        layers.append(Layer("--data", dict(found)))
    layers.append(Layer("target", {"model.resolution": side}))
    if utility is not None:
        layers.append(Layer(_utility_option(utility), {"evaluation.utility": utility}))
    elif not of_a_run:
        # It takes longer than all the rest: whoever has a folder judged asks for it.
        layers.append(Layer("target", {"evaluation.utility": False}))
    layers.append(assignments)
    configuration = resolve(layers).with_absolute_paths()
    if utility not in (None, configuration.evaluation.utility):
        raise InputError(
            f"{_utility_option(utility)} and --set evaluation.utility={str(not utility).lower()}: they contradict each "
            "other; leave one of the two out"
        )
    return configuration


def _common_side(targets: list[Path], sides: dict[Path, int], resolution: int) -> int:
    """Return the side at which all targets are judged; `sides` are those of runs and generators, which are fixed."""
    folders = [path for path in targets if path not in sides]
    if sides and resolution and set(sides.values()) != {resolution}:
        first = next(iter(sides))
        raise InputError(
            f"--resolution {resolution}: {first} draws {sides[first]} px; leave --resolution out, or generate images "
            "into a folder and give that"
        )
    if len(set(sides.values())) > 1:
        known = " and ".join(f"{path} ({side} px)" for path, side in sides.items())
        raise InputError(
            f"{known}: cannot be compared at one resolution; generate both into folders and give --resolution"
        )
    return next(iter(sides.values()), 0) or resolution or _own_resolution(folders)


def _asked(utility: bool | None, assignments: Layer) -> set[str]:
    """Return the keys that the command line sets."""
    return {*assignments.values, *([] if utility is None else ["evaluation.utility"])}


def _utility_option(utility: bool) -> str:
    return "--utility" if utility else "--no-utility"


def _check_finished(path: Path) -> None:
    """Refuse a run that is not finished: an older generator may lie in one that was resumed for more rounds."""
    from federation.models.final import load_final

    load_final(path)
    summary = RunDirectory(path).summary
    try:
        status = json.loads(summary.read_text(encoding="utf-8"))["status"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunDirectoryError(
            f"{summary}: cannot be read ({error}); finish the run with dermafed simulate --resume --run-dir {path}"
        ) from None
    if status != "done":
        raise RunDirectoryError(
            f"run directory {path}: the run is not finished but {status}; finish it with dermafed simulate --resume "
            f"--run-dir {path}"
        )


def _own_resolution(folders: list[Path]) -> int:
    """Return the images' own side, if it is one that networks take."""
    from data_partitions.image_folder import find_resolution

    sides = {path: find_resolution(path) for path in folders}
    smallest = min(sides.values())
    path = min(sides, key=lambda path: sides[path])
    if smallest < _LEAST:
        raise InputError(f"{path}: its images are of {smallest} px; allowed are {_LEAST} px and more")
    below = min(_LARGEST, 2 ** (smallest.bit_length() - 1))
    if len(set(sides.values())) > 1 or smallest != below:
        known = ", ".join(f"{path} has {side} px" for path, side in sides.items())
        raise InputError(
            f"{known}: images are judged at one power of two; give --resolution {below}, to which larger ones are "
            "reduced, or less"
        )
    return below


def _judge(
    targets: list[Path],
    configuration: Configuration,
    part: str,
    asked: Collection[str],
    progress: _Activity,
    keep: Callable[[dict[str, Any]], None] | None,
) -> list[dict[str, Any]]:
    """Judge every target with one extractor on the same real images."""
    import torch

    from server.evaluation.judge import Judge
    from server.evaluation.threads import use_threads
    from server.inputs import prepare_inputs

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    use_threads(configuration.evaluation.threads)
    keep_freed_memory()
    inputs = prepare_inputs(configuration, progress)
    for note in inputs.notes:
        typer.echo(f"data: {note}", err=True)
    members_unknown = [_why_members_are_unknown(path, inputs, part) for path in targets]
    supplies = [_supply(path, inputs, device, progress) for path in targets]
    extractor = _extractor(targets, inputs, asked, device, progress)
    second = _second_extractor(targets, inputs, device)
    say = partial(typer.echo, err=True)
    judge = Judge(inputs, extractor, device=device, progress=progress, second=second, say=say)
    judged = [
        judge.judge(supply, attacked=attacked, part=part, members_unknown=reason, keep=keep)
        for (supply, attacked), reason in zip(supplies, members_unknown, strict=True)
    ]
    # A run without it was set so; of anything else nobody was asked.
    asked_or_not = configuration.evaluation.utility or "evaluation.utility" in asked or _is_run(targets[0])
    if not asked_or_not and not all(judge.why_no_classifier(supply) for supply, _ in supplies):
        cost = judge.utility_cost(part)
        say(f"utility: not asked for; --utility trains {cost}" if cost else "utility: no classifier can be trained")
    return judged


def _why_members_are_unknown(path: Path, inputs: RunInputs, part: str) -> str:
    """Return why a run's training images are not the train part here; empty where they are, or are taken to be.

    Raises
    ------
    RunDirectoryError
        If it was trained on images that it would be judged with.
    """
    import pandas as pd

    directory = RunDirectory(path)
    if not _is_run(path):
        return ""
    if not directory.split.is_file():
        return "the hospitals' training images were not known to the server"
    split = pd.read_csv(directory.split, dtype=str)
    trained_on = set(split.image_id[split.part == "train"])
    ids = inputs.index.table.image_id.to_numpy(dtype=object)
    if trained_on == set(ids[inputs.rows("train")]):
        return ""
    judged = ids[inputs.rows(part)]
    shared = sorted(trained_on.intersection(judged))
    if shared:
        raise RunDirectoryError(
            f"run directory {path}: was trained on {len(shared):,} of the {len(judged):,} images that it would be "
            f"judged with ({shared[0]}, …), since its split or its data are others; judge it by itself, without --set "
            "data.split-seed, or compare runs of one split"
        )
    return "the run was trained on other images than the train part here"


def _supply(path: Path, inputs: RunInputs, device: Any, progress: _Activity) -> tuple[ImageSupply, Attacked]:
    """Open a target."""
    import numpy as np

    from data_partitions.image_folder import load_image_folder
    from federation.models.final import load_final
    from server.evaluation.membership import load_attacked, nothing_attacked, without_uploads
    from server.evaluation.supply import GeneratorSupply, PoolSupply

    configuration = inputs.configuration
    classes = inputs.index.classes
    if _is_run(path) or _is_final(path):
        final = load_final(path, device=device)
        if final.classes and final.classes != classes:
            raise InputError(
                f"{path}: its classes are {', '.join(final.classes)}, and those of the data {', '.join(classes)}; give "
                f"the data that it was trained on, or --set {shlex.quote('data.classes=' + join_names(final.classes))}"
            )
        supply = GeneratorSupply(final, seed=configuration.seed, threads=configuration.evaluation.threads)
        if _is_run(path):
            own = resolve([load_stored_toml(RunDirectory(path).config)])
            attacked = load_attacked(RunDirectory(path), own, device)
            partition = read_json(RunDirectory(path).partition)
            if partition["digest"] != inputs.partition.digest:
                reason = "its hospitals held other images than those of the partition that is in force here"
                attacked = replace(attacked, uploads=without_uploads(reason))
            return supply, attacked
        return supply, nothing_attacked(
            "an exported generator comes without the networks trained beside it; give the run directory"
        )
    folder = load_image_folder(path, configuration.model.resolution, progress)
    for note in folder.notes:
        typer.echo(f"{path}: {note}", err=True)
    labels = None
    if folder.class_names is not None:
        unknown = sorted(set(folder.class_names) - set(classes))
        if unknown:
            typer.echo(
                f"{path}: judged without classes, since the data have no class {', '.join(unknown)}; theirs are "
                f"{', '.join(classes)}",
                err=True,
            )
        else:
            labels = np.array([classes.index(name) for name in folder.class_names])
    pool = PoolSupply(folder.images, labels, seed=configuration.seed)
    return pool, nothing_attacked("a folder of images comes without networks; give the run directory")


def _extractor(
    targets: list[Path], inputs: RunInputs, asked: Collection[str], device: Any, progress: _Activity
) -> FeatureExtractor:
    """Return the extractor of the first target that is a run, else the one that the settings name.

    Raises
    ------
    RunDirectoryError
        If the run's own cannot be had here, and no other was asked for.
    """
    from federation.metrics.features import LesionCNNExtractor
    from federation.metrics.lesion_cnn import has_lesion_cnn
    from server.evaluation.run_extractor import extractor_of

    run = None if "evaluation.extractor" in asked else next((path for path in targets if _is_run(path)), None)
    if run is not None and has_lesion_cnn(RunDirectory(run).extractor):
        return LesionCNNExtractor.load(RunDirectory(run).extractor, device=device)
    extractor, sentence = extractor_of(inputs, device=device, progress=progress)
    if run is not None:
        own = read_lines(RunDirectory(run).metrics)[-1]["extractor"]
        if own != extractor.name:
            raise RunDirectoryError(
                f"run directory {run}: its scores are of {own}, and here the extractor is {extractor.name}: they could "
                "not be compared; name the run's weights with --set evaluation.extractor-weights=FILE, or ask for "
                "another, e.g. --set evaluation.extractor=lesion-cnn"
            )
    typer.echo(f"extractor: {sentence}", err=True)
    return extractor


def _second_extractor(targets: list[Path], inputs: RunInputs, device: Any) -> FeatureExtractor:
    """Return the second extractor that the first target that is a run has kept, else a new one."""
    from federation.metrics.random_filters import RandomFiltersExtractor, has_random_filters
    from server.evaluation.run_extractor import second_extractor_of

    for folder in (RunDirectory(path).extractor for path in targets if _is_run(path)):
        if has_random_filters(folder):
            return RandomFiltersExtractor.load(folder, device=device)
    return second_extractor_of(inputs, device=device)


def _document(target: Path, data: str, judged: dict[str, Any]) -> dict[str, Any]:
    """Return what is written: the figures of the test part at the top."""
    return {
        "target": str(target),
        "data": str(data),
        **judged["test"],
        "gain": judged["gain"],
        "utility": judged["utility"],
        "authenticity": judged["authenticity"],
    }


def _compare(target: Path, other: Path, first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Say which of two has the smaller KID, and if the difference is more than draws make."""
    from server.evaluation.scores import compare_draws

    return {"target": str(target), "other": str(other), **compare_draws(first["test"], second["test"])}
