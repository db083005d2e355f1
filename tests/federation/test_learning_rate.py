"""Step sizes: their decay over a run, and weights that learn faster than others."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clients.local_training import train_locally
from data_partitions.dataset import ImageDataset
from federation.config import parse_assignments
from federation.models import build_model
from federation.models.training import learning_rate_factor
from federation.seeding import torch_stream
from strategies.configuration import resolve


def test_the_step_size_falls_along_half_a_cosine_to_a_quarter() -> None:
    settings = resolve([parse_assignments(["training.learning-rate-decay=cosine"])]).training
    found = [learning_rate_factor(settings, done) for done in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert found == pytest.approx([1.0, 0.89017, 0.625, 0.35983, 0.25], abs=1e-5)
    constant = resolve([parse_assignments(["training.learning-rate-decay=none"])]).training
    assert [learning_rate_factor(constant, done) for done in (0.0, 0.5, 1.0)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("family", ["stylegan2", "vae"])
def test_hospitals_go_by_the_rounds_of_the_federation(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In round 3 of 4, four steps: from a half to three quarters of the way."""
    configuration = resolve(
        [parse_assignments(["data.classes=a,b", "training.learning-rate-decay=cosine", f"model.name={family}"])]
    )
    model = build_model(configuration)
    sizes: list[list[float]] = []
    for optimizer in model.optimizers.values():  # type: ignore[attr-defined]
        step = optimizer.step

        def watched(step: object = step, optimizer: torch.optim.Optimizer = optimizer) -> None:
            sizes.append([group["lr"] for group in optimizer.param_groups])
            step()  # type: ignore[operator]

        monkeypatch.setattr(optimizer, "step", watched)
    images = np.zeros((4, 32, 32, 3), dtype=np.uint8)
    data = ImageDataset(images, np.array([0, 0, 1, 1]), np.arange(4))
    settings = configuration.training.model_copy(update={"local_steps": 4, "batch_size": 2})
    train_locally(model, data, settings, torch_stream(0, "test"), rounds_done=(2, 4))
    critic = 1 if family == "stylegan2" else None
    for number in range(4):
        factor = learning_rate_factor(settings, (2 + number / 4) / 4)
        for part, (size,) in enumerate(sizes[2 * number : 2 * number + 2]):
            # What is judged by a critic is what slows down.
            assert size == pytest.approx(0.002 * (1.0 if part == critic else factor))
    assert sizes[-2][0] < sizes[0][0]
