"""``dermafed generate``: images from a trained generator."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from federation.errors import DataError, InputError, RunError
from federation.run_directory import lock_folder

if TYPE_CHECKING:
    from torch import Tensor

DEVICES = ("auto", "cpu", "cuda")
LABELS = "labels.csv"
# A class for images that have none: data.source = folder needs one.
UNLABELLED = "unlabelled"
# Fixed, since the level is part of a file's bytes: zlib's own compromise of size and speed.
PNG_COMPRESSION = 6


SourceArgument = Annotated[
    Path,
    typer.Argument(
        metavar="RUN_DIR|FINAL_DIR",
        help="A finished run, or its final/ folder: generator.safetensors and model.json are all it takes.",
        show_default=False,
    ),
]
CountOption = Annotated[int, typer.Option(metavar="N", help="Images in all.", show_default=False)]
OutOption = Annotated[
    Path, typer.Option(metavar="DIR", help="A new or an empty folder for the images.", show_default=False)
]
ClassOption = Annotated[
    list[str] | None,
    typer.Option(
        "--class",
        metavar="NAME",
        help="The class to draw. May be repeated: the classes in turn. Default: all classes in turn.",
    ),
]
HospitalOption = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="The hospital whose look all images have. Default: each as often as it has images of the class.",
        show_default=False,
    ),
]
SeedOption = Annotated[
    int, typer.Option(metavar="S", help="Another seed draws other images; the same seed the same bytes.")
]
TruncationOption = Annotated[
    float,
    typer.Option(
        metavar="T",
        help="From 1, as varied as was learned, to 0, the typical image (of all classes for a StyleGAN2, of each for a "
        "VAE); between them, more typical and less varied images.",
    ),
]
ThreadsOption = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="CPU threads. Each draws images of its own, so that their number does not change a byte; "
        "each needs memory for up to 32 images.",
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        metavar="auto|cpu|cuda",
        help="auto takes a GPU if there is one; the last bits of a GPU's images are not a CPU's.",
    ),
]


def generate(
    source: SourceArgument,
    count: CountOption,
    out: OutOption,
    class_names: ClassOption = None,
    hospital: HospitalOption = "",
    seed: SeedOption = 0,
    truncation: TruncationOption = 1.0,
    threads: ThreadsOption = 1,
    device: DeviceOption = "auto",
) -> None:
    """Write images from a trained generator as numbered png files, with a labels.csv.

    RUN_DIR is a finished run, FINAL_DIR its final/ folder or a copy of that.
    Image number i is the same whatever --count is, on one type of processor.
    DIR is written whole or not at all.

    Train on the images with --set data.source=folder --set data.root=DIR --set
    partition.hospitals=1, as they have one site. Those of a generator without
    classes bear the label "unlabelled", since a folder needs one: add --set
    model.conditional=false.

    Exit codes: 0 done, 1 it failed, 2 the input is wrong, 130 interrupted (143
    by SIGTERM, 129 by SIGHUP).
    """
    # Only now, so that the help of dermafed need not wait for PyTorch.
    import torch

    from federation.models.final import load_final, request_problems

    names = class_names or []
    requested = request_problems(count=count, seed=seed, truncation=truncation, threads=threads)
    problems = [f"--{problem}" for problem in requested]
    if device not in DEVICES:
        problems.append(f"--device {device}: allowed is one of {', '.join(DEVICES)}")
    elif device == "cuda" and not torch.cuda.is_available():
        problems.append("--device cuda: PyTorch finds no GPU on this machine; use --device cpu, or leave it out")
    problems += _out_problems(out)
    generator = None
    on_gpu = device in ("auto", "cuda") and torch.cuda.is_available()
    try:
        generator = load_final(source, device="cuda" if on_gpu else "cpu")
    except DataError as error:
        problems += error.problems
    else:
        problems += [f"--{problem}" for problem in generator.class_problems(names)]
        if hospital:
            problems += [f"--{problem}" for problem in generator.hospital_problems(hospital)]
    if problems or generator is None:
        raise InputError(problems)
    if hospital:
        generator = generator.of_hospital(hospital)
    batches = generator.batches(count, class_name=names, seed=seed, truncation=truncation, threads=threads)
    written = write_images(batches, out, count=count, labels=names or generator.classes or (UNLABELLED,))
    typer.echo(f"wrote {count:,} images of {generator.resolution} px to {out}")
    typer.echo("labels: " + ", ".join(f"{label} {number:,}" for label, number in written.items()))


def write_images(
    batches: Generator[Tensor, None, None], out: Path, *, count: int, labels: Sequence[str]
) -> Counter[str]:
    """Write images as png files with a csv of their labels, all of it or nothing.

    Parameters
    ----------
    batches
        uint8 (any number, r, r, 3) each, `count` images in all.
    out
        A folder that does not exist, or an empty one.
    count
        Number of images.
    labels
        Images bear them in turn.

    Returns
    -------
    The number of images of each label.

    Raises
    ------
    InputError
        If the folder cannot be made.
    RunError
        If it cannot be written to, or was filled meanwhile.
    """
    from PIL import Image

    progress = _progress_bar()
    num_digits = max(6, len(str(count - 1)))
    written: Counter[str] = Counter()
    try:
        with (
            closing(batches),
            progress,
            _folder_at_once(out.resolve()) as folder,
            (folder / LABELS).open("w", encoding="utf-8", newline="") as file,
        ):
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(("image", "label"))
            task = progress.add_task("", total=count)
            number = 0
            for images in batches:
                for pixels in images.numpy():
                    name, label = f"{number:0{num_digits}d}.png", labels[number % len(labels)]
                    Image.fromarray(pixels).save(folder / name, compress_level=PNG_COMPRESSION)
                    rows.writerow((name, label))
                    written[label] += 1
                    number += 1
                progress.update(task, completed=number)
    except OSError as error:
        raise RunError(
            f"--out {out}: cannot be written ({error.strerror or error}); nothing was kept, so make room there or give "
            "another --out, and run this again"
        ) from None
    return written


def _progress_bar() -> Progress:
    """Return a bar on the error stream, where that is a terminal."""
    return Progress(
        TextColumn("generating"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )


def _out_problems(out: Path) -> list[str]:
    """Say why a folder cannot be the one to be written."""
    try:
        if out.exists() and not out.is_dir():
            return [f"--out {out}: is a file; give a new folder"]
        if out.exists() and any(out.iterdir()):
            return [f"--out {out}: is not empty; give a new or an empty folder, or remove what it holds"]
    except OSError as error:
        return [f"--out {out}: cannot be read ({error.strerror}); give another --out"]
    # The finished folder takes the place of an empty one, which these two do not allow.
    resolved = out.resolve()
    if resolved.is_mount() or resolved == Path.cwd():
        what = "the root of a file system" if resolved.is_mount() else "the working directory"
        return [f"--out {out}: is {what}; give a folder in it, e.g. --out {out / 'generated'}"]
    return []


@contextmanager
def _folder_at_once(path: Path) -> Iterator[Path]:
    """Give a hidden folder beside `path`; when the block ends well, it becomes `path`, else it is removed."""
    made = [folder for folder in path.parents if not folder.exists()]
    temporary, descriptor = _take(path)
    try:
        yield temporary
        temporary.replace(path)
    except BaseException as error:
        # A second Ctrl-C must not leave half of it behind.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):
            for folder in made:
                folder.rmdir()
        # After the first there is nothing left to do but to wait for the threads' last images.
        if not isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, before)
        raise
    finally:
        os.close(descriptor)


def _take(path: Path) -> tuple[Path, int]:
    """Make and lock the hidden folder for `path`; return it, and the descriptor that holds the lock.

    All who are told the same --out have the same one: it is taken now, and not when the images are there.
    """
    temporary = path.with_name(f".{path.name}.part")
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        descriptor, missing = lock_folder(temporary)
        if path.exists() and any(path.iterdir()):
            os.close(descriptor)
            raise BlockingIOError
    except BlockingIOError:
        raise InputError(
            f"--out {path}: another process writes there; wait for its end, or give another --out"
        ) from None
    except OSError as error:
        with suppress(OSError):
            for folder in made:
                folder.rmdir()
        raise InputError(f"--out {path}: cannot be made ({error.strerror}); give another --out") from None
    if missing:
        typer.echo(f"--out {path}: no locks on this file system ({missing}): start no second process there", err=True)
    for left in temporary.iterdir():  # by a process that was killed
        left.unlink()
    return temporary, descriptor
