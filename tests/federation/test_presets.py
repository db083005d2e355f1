"""Presets under conf/: each resolves, and the published ones are what was published."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.config import Configuration, load_toml, parse_assignments
from federation.models.stylegan2.networks import Discriminator
from federation.models.stylegan2.settings import StyleGAN2Settings
from federation.models.stylegan2.step import build_generator, layer_channels
from strategies.configuration import resolve

CONF = Path(__file__).resolve().parents[2] / "conf"
PUBLISHED = CONF / "stylegan2-ada"


def preset(name: str) -> Configuration:
    return resolve([load_toml(PUBLISHED / f"{name}.toml"), parse_assignments(["model.conditional=false"])])


# A benchmark's and a study's file have tables of their own.
PRESETS = sorted(path for path in CONF.rglob("*.toml") if not path.name.startswith(("benchmark-", "study-")))


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_preset_resolves(path: Path) -> None:
    layer = load_toml(path)
    resolve([layer, parse_assignments(["data.root=/images"] if "data.source" in layer.values else [])])


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
    configuration = preset(f"auto-{resolution}")
    model, training, own = configuration.model, configuration.training, configuration.own(StyleGAN2Settings)
    assert (model.resolution, training.batch_size, own.channel_base, own.channel_max) == (
        resolution,
        batch,
        base,
        512,
    )
    assert own.gamma == pytest.approx(gamma, rel=1e-6)
    assert (training.learning_rate, training.ema_half_life_images, training.ema_ramp) == (0.0025, half_life, 0.05)
    assert (own.minibatch_std, own.mapping_layers, own.latent_size) == (4, 2, 512)
    assert (own.style_mixing, own.path_length_weight, own.path_length_every) == (0.9, 2.0, 4)
    assert (own.loss, own.penalty_every, own.resampling) == ("logistic", 16, "fir")
    assert (own.augmentation.name, own.augmentation.transforms) == ("ada", "bgc")


def test_paper256_and_cifar() -> None:
    paper, cifar = preset("paper256"), preset("cifar")
    papers, cifars = paper.own(StyleGAN2Settings), cifar.own(StyleGAN2Settings)
    assert (paper.training.batch_size, papers.gamma, papers.mapping_layers) == (64, 1.0, 8)
    assert (papers.minibatch_std, paper.training.ema_half_life_images, paper.training.ema_ramp) == (8, 20_000, 0)
    assert (cifar.training.batch_size, cifars.gamma, cifars.minibatch_std) == (64, 0.01, 32)
    assert (cifars.style_mixing, cifars.path_length_weight) == (0.0, 0.0)
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
    configuration = preset(name)
    model, own = configuration.model, configuration.own(StyleGAN2Settings)
    networks = (
        build_generator(model, own, num_classes=0),
        Discriminator(
            resolution=model.resolution,
            channels=layer_channels(model, own),
            num_classes=0,
            resampling=own.resampling,
            minibatch_std_group=own.minibatch_std,
        ),
    )
    counts = [sum(parameter.numel() for parameter in network.parameters()) for network in networks]
    assert counts == [generator, discriminator]
