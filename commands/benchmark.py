"""``dermafed benchmark``: strategies x partitions x models x seeds under equal budgets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from federation.errors import RunError

if TYPE_CHECKING:
    from server.benchmark.leaderboard import Leaderboard


def benchmark(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.toml", help="What is compared, e.g. conf/benchmark-smoke.toml.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where it goes. Default: runs/<name of FILE>.")
    ] = None,
    set_values: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set one key in every cell, e.g. data.root=/path/to/images."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on in --out: finished cells stay, failed and broken ones run again.")
    ] = False,
    jobs: Annotated[
        int, typer.Option("--jobs", min=0, metavar="N", help="Runs side by side. 0: one for each processor core.")
    ] = 0,
) -> None:
    """Compare strategies on equal terms and write raw figures, a leaderboard and a page.

    Every cell is a run of its own with its own run directory. A cell that fails is reported and stops nothing; run
    again with --resume to try it once more. Exit codes: 0 done, 1 a cell failed, 2 the input is wrong, 130 interrupted
    (143 by SIGTERM, 129 by SIGHUP).
    """
    import os

    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    from server.benchmark.run import run_benchmark
    from server.progress import BenchmarkProgress

    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    folder = (out or Path("runs") / file.stem).absolute()
    with BenchmarkProgress(console) as progress:
        finished = run_benchmark(
            file,
            folder,
            assignments=set_values or [],
            resume=resume,
            jobs=jobs,
            say=progress.say,
            show=progress.show,
            prepare=progress.prepare,
        )
    board = finished.board
    for place in board.places()[:1]:
        console.print(_first_table(board, *place))
        console.print(board.verdict(*place), highlight=False, markup=False)
    for note in board.notes():
        console.print(note, highlight=False, markup=False)
    for name in ("raw.csv", "leaderboard.csv", "leaderboard.md", "leaderboard.tex", "leaderboard.html"):
        console.print(f"wrote {folder / name}", highlight=False, markup=False, soft_wrap=True)
    if finished.failed:
        raise RunError(
            f"{finished.failed} of {len(board.outcomes)} cells failed; the tables are of the others. "
            f"Try them again with dermafed benchmark {file} --out {folder} --resume"
        )


def _first_table(board: Leaderboard, partition: str, model: str) -> Table:
    from server.benchmark.leaderboard import title
    from server.benchmark.wording import difference_text, estimate_text

    heads = ("strategy", "rank", "KID", f"KID − {board.plan.baseline}")
    table = Table(*heads, title=f"{board.plan.name}: {title(partition, model)}")
    for line in board.lines(partition, model):
        table.add_row(
            line.strategy,
            "–" if line.mean_rank is None else f"{line.mean_rank:.2f}",
            estimate_text(line.estimates.get("kid"), 3, board.plan.seeds),
            difference_text(line.differences.get("kid"), board.plan.seeds),
        )
    return table
