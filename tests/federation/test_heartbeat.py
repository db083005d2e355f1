"""Long work is heard of every half minute, whether it tells how far it is or not."""

from __future__ import annotations

import time

from federation.heartbeat import Heartbeat


def wait_for(lines: list[str], count: int) -> None:
    deadline = time.monotonic() + 20
    while len(lines) < count and time.monotonic() < deadline:
        time.sleep(0.005)
    assert len(lines) >= count


def test_silent_work_is_heard_of_and_says_how_far_it_is() -> None:
    lines: list[str] = []
    heartbeat = Heartbeat(lines.append, seconds=0.05)
    heartbeat.doing("training the feature extractor", 120, 1250)
    heartbeat.start()
    wait_for(lines, 2)
    assert lines[0].startswith("training the feature extractor 120/1,250 (")
    heartbeat.doing("yardsticks", 0, 1)
    count = len(lines)
    wait_for(lines, count + 2)
    assert lines[count + 1].startswith("yardsticks (")
    heartbeat.stop()
    count = len(lines)
    time.sleep(0.12)
    assert len(lines) == count


def test_it_is_silent_while_others_speak_and_where_nothing_is_done() -> None:
    lines: list[str] = []
    heartbeat = Heartbeat(lines.append, seconds=0.3)
    heartbeat.start()
    time.sleep(0.35)  # nothing is being done
    assert lines == []
    heartbeat.doing("rounds")
    for _ in range(12):
        heartbeat.spoken()
        time.sleep(0.05)
    assert lines == []
    heartbeat.stop()
