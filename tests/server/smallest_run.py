"""The smallest whole run: four hospitals, a step each, one round, in this process."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from clients.app import app as client_app
from clients.questions import load_cached_model
from federation.config import Configuration, parse_assignments
from federation.engine.grid import simulation_nodes
from federation.engine.in_process import InProcessGrid
from server.app import run_federation
from server.inputs import prepare_inputs
from strategies.configuration import resolve


def configuration(run_dir: Path, cache_dir: str, *assignments: str) -> Configuration:
    """Settings of a run in this directory."""
    return resolve(
        [
            parse_assignments(
                [
                    f"run-dir={run_dir}",
                    f"data.cache-dir={cache_dir}",
                    "data.phantom-images=400",
                    "partition.min-images=1",
                    "rounds=1",
                    "stylegan2.channel-max=8",
                    "stylegan2.latent-size=16",
                    "training.local-steps=1",
                    "training.batch-size=2",
                    "training.precision=fp32",
                    "evaluation.images=20",
                    "evaluation.draws=1",
                    "evaluation.threads=1",
                    "evaluation.utility=false",
                    "evaluation.authenticity=false",
                    *assignments,
                ]
            )
        ]
    )


def run(settings: Configuration) -> str:
    """Run it; return what was printed."""
    load_cached_model.cache_clear()
    printed = io.StringIO()
    grid = InProcessGrid(client_app, simulation_nodes(settings.partition.hospitals))
    run_federation(grid, prepare_inputs(settings), Console(file=printed, width=300))
    return printed.getvalue()
