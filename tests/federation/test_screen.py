"""Showing is not work: a screen that fails is let go of."""

from __future__ import annotations

import io
import logging
import os
import pty
import sys

import pytest
from rich.console import Console

from federation.screen import Screen, let_screens_fail
from server.progress import RunProgress


def test_a_pipe_that_nobody_reads_is_let_go_of(caplog: pytest.LogCaptureFixture) -> None:
    reading, writing = os.pipe()
    stream = os.fdopen(writing, "w")
    console = Console(file=stream)
    with RunProgress(2, console) as progress, caplog.at_level(logging.INFO, "dermafed"):
        progress.say("seen")
        assert os.read(reading, 100) == b"seen\n"
        os.close(reading)
        for text in ("lost", "again"):
            progress.say(text)
        console.print("a table")  # with what a command prints at its end
    assert progress.failure == "the screen is gone (Broken pipe); nothing more is shown there"
    assert [record.message for record in caplog.records] == ["seen", progress.failure, "lost", "again"]
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_a_terminal_that_is_closed_is_let_go_of() -> None:
    """With what is live on it, which a thread of its own draws."""
    terminal, end = pty.openpty()
    stream = os.fdopen(end, "w")
    with RunProgress(2, Console(file=stream, force_terminal=True)) as progress:
        progress.start_rounds(1)
        progress.say("seen")
        assert os.read(terminal, 1000)
        os.close(terminal)
        progress.activity("training")
        progress.say("lost")
    assert progress.failure.startswith("the screen is gone (Input/output error)")
    with pytest.raises(OSError, match="Input/output"):
        stream.close()


def test_what_has_no_sign_on_a_screen_is_replaced() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    screen = Screen(stream)
    screen.write("round 1 – Läsion\n")
    screen.flush()
    assert stream.buffer.getvalue() == b"round 1 ? L?sion\n"  # type: ignore[attr-defined]
    assert screen.failure == ""


def test_every_print_of_a_process_may_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    monkeypatch.setattr(sys, "stderr", None)  # as where it was closed before the process began
    let_screens_fail()
    print("lost")
    assert isinstance(sys.stdout, Screen)
    assert "closed file" in sys.stdout.failure
    assert sys.stderr is None
