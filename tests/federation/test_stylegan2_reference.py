"""Some training steps in fp64 against an implementation that shares nothing with the fast one but names."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks import plain_stylegan2 as plain
from federation.batch import Batch
from federation.config import Configuration, parse_assignments, resolve
from federation.models import build_model
from federation.models.stylegan2.augment import augment
from federation.models.stylegan2.step import StyleGAN2
from federation.seeding import torch_stream

BATCH = 4
RELATIVE_TOLERANCE = 1e-8

SCENARIOS = {
    # Step 0 has a penalty and two passes, the others one pass for both kinds of images.
    "default": (3, []),
    # The minibatch standard deviation forbids the common pass. Penalties at steps 0 and 3, path lengths at 0, 2 and 4.
    "everything": (
        5,
        [
            "stylegan2.minibatch-std=2",
            "stylegan2.gamma=2.0",
            "stylegan2.style-mixing=0.5",
            "stylegan2.path-length-weight=2.0",
            "stylegan2.path-length-every=2",
            "stylegan2.penalty-every=3",
            "stylegan2.label-dropout=0.3",
            "stylegan2.augmentation.name=fixed",
            "stylegan2.augmentation.transforms=bgc",
            "stylegan2.augmentation.p=0.5",
        ],
    ),
    # The same settings where steps 1 and 2 judge both kinds of images in one pass; classes are blended in.
    "one pass": (
        3,
        [
            "stylegan2.style-mixing=0.5",
            "stylegan2.path-length-weight=2.0",
            "stylegan2.path-length-every=2",
            "stylegan2.penalty-every=3",
            "stylegan2.label-dropout=0.3",
            "stylegan2.transition-start-images=2.0",
            "stylegan2.transition-images=8.0",
            "stylegan2.augmentation.name=fixed",
            "stylegan2.augmentation.transforms=bgc",
            "stylegan2.augmentation.p=0.5",
            "training.beta1=0.5",
        ],
    ),
    "unconditional": (2, ["model.conditional=false", "stylegan2.mapping-layers=3", "stylegan2.style-mixing=0.5"]),
}


def settings(loss: str, resampling: str, assignments: list[str]) -> Configuration:
    common = [
        "data.classes=a,b,c",
        "stylegan2.channel-max=16",
        "stylegan2.latent-size=16",
        f"stylegan2.resampling={resampling}",
        f"training.batch-size={BATCH}",
        "training.precision=fp32",
        "model.site-embedding=off",
        f"stylegan2.loss={loss}",
    ]
    if loss == "logistic" and assignments and "model.conditional=false" not in assignments:
        common.append("stylegan2.fake-labels=uniform")  # paired images of one class matter to the other loss alone
    return resolve([parse_assignments(common + assignments)])


def fast_model(configuration: Configuration) -> StyleGAN2:
    """Build the fast implementation in fp64, with weights of which none is 0 and none is like another."""
    model = build_model(configuration)
    assert isinstance(model, StyleGAN2)
    stream = torch_stream(0, "test perturbation")
    for name in ("generator", "generator_ema", "discriminator"):
        network = model.networks[name].double()
        network.compute_dtype = torch.float64  # type: ignore[assignment]
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += 0.2 * torch.randn(parameter.shape, generator=stream)
    model.state.double()
    return model


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference over the largest entry."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype == torch.float64
    # A gradient may vanish in exact arithmetic (the relativistic loss ignores the last bias): what is left is rounding.
    scale = max(expected.abs().max().item(), 1e-6)
    return (found - expected).abs().max().item() / scale


def all_differences(configuration: Configuration, num_steps: int) -> list[tuple[float, str]]:
    """Take steps with both implementations; return how much each tensor differs after each step, and its name."""
    model = fast_model(configuration)
    state = plain.initial_state(
        model.generator.state_dict(), model.discriminator.state_dict(), model.generator_ema.state_dict()
    )
    transforms, augmentation = model.transforms, model.augmentation

    def augmented(images: Tensor, stream: torch.Generator) -> Tensor:
        return augment(images, augmentation.p, transforms, stream) if augmentation.name == "fixed" else images

    differences: list[tuple[float, str]] = []
    for step in range(num_steps):
        draws = torch_stream(step, "test batch")
        images = (torch.rand(BATCH, 3, 32, 32, generator=draws) * 2 - 1).double()
        labels = torch.randint(3, (BATCH,), generator=draws)
        fast_stream, plain_stream = torch_stream(step, "test step"), torch_stream(step, "test step")
        terms = model.train_step(Batch(images, labels), fast_stream)
        result = plain.training_step(state, configuration, images, labels, plain_stream, augmented)
        state = result.state
        assert torch.equal(fast_stream.get_state(), plain_stream.get_state()), "other numbers were drawn"

        pairs: dict[str, tuple[Tensor, Tensor]] = {}
        for network in ("generator", "discriminator", "generator_ema"):
            expected: plain.Tensors = getattr(state, network)
            entries = model.networks[network].state_dict()
            assert entries.keys() == expected.keys()
            pairs |= {f"{network}.{name}": (entries[name], expected[name]) for name in expected}
        for network, gradients in result.gradients.items():
            parameters = dict(model.networks[network].named_parameters())
            assert parameters.keys() == gradients.keys()
            for name, gradient in gradients.items():
                found = parameters[name].grad
                assert found is not None
                pairs[f"gradient of {network}.{name}"] = (found, gradient)
        pairs["path-length mean"] = (model.state.path_length_mean, state.path_length_mean)
        assert terms.keys() == result.terms.keys()
        pairs |= {name: (terms[name], term) for name, term in result.terms.items()}
        differences += [(relative_difference(*pair), f"step {step}: {name}") for name, pair in pairs.items()]
    return differences


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("resampling", ["bilinear", "fir"])
@pytest.mark.parametrize("loss", ["relativistic", "logistic"])
def test_steps_are_those_of_the_papers(loss: str, resampling: str, scenario: str) -> None:
    num_steps, assignments = SCENARIOS[scenario]
    configuration = settings(loss, resampling, assignments)
    differences = all_differences(configuration, num_steps)
    apart = [
        f"{name} differs by {difference:.1e}" for difference, name in differences if difference > RELATIVE_TOLERANCE
    ]
    assert not apart, "\n".join(apart)
