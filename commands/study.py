"""``dermafed study``: one place, a federation and each hospital alone; conditional and unconditional generators."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from data_partitions.wording import counted
from federation.errors import RunError

if TYPE_CHECKING:
    from server.study.run import FinishedStudy


def study(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE.toml", help="What is compared, e.g. conf/study-smoke.toml.", show_default=False),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where it goes. Default: runs/<name of FILE>.")
    ] = None,
    set_values: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set one key in every run, e.g. data.root=/path/to/images."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on in --out: judged rows and finished runs stay, the rest is done.")
    ] = False,
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs", min=0, metavar="N", help="Runs, and classifiers, side by side. 0: one for each processor core."
        ),
    ] = 0,
) -> None:
    """Compare who trains (one place, a federation, each hospital alone) and what (a
    generator of all classes, or one of melanoma and one of the rest).

    Each is judged by fidelity, diversity, cost, and by classifiers that tell
    melanoma from the rest, trained on five mixes of real and synthetic images.
    Every training run has a run directory of its own. One that fails is reported
    and stops nothing but its row; run again with --resume to try it once more.

    Exit codes: 0 done, 1 a run failed, 2 the input is wrong, 130 interrupted (143
    by SIGTERM, 129 by SIGHUP).
    """
    import os

    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    from server.progress import BenchmarkProgress
    from server.study.run import Voice, resume_command, run_study

    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    folder = (out or Path("runs") / file.stem).absolute()
    with BenchmarkProgress(console) as progress:
        finished = run_study(
            file,
            folder,
            assignments=set_values or [],
            resume=resume,
            jobs=jobs,
            voice=Voice(progress.say, progress.show, progress.prepare),
        )
    _tell(finished, console)
    if finished.failed:
        raise RunError(
            f"{counted(len(finished.failed), 'row')} not judged, as a run of theirs failed, or a classifier: "
            f"{', '.join(finished.failed)}. Try again with {resume_command(file, folder, set_values or [])}"
        )


def _tell(finished: FinishedStudy, console: Console) -> None:
    """Print what the tables show, and where they are."""
    from server.study.results import sentences
    from server.study.run import TABLES

    for table in finished.results.plan.tables:
        for sentence in sentences(finished.results, table):
            console.print(f"{table}: {sentence}", highlight=False, markup=False, soft_wrap=True)
    for name in TABLES:
        console.print(f"wrote {finished.folder / name}", highlight=False, markup=False, soft_wrap=True)
