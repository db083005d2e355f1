"""``dermafed report``: a run's report, made again from its run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run_dir: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_DIR",
            help="A run that is done, failed, was interrupted, or still goes on.",
            show_default=False,
        ),
    ],
) -> None:
    """Write report.html into a run directory: the run's figures, curves and samples on one page.

    A run writes its report by itself when it ends. Make it again after a new
    version of dermafed, or while a run goes on. What is missing, the page names.

    The page is one file that loads nothing from anywhere: it can be sent by
    mail and opened without a network.

    Exit codes: 0 done, 1 it cannot be written, 2 the input is wrong.
    """
    # Only now, so that the help of dermafed need not wait.
    from federation.run_directory import RunDirectory
    from server.report import write_report

    typer.echo(f"report: {write_report(RunDirectory(run_dir))}")
