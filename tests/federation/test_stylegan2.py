"""Networks, losses and the training step against closed forms."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from federation.config import Configuration, parse_assignments, resolve
from federation.errors import DataError, WireError
from federation.images import to_uint8
from federation.models import build_model
from federation.models.final import load_final, save_final
from federation.models.stylegan2 import losses
from federation.models.stylegan2.networks import (
    EqualizedConv,
    EqualizedLinear,
    ModulatedConv,
    normalize_second_moment,
)
from federation.models.stylegan2.step import StyleGAN2, compute_dtype, layer_channels
from federation.seeding import torch_stream


def small(*assignments: str) -> Configuration:
    return resolve(
        [
            parse_assignments(
                [
                    "data.classes=a,b,c",
                    "model.channel-max=16",
                    "model.latent-size=16",
                    "training.batch-size=4",
                    "training.precision=fp32",
                    *assignments,
                ]
            )
        ]
    )


def batch(count: int = 4, resolution: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    stream = torch_stream(5, "test batch")
    return torch.rand(count, 3, resolution, resolution, generator=stream) * 2 - 1, torch.arange(count) % 3


# ---------------------------------------------------------------- layers


def test_demodulated_weights_have_unit_norm() -> None:
    torch.manual_seed(0)
    conv = ModulatedConv(5, 7, 3, latent_size=4).double()
    style = torch.randn(2, 5, dtype=torch.float64)
    norm = conv.demodulation(style)
    for sample in range(2):
        # Eq. 1 and 3 of StyleGAN2, weight by weight.
        modulated = conv.weight * conv.weight_gain * style[sample][None, :, None, None]
        demodulated = modulated * norm[sample][:, None, None, None] / conv.weight_gain
        assert torch.allclose(demodulated.square().sum(dim=(1, 2, 3)), torch.ones(7, dtype=torch.float64), atol=1e-6)


def test_scaled_activations_equal_scaled_weights() -> None:
    torch.manual_seed(0)
    conv = ModulatedConv(5, 7, 3, latent_size=4).double()
    x, w = torch.randn(2, 5, 6, 6, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    style = conv.style(w)
    expected = []
    for sample in range(2):
        weight = conv.weight * conv.weight_gain * style[sample][None, :, None, None]
        weight = weight * torch.rsqrt(weight.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8)
        expected.append(F.conv2d(x[sample : sample + 1], weight, padding=1))
    assert torch.allclose(conv(x, w), torch.cat(expected), rtol=1e-9)


def test_equalised_layers_have_the_papers_gain() -> None:
    assert EqualizedLinear(16, 3).weight_gain == 0.25
    assert EqualizedLinear(16, 3, learning_rate_multiplier=0.01).weight_gain == 0.0025
    assert EqualizedConv(4, 8, 3).weight_gain == 1 / 6
    linear = EqualizedLinear(2, 1, bias_init=1.0)
    with torch.no_grad():
        linear.weight.fill_(1.0)
    assert linear(torch.tensor([[3.0, 1.0]])).item() == pytest.approx(4 / math.sqrt(2) + 1)
    # A new style layer leaves activations as they are, on average.
    assert torch.equal(EqualizedLinear(4, 3, bias_init=1.0)(torch.zeros(1, 4)), torch.ones(1, 3))


def test_activations_keep_their_second_moment() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 256)
    assert EqualizedLinear(256, 256, activate=True)(x).square().mean().item() == pytest.approx(1.0, abs=0.1)


def test_normalisation_gives_mean_square_one() -> None:
    assert torch.allclose(normalize_second_moment(torch.tensor([[3.0, 4.0]])).square().mean(), torch.tensor(1.0))


@pytest.mark.parametrize(("resolution", "levels"), [(32, 4), (64, 5), (128, 6)])
@pytest.mark.parametrize("conditional", [True, False])
def test_every_resolution_draws_and_judges(resolution: int, levels: int, conditional: bool) -> None:
    configuration = small(f"model.resolution={resolution}", f"model.conditional={str(conditional).lower()}")
    assert len(layer_channels(configuration.model)) == levels
    model = build_model(configuration)
    labels = torch.tensor([0, 1]) if conditional else None
    images = model.generate(labels, 2, torch_stream(0, "test"))
    assert images.shape == (2, resolution, resolution, 3)
    assert images.dtype == torch.uint8
    assert images.float().std() > 1  # a picture, not a flat colour
    assert not torch.equal(images[0], images[1])
    other = model.generate(torch.tensor([2, 1]) if conditional else None, 2, torch_stream(0, "test"))
    # The class alone changes the first image; without classes nothing changes.
    assert torch.equal(images[0], other[0]) is not conditional
    assert torch.equal(images[1], other[1])


def test_channels_follow_the_paper() -> None:
    model = resolve([parse_assignments(["model.resolution=128", "model.channel-base=1024", "model.channel-max=64"])])
    assert layer_channels(model.model) == [64, 64, 64, 32, 16, 8]


def test_truncation_zero_gives_the_mean_w() -> None:
    model = build_model(small("model.conditional=false"))
    assert isinstance(model, StyleGAN2)
    with torch.no_grad():
        model.generator_ema.mapping.w_mean.normal_(generator=torch_stream(1, "test"))
    generator = model.generator_ema
    z = torch.randn(2, 16, generator=torch_stream(2, "test"))
    images = generator(z, None, None, truncation=0.0)
    assert torch.equal(images, generator.synthesize(generator.mapping.w_mean.expand(2, -1), None))


def test_to_uint8_is_literal() -> None:
    image = torch.tensor([-1.0, -1.5, 1.0, 2.0, 0.0, 0.004]).reshape(1, 3, 1, 2)
    assert to_uint8(image).flatten().tolist() == [0, 255, 128, 0, 255, 128]


# ---------------------------------------------------------------- losses


def test_losses_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-1.0, 0.0])
    log2 = math.log(2)
    assert losses.logistic_generator_loss(fake).item() == pytest.approx((math.log(1 + math.e) + log2) / 2)
    assert losses.logistic_discriminator_loss(real, fake).item() == pytest.approx(
        (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1)) + 2 * log2) / 2
    )
    assert losses.relativistic_generator_loss(real, fake).item() == pytest.approx((math.log(1 + math.e**3) + log2) / 2)
    assert losses.relativistic_discriminator_loss(real, fake).item() == pytest.approx(
        (math.log(1 + math.exp(-3)) + log2) / 2
    )


def test_penalty_of_a_linear_discriminator_is_its_squared_weight() -> None:
    weight = torch.randn(3, 4, 4, generator=torch_stream(0, "test"), dtype=torch.float64)
    real = torch.randn(5, 3, 4, 4, dtype=torch.float64, generator=torch_stream(1, "test")).requires_grad_()
    fake = torch.zeros(5, 3, 4, 4, dtype=torch.float64).requires_grad_()
    logits = torch.cat([(real * weight).sum(dim=(1, 2, 3)), (fake * weight).sum(dim=(1, 2, 3))])
    for penalty in losses.gradient_penalties(logits, [real, fake]):
        assert penalty.item() == pytest.approx(weight.square().sum().item(), rel=1e-12)


def test_penalty_needs_images_that_require_grad() -> None:
    with pytest.raises(ValueError, match="must require grad"):
        losses.gradient_penalties(torch.zeros(1), [torch.zeros(1, 3, 2, 2)])


# ---------------------------------------------------------------- training step


@pytest.mark.parametrize("loss", ["relativistic", "logistic"])
def test_a_step_is_that_of_the_equations_in_fp64(loss: str) -> None:
    """The step shares passes between the networks; plain alternation must give the same gradients."""
    configuration = small(f"training.loss={loss}", "training.gamma=0.3", "training.penalty-every=4")
    model = build_model(configuration)
    assert isinstance(model, StyleGAN2)
    for network in model.networks.values():
        network.double()
        network.compute_dtype = torch.float64  # type: ignore[assignment]
    images, labels = batch()
    images = images.double()

    # Plain: the generator's loss and the discriminator's, each with passes of its own.
    stream = torch_stream(7, "test step")
    z = torch.randn(4, 16, generator=stream).double()
    position = stream.get_state()
    real = images.clone().requires_grad_()
    fakes = model.generator(z, labels, stream)
    judged, reference = model.discriminator(fakes, labels), model.discriminator(real, labels)
    if loss == "relativistic":
        generator_loss = F.softplus(-(judged - reference)).mean()
    else:
        generator_loss = F.softplus(-judged).mean()
    expected_g = torch.autograd.grad(generator_loss, list(model.generator.parameters()))
    stream.set_state(position)
    constant_fakes = model.generator(z, labels, stream).detach().requires_grad_()
    d_real, d_fake = model.discriminator(real, labels), model.discriminator(constant_fakes, labels)
    (grad_real,) = torch.autograd.grad(d_real.sum(), real, create_graph=True)
    (grad_fake,) = torch.autograd.grad(d_fake.sum(), constant_fakes, create_graph=True)
    r1 = grad_real.square().sum(dim=(1, 2, 3)).mean()
    r2 = grad_fake.square().sum(dim=(1, 2, 3)).mean()
    if loss == "relativistic":
        discriminator_loss = F.softplus(-(d_real - d_fake)).mean() + 0.15 * 4 * (r1 + r2)
    else:
        discriminator_loss = (F.softplus(-d_real) + F.softplus(d_fake)).mean() + 0.15 * 4 * r1
    expected_d = torch.autograd.grad(discriminator_loss, list(model.discriminator.parameters()))
    before = [parameter.detach().clone() for parameter in model.generator.parameters()]

    model.train_step(images, labels, torch_stream(7, "test step"))
    for network, expected in ((model.generator, expected_g), (model.discriminator, expected_d)):
        for (name, parameter), gradient in zip(network.named_parameters(), expected, strict=True):
            assert parameter.grad is not None
            # z is drawn in fp32, so noise and latents are the same numbers.
            assert torch.allclose(parameter.grad, gradient, rtol=1e-8, atol=1e-12), name
    # Adam's first step with beta1 = 0 moves every weight by the learning rate against its gradient's sign.
    for parameter, old, gradient in zip(model.generator.parameters(), before, expected_g, strict=True):
        moved = gradient.abs() > 1e-4
        assert torch.allclose((old - parameter.detach())[moved], 0.002 * gradient.sign()[moved], rtol=1e-3, atol=1e-7)


def test_the_running_average_is_literal() -> None:
    model = build_model(small("training.ema-half-life-images=0.2", "training.ema-ramp=0.05"))
    assert isinstance(model, StyleGAN2)
    old = model.generator_ema.constant.clone()
    model.train_step(*batch(), torch_stream(0, "test"))
    # min(0.2, 0.05 * 4 images) = 0.2 images of half-life, 4 images shown: 0.5 ** 20.
    decay = 0.5**20
    assert torch.allclose(model.generator_ema.constant, old * decay + model.generator.constant * (1 - decay))
    assert torch.equal(model.generator_ema.mapping.w_mean, model.generator.mapping.w_mean)


def test_a_seed_repeats_and_another_differs() -> None:
    def weights(seed: int) -> torch.Tensor:
        model = build_model(small(f"seed={seed}"))
        for _ in range(2):
            model.train_step(*batch(), torch_stream(seed, "test"))
        return torch.cat([parameter.detach().flatten() for parameter in model.networks["generator"].parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_building_leaves_the_global_stream_alone() -> None:
    before = torch.get_rng_state()
    build_model(small())
    assert torch.equal(before, torch.get_rng_state())


def test_private_state_continues_training_exactly() -> None:
    straight = build_model(small("training.penalty-every=3"))
    broken = build_model(small("training.penalty-every=3"))
    for step in range(4):
        straight.train_step(*batch(), torch_stream(step, "test"))
    for step in range(4):
        broken.train_step(*batch(), torch_stream(step, "test"))
        state = {name: value.clone() for name, value in broken.private_state().items()}
        resumed = build_model(small("training.penalty-every=3", "seed=99"))
        for name, network in resumed.networks.items():
            network.load_state_dict(broken.networks[name].state_dict())
        resumed.load_private_state(state)
        broken = resumed
    for name, network in straight.networks.items():
        for key, value in network.state_dict().items():
            assert torch.equal(value, broken.networks[name].state_dict()[key]), (name, key)


def test_the_state_of_another_network_is_refused() -> None:
    model = build_model(small())
    model.train_step(*batch(), torch_stream(0, "test"))
    with pytest.raises(WireError, match=r"private state generator\.\S+exp_avg: found shape .*expected shape"):
        build_model(small("model.channel-max=8")).load_private_state(model.private_state())


@pytest.mark.parametrize("loss", ["relativistic", "logistic"])
def test_bf16_gradients_point_where_fp64_gradients_do(loss: str) -> None:
    def gradients(dtype: torch.dtype) -> torch.Tensor:
        model = build_model(small(f"training.loss={loss}", "training.gamma=1.0"))
        assert isinstance(model, StyleGAN2)
        images, labels = batch()
        if dtype == torch.float64:
            for network in model.networks.values():
                network.double()
            images = images.double()
        model.generator.compute_dtype = model.discriminator.compute_dtype = dtype
        model.train_step(images, labels, torch_stream(0, "test"))
        return torch.cat(
            [
                parameter.grad.double().flatten()
                for network in (model.generator, model.discriminator)
                for parameter in network.parameters()
                if parameter.grad is not None
            ]
        )

    assert torch.cosine_similarity(gradients(torch.bfloat16), gradients(torch.float64), dim=0) > 0.99


def test_precision_auto_is_bf16_only_where_the_processor_has_it() -> None:
    has = bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    assert compute_dtype("auto", torch.device("cpu")) == (torch.bfloat16 if has else torch.float32)


def test_uniform_fake_labels_leave_the_real_ones_alone() -> None:
    model = build_model(small("training.fake-labels=uniform"))
    assert isinstance(model, StyleGAN2)
    labels = torch.zeros(3000, dtype=torch.int64)
    real, fake = model._labels(labels, torch_stream(0, "test"))
    assert real is labels
    assert fake is not None
    assert torch.allclose(torch.bincount(fake) / 3000, torch.full((3,), 1 / 3), atol=0.04)


# ---------------------------------------------------------------- final files


def test_a_generator_is_read_back_with_its_bits(tmp_path: Path) -> None:
    configuration = small()
    model = build_model(configuration)
    model.train_step(*batch(), torch_stream(0, "test"))
    save_final(tmp_path / "a", model, configuration)
    save_final(tmp_path / "b", model, configuration)
    weights = (tmp_path / "a" / "generator.safetensors").read_bytes()
    assert weights == (tmp_path / "b" / "generator.safetensors").read_bytes()
    assert b"__metadata__" not in weights
    final = load_final(tmp_path / "a")
    assert final.classes == ("a", "b", "c")
    images = final.generate(5, labels=torch.tensor([0, 1, 2, 0, 1]), seed=3, batch=2)
    assert torch.equal(images, final.generate(5, labels=torch.tensor([0, 1, 2, 0, 1]), seed=3, batch=2))
    stream = torch_stream(3, "generate")
    model.generator_ema.compute_dtype = torch.float32  # type: ignore[attr-defined]
    assert torch.equal(images[:2], model.generate(torch.tensor([0, 1]), 2, stream))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    model = build_model(small())
    save_final(tmp_path, model, small("model.latent-size=8"))
    with pytest.raises(DataError, match=r"constant|found \(16,\), expected \(8,\)"):
        load_final(tmp_path)
    with pytest.raises(DataError, match="holds no generator that can be read"):
        load_final(tmp_path / "nowhere")
