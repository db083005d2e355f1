"""What a person sees of a run: a live bar with the time left, one aligned line per round."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_HEADER = (
    f"{'round':>9}  {'loss G':>7}  {'loss D':>7}  {'KID':>8}  {'FID':>7}  {'images':>9}  {'seconds':>7}  {'replies':>7}"
)


def _number(value: float | None, width: int, digits: int) -> str:
    return f"{'–':>{width}}" if value is None else f"{value:>{width}.{digits}f}"


class RunProgress:
    """Prints a run as it goes. Without a terminal there is no bar, and the lines stay the same.

    Parameters
    ----------
    num_rounds
        Rounds of the whole run.
    num_hospitals
        Hospitals asked in each round.
    console
        Where to print.
    """

    def __init__(self, num_rounds: int, num_hospitals: int, console: Console) -> None:
        self.num_rounds = num_rounds
        self.num_hospitals = num_hospitals
        self.console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._header_shown = False

    def __enter__(self) -> RunProgress:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def step(self, description: str, done: int, total: int) -> None:
        """Show how far a piece of work before the rounds is."""
        if self._task is None:
            self._task = self._bar.add_task(description, total=total)
        self._bar.update(self._task, description=description, completed=done, total=total)

    def start_rounds(self, first_round: int) -> None:
        """Begin the rounds; the bar counts hospitals' replies."""
        if self._task is not None:
            self._bar.remove_task(self._task)
        # A fresh task: the time left must not be estimated from what came before the rounds.
        self._task = self._bar.add_task(
            "training", total=self.num_rounds * self.num_hospitals, completed=(first_round - 1) * self.num_hospitals
        )

    def reply_arrived(self, server_round: int, count: int) -> None:
        """Move the bar: `count` hospitals of this round have answered."""
        assert self._task is not None
        self._bar.update(
            self._task,
            description=f"round {server_round}/{self.num_rounds}: {count}/{self.num_hospitals} hospitals",
            completed=(server_round - 1) * self.num_hospitals + count,
        )

    def activity(self, description: str) -> None:
        """Say beside the bar what the server does."""
        if self._task is not None:
            self._bar.update(self._task, description=description)

    def round_line(
        self,
        server_round: int,
        *,
        losses: Mapping[str, float],
        scores: Mapping[str, Any],
        num_images: int,
        seconds: float,
        num_replies: int | None,
    ) -> None:
        """Print the line of a round; a dash stands for what was not computed in it."""
        if not self._header_shown:
            self.say(_HEADER)
            self._header_shown = True
        replies = "–" if num_replies is None else f"{num_replies}/{self.num_hospitals}"
        self.say(
            f"{f'{server_round}/{self.num_rounds}':>9}  "
            f"{_number(losses.get('loss-generator'), 7, 3)}  {_number(losses.get('loss-discriminator'), 7, 3)}  "
            f"{_number(scores.get('kid'), 8, 4)}  {_number(scores.get('fid'), 7, 2)}  "
            f"{num_images:>9,}  {seconds:>7.1f}  {replies:>7}"
        )


class Stopwatch:
    """Seconds spent on each kind of work."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def add(self, kind: str, seconds: float) -> None:
        """Add to a kind of work."""
        self.seconds[kind] = self.seconds.get(kind, 0.0) + seconds

    def measure(self, kind: str) -> _Lap:
        """Return a context that adds its duration to `kind`."""
        return _Lap(self, kind)


class _Lap:
    def __init__(self, watch: Stopwatch, kind: str) -> None:
        self.watch, self.kind = watch, kind
        self.seconds = 0.0

    def __enter__(self) -> _Lap:
        self._start = time.perf_counter()
        return self

    def __exit__(self, *exception: object) -> None:
        self.seconds = time.perf_counter() - self._start
        self.watch.add(self.kind, self.seconds)
