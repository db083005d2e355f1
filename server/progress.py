"""What a person sees of a run: a live bar with the time left, one aligned line per round."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from federation.heartbeat import Heartbeat
from federation.screen import Screen

if TYPE_CHECKING:
    from server.training_round import RoundState

# Lines of rounds in a run of many.
_MOST_LINES = 50
_AFTER_LOSSES = f"{'KID':>8}  {'FID':>7}  {'images':>9}  {'seconds':>7}  {'replies':>7}"


def _number(value: float | None, width: int, digits: int) -> str:
    if value is None:
        return f"{'–':>{width}}"
    written = f"{value:>{width}.{digits}f}"
    # An untrained generator's distance may be large: its last digits give way to the column.
    return written if len(written) <= width else f"{value:>{width}.{max(0, digits - len(written) + width)}f}"


# Hospitals named in each group of the live view.
_MOST_NAMED = 6


def _names(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


class LiveView:
    """A bar with the time left and some words below it, under lines that stay.

    Without a terminal there is nothing live, and the lines stay the same; after half a minute of silence a line says
    what is being done. Of a screen that fails it lets go.

    Parameters
    ----------
    console
        Where to print.
    amount
        How the bar says how much is done, as text of a rich column.
    """

    def __init__(self, console: Console, amount: str) -> None:
        if not isinstance(console.file, Screen):
            console.file = Screen(console.file)  # type: ignore[assignment]  # rich writes, flushes and looks, no more
        self.console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn(amount),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            disable=not console.is_terminal,
        )
        self._words = Text()
        self._live = Live(Group(self._bar, self._words), console=console, transient=True)
        self._heartbeat = Heartbeat(self.say)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live.start()
        else:
            self._heartbeat.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._heartbeat.stop()
        self._live.stop()

    def say(self, text: str) -> None:
        """Print a line above the bar; it stands in the log too."""
        self._heartbeat.spoken()
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)
        if text:
            logging.getLogger("dermafed").info(text)

    @property
    def failure(self) -> str:
        """Why nothing can be seen any more; empty while it can."""
        return self.console.file.failure if isinstance(self.console.file, Screen) else ""


class RunProgress(LiveView):
    """Prints a run as it goes: a line per round, below them live who is training, waiting and failed.

    Parameters
    ----------
    num_rounds
        Rounds of the whole run.
    console
        Where to print.
    columns
        The losses that the line of a round shows, and their headings; see
        :attr:`federation.models.anatomy.Anatomy.columns`.
    """

    def __init__(self, num_rounds: int, console: Console, columns: Mapping[str, str] | None = None) -> None:
        super().__init__(console, "{task.percentage:>3.0f} %")
        self.num_rounds = num_rounds
        self.columns = dict(columns or {})
        self._task: TaskID | None = None
        self._header_shown = False

    def step(self, description: str, done: int, total: int) -> None:
        """Show how far a piece of work before the rounds is."""
        if self._task is None:
            self._task = self._bar.add_task(description, total=total)
        self._bar.update(self._task, description=description, completed=done, total=total)
        self._heartbeat.doing(description, done, total)

    def start_rounds(self, first_round: int) -> None:
        """Begin the rounds; the bar counts them, and the hospitals that have answered."""
        if self._task is not None:
            self._bar.remove_task(self._task)
        # A fresh task: the time left must not be estimated from what came before the rounds.
        self._task = self._bar.add_task("training", total=self.num_rounds, completed=first_round - 1)

    def show_round(self, server_round: int, state: RoundState) -> None:
        """Show who trains, who waits and who failed, and move the bar."""
        assert self._task is not None
        asked = sum(map(len, (state.training, state.waiting, state.done, state.failed)))
        settled = len(state.done) + len(state.failed)
        self._bar.update(
            self._task,
            description=f"round {server_round}/{self.num_rounds}: {settled}/{asked} hospitals",
            completed=server_round - 1 + settled / max(1, asked),
        )
        self._heartbeat.doing(f"round {server_round}/{self.num_rounds}: {settled}/{asked} hospitals")
        self._words.plain = "\n".join(
            f"{label:>9}  {_names(names)}"
            for label, names in (("training", state.training), ("waiting", state.waiting), ("failed", state.failed))
            if names
        )

    def activity(self, description: str) -> None:
        """Say beside the bar what the server does."""
        self._heartbeat.doing(description)
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
        replies: tuple[int, int] | None,
    ) -> None:
        """Print the line of a round; a dash stands for what was not computed in it.

        Of many rounds some fifty have a line, among them the first, the last and those that were judged. `replies` are
        those that were used, and the hospitals that were asked.
        """
        is_one_of_some = server_round % math.ceil(self.num_rounds / _MOST_LINES) == 0
        if not scores and not is_one_of_some and server_round not in (1, self.num_rounds):
            return
        if not self._header_shown:
            headings = "".join(f"{heading:>7}  " for heading in self.columns.values())
            self.say(f"{'round':>9}  {headings}{_AFTER_LOSSES}")
            self._header_shown = True
        answered = "–" if replies is None else f"{replies[0]}/{replies[1]}"
        self.say(
            f"{f'{server_round}/{self.num_rounds}':>9}  "
            + "".join(f"{_number(losses.get(name), 7, 3)}  " for name in self.columns)
            + f"{_number(scores.get('kid'), 8, 4)}  {_number(scores.get('fid'), 7, 2)}  "
            f"{num_images:>9,}  {seconds:>7.1f}  {answered:>7}"
        )


class BenchmarkProgress(LiveView):
    """Prints a benchmark as it goes: a line per run that ends, below them live what is running.

    Parameters
    ----------
    console
        Where to print.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(console, "{task.completed:.0f}/{task.total:.0f}")
        self._task = self._bar.add_task("reading images", total=1)

    def prepare(self, description: str, done: int, total: int) -> None:
        """Show how far the reading of images is."""
        self._bar.update(self._task, description=description, completed=done, total=total)
        self._heartbeat.doing(description, done, total)

    def show(self, done: int, total: int, running: Sequence[str]) -> None:
        """Show how many runs are done, and what the others are at."""
        self._bar.update(self._task, description="runs", completed=done, total=total)
        self._heartbeat.doing("runs", done, total)
        self._words.plain = "\n".join(running)


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
