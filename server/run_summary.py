"""What is said of a run that has ended: the lines on the screen."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from federation.run_directory import RunDirectory
from server.engine_use import describe_left_out
from server.report.privacy import state_privacy


def how_to_go_on(directory: RunDirectory) -> str:
    """Say how to go on with a run that did not come to its end."""
    if directory.config.is_file():
        return f"go on with --resume --run-dir {directory.path}"
    return "nothing was saved yet: start it again"


def say_summary(
    say: Callable[[str], None],
    summary: dict[str, Any],
    *,
    judgement: Iterable[str],
    use: str,
    directory: RunDirectory,
) -> None:
    """Say what a run was.

    Parameters
    ----------
    say
        Tells a person a line.
    summary
        What ``summary.json`` holds.
    judgement
        Of its generator, a sentence each.
    use
        How well the engine's workers were used, in a sentence; empty where nothing can be said.
    directory
        Of the run.
    """
    memory = summary["peak_memory_bytes"]
    say("")
    say(f"done: {summary['rounds']} rounds, {summary['images']:,} images in {summary['seconds']:.0f} s")
    if summary["stopped_early"]:
        say(f"ended early: {summary['stopped_early']}")
    say(
        f"KID on validation images: {summary['kid_round_0']:.4f} at round 0, {summary['kid']:.4f} now "
        f"(real halves {summary['kid_floor']:.4f}, PCA Gaussian {summary['kid_pca_gaussian']:.4f}, "
        f"mean image {summary['kid_mean_image']:.4f}; {summary['extractor']})"
    )
    for line in judgement:
        say(line)
    if (privacy := state_privacy(summary["strategy"])) is not None:
        beside = " summary.json says what it does not cover." if privacy.does_not_cover else ""
        say(f"differential privacy: {privacy.sentence}{beside}")
    if summary["images_per_second"]:
        say(
            f"training: {summary['images_per_second']:.0f} images/s; peak memory "
            f"{memory['server'] / 2**20:,.0f} MiB at the server"
            + "".join(f", {size / 2**20:,.0f} MiB at a worker" for size in memory["workers"])
        )
    for line in (use, describe_left_out(summary["left_out"])):
        if line:
            say(line)
    for label, path in (
        ("samples", directory.sample_sheet(summary["rounds"])),
        ("generator", directory.final),
        ("report", directory.report),
    ):
        say(f"{label}: {path}")
