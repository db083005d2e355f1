"""The screen of recipes trains what a run trains."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from benchmarks.federated_recipes import Federation
from clients.app import app as client_app
from federation.config import parse_assignments
from federation.engine.grid import simulation_nodes
from federation.engine.in_process import InProcessGrid
from server.app import run_federation
from server.inputs import prepare_inputs
from strategies.configuration import resolve


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("balanced", ["none", "hospital", "federation"])
def test_hospitals_that_take_turns_end_where_a_run_ends(balanced: str, tmp_path: Path, cache_dir: str) -> None:
    configuration = resolve(
        [
            parse_assignments(
                [
                    f"run-dir={tmp_path / 'run'}",
                    f"data.cache-dir={cache_dir}",
                    "data.phantom-images=400",
                    "partition.min-images=1",
                    "rounds=2",
                    "stylegan2.channel-max=8",
                    "stylegan2.latent-size=16",
                    "training.local-steps=2",
                    "training.batch-size=2",
                    "training.precision=fp32",
                    f"training.balanced-classes={balanced}",
                    "evaluation.images=20",
                    "evaluation.draws=1",
                    "evaluation.threads=1",
                    "evaluation.utility=false",
                    "evaluation.authenticity=false",
                ]
            )
        ]
    )
    inputs = prepare_inputs(configuration)
    grid = InProcessGrid(client_app, simulation_nodes(4))
    run_federation(grid, inputs, Console(file=io.StringIO()))
    federation = Federation(inputs, outer_momentum=0.0, average_moments=False)
    torch.set_num_threads(1)
    for before in (0, 2):
        federation.play(2, before, 4)
    final = load_file(tmp_path / "run" / "final" / "generator.safetensors")
    for model in federation.models:
        found = model.generator_ema.state_dict()
        for name in ("constant", "layers.2.conv.weight", "mapping.w_mean"):
            # Averages are summed in fp32 here, in float64 there.
            torch.testing.assert_close(found[name], final[name], rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("without_pictures")
def test_momentum_goes_on_along_the_averaged_update(cache_dir: str) -> None:
    configuration = resolve(
        [
            parse_assignments(
                [
                    f"data.cache-dir={cache_dir}",
                    "data.phantom-images=400",
                    "partition.min-images=1",
                    "stylegan2.channel-max=8",
                    "training.batch-size=2",
                ]
            )
        ]
    )
    inputs = prepare_inputs(configuration)
    plain = Federation(inputs, outer_momentum=0.0, average_moments=True)
    hasty = Federation(inputs, outer_momentum=0.5, average_moments=False)
    start = plain.models[0].generator.constant.detach().clone()
    for federation in (plain, hasty):
        federation.play(1, 0, 2)
    update = plain.models[0].generator.constant.detach() - start
    # Nesterov's first step: the update, and half of it again.
    torch.testing.assert_close(hasty.models[0].generator.constant.detach() - start, 1.5 * update)
    moments = [model.optimizers["generator"].state[model.generator.constant]["exp_avg_sq"] for model in plain.models]
    assert all(torch.equal(moment, moments[0]) for moment in moments)
