"""Being asked to end: each signal is an interruption, once, and none while work is saved."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from federation.interruption import ENDING, handlers_kept, signals_interrupt, undisturbed


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """A background job of a script has some of them ignored."""
    with handlers_kept():
        for number in ENDING:
            signal.signal(number, signal.SIG_DFL)
        yield


@pytest.mark.parametrize("number", ENDING)
def test_each_signal_interrupts_once(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in ENDING]
    with signals_interrupt() as interruptions:
        with pytest.raises(KeyboardInterrupt, match=number.name):
            signal.raise_signal(number)
        signal.raise_signal(signal.SIGINT)  # of an impatient user, on the way to where the work is saved
        with undisturbed():
            for each in ENDING:
                signal.raise_signal(each)
        assert interruptions.number == number
    assert [signal.getsignal(each) for each in ENDING] == before


def test_a_later_signal_interrupts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first may have been lost in code that goes on after any exception."""
    monkeypatch.setattr("federation.interruption._ONE_WISH_SECONDS", 0.0)
    with signals_interrupt():
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)


def test_what_nohup_has_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_interrupt() as interruptions:
            signal.raise_signal(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert interruptions.number == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_library_does_not_keep_a_signal() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with handlers_kept():
        signal.signal(signal.SIGTERM, lambda number, frame: None)
    assert signal.getsignal(signal.SIGTERM) == before
