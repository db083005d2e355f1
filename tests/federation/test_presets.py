"""Presets under conf/: each resolves, and the published ones are what was published."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.config import Configuration, load_toml, parse_assignments, resolve
from federation.models.stylegan2.networks import Discriminator
from federation.models.stylegan2.step import build_generator, layer_channels

CONF = Path(__file__).resolve().parents[2] / "conf"
PUBLISHED = CONF / "stylegan2-ada"


def preset(name: str) -> Configuration:
    return resolve([load_toml(PUBLISHED / f"{name}.toml"), parse_assignments(["model.conditional=false"])])


@pytest.mark.parametrize("path", sorted(CONF.rglob("[!b]*.toml")), ids=lambda path: path.stem)
def test_every_preset_resolves(path: Path) -> None:
    resolve([load_toml(path), parse_assignments(["data.root=/images"])])


# Resolution, batch, gamma, channel base: what `auto` gives on one device.
@pytest.mark.parametrize(
    ("resolution", "batch", "gamma", "base", "half_life"),
    [
        (32, 32, 0.0064, 16384, 10_000),
        (64, 32, 0.0256, 16384, 10_000),
        (128, 32, 0.1024, 16384, 10_000),
        (256, 16, 0.8192, 16384, 5_000),
        (512, 8, 6.5536, 32768, 2_500),
    ],
)
def test_auto(resolution: int, batch: int, gamma: float, base: int, half_life: float) -> None:
    settings = preset(f"auto-{resolution}")
    model, training = settings.model, settings.training
    assert (model.resolution, training.batch_size, model.channel_base, model.channel_max) == (
        resolution,
        batch,
        base,
        512,
    )
    assert training.gamma == pytest.approx(gamma, rel=1e-6)
    assert (training.learning_rate, training.ema_half_life_images, training.ema_ramp) == (0.0025, half_life, 0.05)
    assert (model.minibatch_std, model.mapping_layers, model.latent_size) == (4, 2, 512)
    assert (training.style_mixing, training.path_length_weight, training.path_length_every) == (0.9, 2.0, 4)
    assert (training.loss, training.penalty_every, model.resampling) == ("logistic", 16, "fir")
    assert (settings.augmentation.name, settings.augmentation.transforms) == ("ada", "bgc")


def test_paper256_and_cifar() -> None:
    paper, cifar = preset("paper256"), preset("cifar")
    assert (paper.training.batch_size, paper.training.gamma, paper.model.mapping_layers) == (64, 1.0, 8)
    assert (paper.model.minibatch_std, paper.training.ema_half_life_images, paper.training.ema_ramp) == (8, 20_000, 0)
    assert (cifar.training.batch_size, cifar.training.gamma, cifar.model.minibatch_std) == (64, 0.01, 32)
    assert (cifar.training.style_mixing, cifar.training.path_length_weight) == (0.0, 0.0)
    assert cifar.training.ema_half_life_images == 500_000


@pytest.mark.parametrize(
    ("name", "generator", "discriminator"),
    [
        # The published networks have exactly as many parameters (measured on the original's).
        ("auto-64", 22_243_608, 23_407_361),
        ("auto-256", 23_191_522, 24_001_089),
        ("paper256", 24_767_458, 24_001_089),
    ],
)
def test_networks_have_the_published_number_of_parameters(name: str, generator: int, discriminator: int) -> None:
    model = preset(name).model
    networks = (
        build_generator(model, num_classes=0),
        Discriminator(
            resolution=model.resolution,
            channels=layer_channels(model),
            num_classes=0,
            resampling=model.resampling,
            minibatch_std_group=model.minibatch_std,
        ),
    )
    counts = [sum(parameter.numel() for parameter in network.parameters()) for network in networks]
    assert counts == [generator, discriminator]
