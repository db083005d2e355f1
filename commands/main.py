"""The command line: ``dermafed``, and ``run_simulation.py``, which is its ``simulate``."""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Callable

import typer
from rich.console import Console

from commands.benchmark import benchmark
from commands.evaluate import evaluate
from commands.generate import generate
from commands.report import report
from commands.simulate import simulate
from commands.study import study
from federation.errors import DermafedError, InputError
from federation.interruption import signals_interrupt
from federation.screen import let_screens_fail

cli = typer.Typer(
    name="dermafed",
    help="Federated learning of generative models of skin lesions.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@cli.callback()
def _root() -> None:
    """Federated learning of generative models of skin lesions."""


cli.command("simulate")(simulate)
cli.command("benchmark")(benchmark)
cli.command("study")(study)
cli.command("generate")(generate)
cli.command("evaluate")(evaluate)
cli.command("report")(report)

_script = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_script.command()(simulate)

# Typer's own exit code after a KeyboardInterrupt; and what shells add to a signal's number.
_INTERRUPTED, _SIGNALLED = 130, 128
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def _exit_code(run: Callable[[], object]) -> int:
    """Run a command; print what went wrong for a person, and return the exit code."""
    errors = Console(stderr=True)

    def say(text: str) -> None:
        errors.print(text, highlight=False, markup=False, soft_wrap=True)

    with signals_interrupt() as interruptions:
        try:
            run()
        except InputError as error:
            for note in getattr(error, "__notes__", ()):
                say(f"data: {note}")
            for problem in error.problems:
                say(f"error: {problem}")
            return 2
        except DermafedError as error:
            say(f"failed: {error}")
            return 1
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            # Of a library's own files; of ours it was said by name.
            say(f"failed: {error.filename or 'a file'}: {error.strerror}; make room on its disk, and run this again")
            return 1
        except SystemExit as end:
            if end.code != _INTERRUPTED or not interruptions.number:
                raise
            say(f"interrupted by {signal.Signals(interruptions.number).name}")
            return _SIGNALLED + interruptions.number
    return 0


def main() -> None:
    """Run ``dermafed``; see :mod:`dermafed.command_line`."""
    let_screens_fail()
    sys.exit(_exit_code(cli))


def run_simulation() -> None:
    """Run ``run_simulation.py``."""
    let_screens_fail()
    sys.exit(_exit_code(_script))


if __name__ == "__main__":
    main()
