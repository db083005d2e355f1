"""Speed, bytes and shares of time, from lines whose sums are known."""

from __future__ import annotations

import pytest

from server.evaluation.training_speed import measure_training_speed


def hospital(server_round: int, site: str, pid: int, seconds: float, status: str = "ok") -> dict[str, object]:
    line = {"round": server_round, "site": site, "status": status, "bytes_down": 100}
    return line | {"bytes_up": 60, "num_images": 400, "seconds": seconds, "worker_pid": pid} if status == "ok" else line


def test_figures_by_hand() -> None:
    # Round 1: worker 1 computes a and b (3 s), worker 2 c (2 s). Round 2: c failed.
    lines = [
        hospital(1, "a", 1, 1.0),
        hospital(1, "b", 1, 2.0),
        hospital(1, "c", 2, 2.0),
        hospital(2, "a", 1, 1.5),
        hospital(2, "b", 2, 1.0),
        hospital(2, "c", 2, 0.0, status="failed"),
    ]
    metrics = [
        {"round": 0, "images": 0, "seconds": 1.0, "kid": 80.0},
        {"round": 1, "images": 1200, "seconds": 6.0, "kid": 2.0},
        {"round": 2, "images": 2000, "seconds": 9.0, "kid": 0.5},
    ]
    found = measure_training_speed(
        metrics,
        lines,
        seconds_by_work={"training": 5.0, "aggregation": 0.5, "evaluation": 2.0},
        seconds=10.0,
        yardsticks={"kid_mean_image": 3.0, "kid_pca_gaussian": 0.6, "kid_blurred_16": 0.1},
    )
    assert found["images_per_second"] == pytest.approx(2000 / 5.0)
    assert found["seconds_per_1000_images"] == pytest.approx(2.5)
    assert found["bytes"] == [
        {"site": "a", "up": 120, "down": 200},
        {"site": "b", "up": 120, "down": 200},
        {"site": "c", "up": 60, "down": 200},
    ]
    assert found["time_to_kid"] == [
        {"yardstick": "mean image", "kid": 3.0, "round": 1, "images": 1200, "seconds": 6.0},
        {"yardstick": "PCA Gaussian", "kid": 0.6, "round": 2, "images": 2000, "seconds": 9.0},
        {"yardstick": "real images blurred by way of 16 pixels", "kid": 0.1, "not_reached": True},
    ]
    # The busiest worker: 3 s and 1.5 s of the 5 s between sending and the last reply.
    assert found["shares"] == pytest.approx(
        {"training": 0.45, "transport": 0.05, "aggregation": 0.05, "evaluation": 0.2, "other": 0.25}
    )
    assert found["evaluation_share_of_wall_time"] == pytest.approx(0.2)


def test_what_a_real_site_does_not_tell_is_not_guessed() -> None:
    # "b" tells how many images it showed, and neither for how long nor in which process.
    told = hospital(1, "a", 1, 1.0)
    silent = {name: value for name, value in hospital(1, "b", 2, 9.0).items() if name not in ("seconds", "worker_pid")}
    given = {"seconds_by_work": {"training": 4.0, "aggregation": 0.5, "evaluation": 0.5}, "seconds": 10.0}
    found = measure_training_speed([], [told, silent], **given, yardsticks={}, one_machine=False)
    assert found["images_per_second"] == pytest.approx(800 / 4.0)
    assert found["bytes"][1] == {"site": "b", "up": 60, "down": 100}
    # Of the time between sending and the last reply it is not known how much was training.
    assert found["shares"] == {
        "training": None,
        "transport": None,
        "aggregation": pytest.approx(0.05),
        "evaluation": pytest.approx(0.05),
        "other": pytest.approx(0.5),
    }
    # A hospital that failed has nothing to tell, and hides nothing.
    failed = hospital(1, "c", 2, 0.0, status="failed")
    found = measure_training_speed([], [told, failed], **given, yardsticks={}, one_machine=False)
    assert (found["shares"]["training"], found["shares"]["transport"]) == pytest.approx((0.1, 0.3))


def test_evaluations_stand_beside_images_where_they_were_counted() -> None:
    line = {"round": 3, "images": 640, "evaluations": 1920, "seconds": 9.0, "kid": 0.5}
    found = measure_training_speed([line], [], seconds_by_work={}, seconds=9.0, yardsticks={"kid_mean_image": 3.0})
    assert found["time_to_kid"] == [
        {"yardstick": "mean image", "kid": 3.0, "round": 3, "images": 640, "evaluations": 1920, "seconds": 9.0}
    ]


def test_a_run_that_ended_before_its_first_round_has_no_speed() -> None:
    found = measure_training_speed([], [], seconds_by_work={}, seconds=3.0, yardsticks={})
    assert found["images_per_second"] is None
    assert found["seconds_per_1000_images"] is None
    assert found["shares"]["other"] == 1.0
