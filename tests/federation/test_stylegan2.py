"""Networks, losses and the training step against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from federation.batch import Batch
from federation.config import Configuration, parse_assignments
from federation.errors import WireError
from federation.images import to_uint8
from federation.models import build_model
from federation.models.drawing import drawer_of
from federation.models.stylegan2 import losses
from federation.models.stylegan2.networks import (
    EqualizedConv,
    EqualizedLinear,
    ModulatedConv,
    minibatch_std,
    normalize_second_moment,
)
from federation.models.stylegan2.preparation import demodulation, prepare_convs, prepare_modulations
from federation.models.stylegan2.resampling import average_pairs, filter_images
from federation.models.stylegan2.settings import StyleGAN2Settings
from federation.models.stylegan2.step import StyleGAN2, layer_channels
from federation.models.training import Clock, compute_dtype
from federation.seeding import torch_stream
from strategies.configuration import resolve


def small(*assignments: str) -> Configuration:
    return resolve(
        [
            parse_assignments(
                [
                    "data.classes=a,b,c",
                    "stylegan2.channel-max=16",
                    "stylegan2.latent-size=16",
                    "training.batch-size=4",
                    "training.precision=fp32",
                    "model.site-embedding=off",
                    *assignments,
                ]
            )
        ]
    )


def batch(count: int = 4, resolution: int = 32) -> Batch:
    stream = torch_stream(5, "test batch")
    return Batch(torch.rand(count, 3, resolution, resolution, generator=stream) * 2 - 1, torch.arange(count) % 3)


def in_double(given: Batch) -> Batch:
    return Batch(given.images.double(), given.labels)


# ---------------------------------------------------------------- layers


def test_demodulated_weights_have_unit_norm() -> None:
    torch.manual_seed(0)
    conv = ModulatedConv(5, 7, 3, latent_size=4).double()
    style = torch.randn(2, 5, dtype=torch.float64)
    norm = demodulation(style[None], conv.weight[None], conv.weight_gain)[0]
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
    (ready,) = prepare_modulations([conv], [w], [1.0], torch.float64)
    assert torch.allclose(conv(x, ready), torch.cat(expected), rtol=1e-9)


@pytest.mark.parametrize("resampling", ["bilinear", "fir"])
def test_layers_made_ready_together_are_what_each_is_alone(resampling: str) -> None:
    """Of several shapes, with and without demodulation, mixed; and so are their gradients."""
    torch.manual_seed(0)
    kinds = [(5, 7, True), (5, 3, False), (5, 7, True), (5, 3, False), (5, 5, True)]
    convs = [
        ModulatedConv(
            before, after, 3, latent_size=4, demodulate=demodulate, transposed=demodulate and resampling == "fir"
        ).double()
        for before, after, demodulate in kinds
    ]
    gains = [1.0, 1.0, 2.0, 1.0, 1.0]
    x, ws = torch.randn(2, 5, 6, 6, dtype=torch.float64), list(torch.randn(5, 2, 4, dtype=torch.float64))
    for conv, w, gain, ready in zip(
        convs, ws, gains, prepare_modulations(convs, ws, gains, torch.float64), strict=True
    ):
        (alone,) = prepare_modulations([conv], [w], [gain], torch.float64)
        y, expected = conv(x, ready), conv(x, alone)
        assert torch.allclose(y, expected, rtol=1e-12)
        parameters = list(conv.parameters())
        gradients = torch.autograd.grad(y.square().sum(), parameters, retain_graph=True)
        for gradient, other in zip(gradients, torch.autograd.grad(expected.square().sum(), parameters), strict=True):
            assert torch.allclose(gradient, other, rtol=1e-9)


def test_convolutions_made_ready_together_are_scaled_each_by_its_own_gain() -> None:
    torch.manual_seed(0)
    convs = [EqualizedConv(4, 6, 3, activate=True), EqualizedConv(4, 6, 3), EqualizedConv(4, 6, 3, bias=False)]
    for conv in convs:
        if conv.bias is not None:
            torch.nn.init.normal_(conv.bias)
    gains = [1.0, 0.5, 0.5]
    for conv, gain, ready in zip(
        convs, gains, prepare_convs(list(zip(convs, gains, strict=True)), torch.float32), strict=True
    ):
        gain = gain * math.sqrt(2.0) if conv.activate else gain
        assert torch.allclose(ready.weight, conv.weight * (gain / 6))
        assert ready.weight.is_contiguous(memory_format=torch.channels_last)
        assert (ready.bias is None) == (conv.bias is None)
        if conv.bias is not None and ready.bias is not None:
            assert torch.allclose(ready.bias, conv.bias * gain)


def test_pairs_are_averaged_as_by_pytorch_with_both_derivatives() -> None:
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    assert torch.equal(average_pairs(x), F.avg_pool2d(x, 2))
    assert torch.autograd.gradcheck(average_pairs, x)
    assert torch.autograd.gradgradcheck(average_pairs, x)


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


def test_filters_are_what_the_paper_draws() -> None:
    """Zeros between pixels, zeros around the image, the filter [1, 3, 3, 1]: each against a plain convolution."""
    x = torch.randn(2, 3, 8, 8, generator=torch_stream(0, "test"), dtype=torch.float64)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8
    kernel = torch.outer(taps, taps).expand(3, 1, 4, 4)

    def convolved(images: torch.Tensor, padding: tuple[int, int], stride: int = 1) -> torch.Tensor:
        return F.conv2d(F.pad(images, padding * 2), kernel, stride=stride, groups=3)

    stuffed = torch.zeros(2, 3, 16, 16, dtype=torch.float64)
    stuffed[:, :, ::2, ::2] = x
    # Gain 2 along each axis, as three of four pixels are zeros.
    assert torch.allclose(filter_images(x, "up"), 4 * convolved(stuffed, (2, 1)), atol=1e-12)
    assert torch.allclose(filter_images(x, "down"), convolved(x, (1, 1), stride=2), atol=1e-12)
    assert torch.allclose(filter_images(x, "before-strided"), convolved(x, (2, 2)), atol=1e-12)
    odd = torch.randn(2, 3, 9, 9, generator=torch_stream(1, "test"), dtype=torch.float64)
    assert torch.allclose(filter_images(odd, "after-transposed"), 4 * convolved(odd, (1, 1)), atol=1e-12)


def test_filters_by_hand_and_exact_in_bf16() -> None:
    impulse = torch.zeros(1, 1, 4, 4)
    impulse[0, 0, 1, 1] = 64.0
    # One axis of an impulse at pixel 1, along its brightest row: twice (1, 3, 3, 1) / 8 around it.
    assert (filter_images(impulse, "up")[0, 0, 2] / 48).tolist() == [0.0, 0.25, 0.75, 0.75, 0.25, 0, 0, 0]
    assert (filter_images(impulse, "down")[0, 0, 0] / 24).tolist() == [0.375, 0.125]
    for kind in ("up", "down", "before-strided", "after-transposed"):
        exact = filter_images(impulse.double(), kind)
        assert torch.equal(filter_images(impulse.bfloat16(), kind).double(), exact)
    with pytest.raises(ValueError, match="kind 'sideways': allowed are up, "):
        filter_images(impulse, "sideways")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["up", "down", "before-strided", "after-transposed"])
def test_filters_are_differentiated_twice(kind: str) -> None:
    size = 7 if kind == "after-transposed" else 6
    x = torch.randn(2, 2, size, size, generator=torch_stream(0, "test"), dtype=torch.float64, requires_grad=True)
    # The square makes the second derivative more than zero.
    assert torch.autograd.gradcheck(lambda images: filter_images(images, kind).square(), x)
    assert torch.autograd.gradgradcheck(lambda images: filter_images(images, kind).square(), x)


def test_minibatch_standard_deviation_by_hand() -> None:
    # Two groups of two: images that differ by 6 everywhere, and images that are alike.
    x = torch.tensor([5.0, -1.0, 4.0, 4.0])[:, None, None, None].expand(4, 3, 2, 2)
    y = minibatch_std(x, 2)
    assert torch.equal(y[:, :3], x)
    assert torch.allclose(y[:2, 3], torch.full((2, 2, 2), 3.0))
    assert torch.allclose(y[2:, 3], torch.full((2, 2, 2), 1e-4))


@pytest.mark.parametrize("resampling", ["bilinear", "fir"])
@pytest.mark.parametrize(("resolution", "levels"), [(32, 4), (64, 5), (128, 6), (256, 7), (512, 8)])
@pytest.mark.parametrize("conditional", [True, False])
def test_every_resolution_draws_and_judges(resolution: int, levels: int, conditional: bool, resampling: str) -> None:
    configuration = small(
        f"model.resolution={resolution}",
        f"model.conditional={str(conditional).lower()}",
        f"stylegan2.resampling={resampling}",
    )
    assert len(layer_channels(configuration.model, configuration.own(StyleGAN2Settings))) == levels
    drawer = drawer_of(build_model(configuration))
    labels = torch.tensor([0, 1]) if conditional else None
    images = drawer.generate(labels, 2, torch_stream(0, "test"))
    assert images.shape == (2, resolution, resolution, 3)
    assert images.dtype == torch.uint8
    assert images.float().std() > 1  # a picture, not a flat colour
    assert not torch.equal(images[0], images[1])
    other = drawer.generate(torch.tensor([2, 1]) if conditional else None, 2, torch_stream(0, "test"))
    # The class alone changes the first image; without classes nothing changes.
    assert torch.equal(images[0], other[0]) is not conditional
    assert torch.equal(images[1], other[1])


def test_channels_follow_the_paper() -> None:
    configuration = resolve(
        [parse_assignments(["model.resolution=128", "stylegan2.channel-base=1024", "stylegan2.channel-max=64"])]
    )
    assert layer_channels(configuration.model, configuration.own(StyleGAN2Settings)) == [64, 64, 64, 32, 16, 8]


def test_truncation_zero_gives_the_mean_w() -> None:
    model = build_model(small("model.conditional=false"))
    assert isinstance(model, StyleGAN2)
    with torch.no_grad():
        model.generator_ema.mapping.w_mean.normal_(generator=torch_stream(1, "test"))
    generator = model.generator_ema
    z = torch.randn(2, 16, generator=torch_stream(2, "test"))
    images = generator(z, None, None, truncation=0.0)
    assert torch.equal(images, generator.synthesize(generator.repeat(generator.mapping.w_mean.expand(2, -1)), None))


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


def test_path_lengths_of_a_linear_generator_are_those_of_its_matrix() -> None:
    stream = torch_stream(0, "test")
    # Images are the sum over two layers of a matrix times the layer's style.
    matrices = torch.randn(2, 3 * 4 * 4, 5, generator=stream, dtype=torch.float64)
    styles = torch.randn(6, 2, 5, generator=stream, dtype=torch.float64).requires_grad_()
    noise = torch.randn(6, 3, 4, 4, generator=stream, dtype=torch.float64)
    images = torch.einsum("lpk,blk->bp", matrices, styles).view(6, 3, 4, 4)
    # J^T y for each layer; 16 pixels; root mean square over the layers.
    gradients = torch.einsum("lpk,bp->blk", matrices, noise.flatten(1)) / 4
    expected = gradients.square().sum(dim=2).mean(dim=1).sqrt()
    assert torch.allclose(losses.path_lengths(images, styles, noise), expected, rtol=1e-12)


def test_ratio_of_gradients_by_hand() -> None:
    logits = torch.tensor([0.0, -3.0, 200.0, -200.0], dtype=torch.float64, requires_grad=True)
    generator, discriminator = F.softplus(-logits).sum(), F.softplus(logits).sum()
    # -sigmoid(-x) / sigmoid(x) = -exp(-x); where the discriminator's gradient is gone, so is the product of both.
    ratio = losses.gradient_ratio(generator, discriminator, logits)
    assert ratio[:3].tolist() == pytest.approx([-1.0, -math.exp(3), -math.exp(-200)])
    assert bool(torch.isfinite(ratio).all())


def test_penalty_needs_images_that_require_grad() -> None:
    with pytest.raises(ValueError, match="must require grad"):
        losses.gradient_penalties(torch.zeros(1), [torch.zeros(1, 3, 2, 2)])


# ---------------------------------------------------------------- training step


@pytest.mark.parametrize("loss", ["relativistic", "logistic"])
def test_a_step_is_that_of_the_equations_in_fp64(loss: str) -> None:
    """The step shares passes between the networks; plain alternation must give the same gradients."""
    configuration = small(f"stylegan2.loss={loss}", "stylegan2.gamma=0.3", "stylegan2.penalty-every=4")
    model = build_model(configuration)
    assert isinstance(model, StyleGAN2)
    for network in model.networks.values():
        network.double()
        network.compute_dtype = torch.float64  # type: ignore[assignment]
    given = in_double(batch())
    images, labels = given.images, given.labels

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

    model.train_step(given, torch_stream(7, "test step"))
    for network, expected in ((model.generator, expected_g), (model.discriminator, expected_d)):
        for (name, parameter), gradient in zip(network.named_parameters(), expected, strict=True):
            assert parameter.grad is not None
            # z is drawn in fp32, so noise and latents are the same numbers.
            assert torch.allclose(parameter.grad, gradient, rtol=1e-8, atol=1e-12), name
    # Adam's first step with beta1 = 0 moves every weight by the learning rate against its gradient's sign.
    for parameter, old, gradient in zip(model.generator.parameters(), before, expected_g, strict=True):
        moved = gradient.abs() > 1e-4
        assert torch.allclose((old - parameter.detach())[moved], 0.002 * gradient.sign()[moved], rtol=1e-3, atol=1e-7)


EVERYTHING = (
    "stylegan2.loss=logistic",
    "stylegan2.style-mixing=0.5",
    "stylegan2.path-length-weight=2.0",
    "stylegan2.path-length-every=2",
    "stylegan2.penalty-every=3",
    "stylegan2.label-dropout=0.2",
    "stylegan2.transition-images=12.0",
    "stylegan2.minibatch-std=2",
    "stylegan2.resampling=fir",
    "stylegan2.augmentation.name=ada",
    "stylegan2.augmentation.transforms=bgc",
    "stylegan2.augmentation.p=0.5",
    "stylegan2.augmentation.ada-every=3",
    "stylegan2.augmentation.ada-kimg=0.1",
)


def test_style_mixing_takes_later_layers_from_another_latent() -> None:
    model = build_model(small("stylegan2.style-mixing=0.6", "model.conditional=false"))
    assert isinstance(model, StyleGAN2)
    w = torch.full((4000, 16), 7.0)
    styles = model._styles(w, None, None, torch_stream(0, "test"))
    own = (styles == 7.0).all(dim=2)
    assert bool(own[:, 0].all())  # the first layer is never another's
    assert bool((own[:, :-1] >= own[:, 1:]).all())  # from one layer on
    mixed = ~own[:, -1]
    assert mixed.float().mean().item() == pytest.approx(0.6, abs=0.03)
    # The crossover is uniform over the layers after the first: 7 layers and the last ToRGB at 32 px.
    counts = torch.bincount(own[mixed].sum(dim=1), minlength=8) / mixed.sum()
    assert counts[0] == 0
    assert torch.allclose(counts[1:], torch.full((7,), 1 / 7), atol=0.03)


def test_transitional_conditioning_lets_the_class_in_slowly() -> None:
    model = build_model(small("stylegan2.transition-start-images=8.0", "stylegan2.transition-images=16.0"))
    assert isinstance(model, StyleGAN2)
    heard = []
    for step in range(8):
        model.train_step(batch(), torch_stream(step, "test"))
        heard.append(model.generator_ema.mapping.label_weight.item())
    assert heard == [0, 0, 0, 0.25, 0.5, 0.75, 1, 1]  # 4 images a step


def test_a_newcomer_hears_the_class_as_loudly_as_the_federation_does() -> None:
    model = build_model(small("stylegan2.transition-start-images=8.0", "stylegan2.transition-images=16.0"))
    assert isinstance(model, StyleGAN2)
    model.clock = Clock(ahead=20.0)
    model.train_step(batch(), torch_stream(0, "test"))
    assert model.generator.mapping.label_weight.item() == 0.75
    # A mapping network of its own is as old as the hospital.
    model.load_private_state({})
    model.clock = Clock(ahead=20.0, own=frozenset({"generator.mapping.label_weight"}))
    model.train_step(batch(), torch_stream(0, "test"))
    assert model.generator.mapping.label_weight.item() == 0.0


def test_a_hidden_class_is_heard_by_neither_network() -> None:
    model = build_model(small("stylegan2.label-dropout=0.5"))
    assert isinstance(model, StyleGAN2)
    with torch.no_grad():
        model.discriminator.class_projection.normal_(generator=torch_stream(1, "test"))
    weights = model._label_weights(2000, torch_stream(0, "test"))
    assert weights is not None
    assert set(weights.tolist()) == {0.0, 1.0}
    assert weights.mean().item() == pytest.approx(0.5, abs=0.04)
    z, images = torch.randn(4, 16, generator=torch_stream(2, "test")), batch().images
    told = torch.tensor([1.0, 0.0, 1.0, 0.0])

    def answers(labels: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        classes = torch.tensor(labels)
        return model.generator.mapping(z, classes, told), model.discriminator(images, classes, told)

    for one, other in zip(answers([0, 0, 0, 0]), answers([1, 1, 1, 1]), strict=True):
        same = [torch.equal(first, second) for first, second in zip(one, other, strict=True)]
        assert same == [False, True, False, True]


@pytest.mark.parametrize(("target", "expected"), [(-1.0, 0.36), (0.99, 0.04)])
def test_the_controller_moves_p_every_few_steps(target: float, expected: float) -> None:
    """4 images a step, 2 steps, 100 images from 0 to 1: p moves by 0.08."""
    model = build_model(
        small(
            "stylegan2.augmentation.name=ada",
            "stylegan2.augmentation.p=0.2",
            f"stylegan2.augmentation.ada-target={target}",
            "stylegan2.augmentation.ada-every=2",
            "stylegan2.augmentation.ada-kimg=0.1",
        )
    )
    assert isinstance(model, StyleGAN2)
    seen = []
    for step in range(4):
        terms = model.train_step(batch(), torch_stream(step, "test"))
        seen.append(terms["augmentation-p"].item())
    up = 0.08 if target < 0 else -0.08
    assert seen == pytest.approx([0.2, 0.2 + up, 0.2 + up, 0.2 + 2 * up])
    assert seen[-1] == pytest.approx(expected)
    assert model.state.ada_sign_count.item() == 0


def test_nothing_in_a_step_waits_for_the_device() -> None:
    """A value that Python reads would make a GPU wait: no operation of a step does so, whatever is switched on."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Recorder(TorchDispatchMode):
        names: set[str] = set()  # noqa: RUF012

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            self.names.add(func._overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    for recipe in ((), EVERYTHING, ("stylegan2.augmentation.name=diffaugment",)):
        model = build_model(small(*recipe))
        given = batch()
        with Recorder() as recorder:
            for step in range(6):
                model.train_step(given, torch_stream(step, "test"))
    waits = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim"}
    assert "convolution" in recorder.names
    assert not recorder.names & waits
    with recorder:
        bool(given.images.sum() > 0)  # the recorder does see such a read
    assert "_local_scalar_dense" in recorder.names


def test_the_running_average_is_literal() -> None:
    model = build_model(small("training.ema-half-life-images=0.2", "training.ema-ramp=0.05"))
    assert isinstance(model, StyleGAN2)
    old = model.generator_ema.constant.clone()
    model.train_step(batch(), torch_stream(0, "test"))
    # min(0.2, 0.05 * 4 images) = 0.2 images of half-life, 4 images shown: 0.5 ** 20.
    decay = 0.5**20
    assert torch.allclose(model.generator_ema.constant, old * decay + model.generator.constant * (1 - decay))
    assert torch.equal(model.generator_ema.mapping.w_mean, model.generator.mapping.w_mean)


def test_a_seed_repeats_and_another_differs() -> None:
    def weights(seed: int) -> torch.Tensor:
        model = build_model(small(f"seed={seed}"))
        for _ in range(2):
            model.train_step(batch(), torch_stream(seed, "test"))
        return torch.cat([parameter.detach().flatten() for parameter in model.networks["generator"].parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_building_leaves_the_global_stream_alone() -> None:
    before = torch.get_rng_state()
    build_model(small())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("recipe", [("stylegan2.penalty-every=3",), EVERYTHING], ids=["default", "everything"])
def test_private_state_continues_training_exactly(recipe: tuple[str, ...]) -> None:
    straight = build_model(small(*recipe))
    broken = build_model(small(*recipe))
    for step in range(4):
        straight.train_step(batch(), torch_stream(step, "test"))
    for step in range(4):
        broken.train_step(batch(), torch_stream(step, "test"))
        state = {name: value.clone() for name, value in broken.private_state().items()}
        resumed = build_model(small(*recipe, "seed=99"))
        for name, network in resumed.networks.items():
            network.load_state_dict(broken.networks[name].state_dict())
        resumed.load_private_state(state)
        broken = resumed
    for name, network in straight.networks.items():
        for key, value in network.state_dict().items():
            assert torch.equal(value, broken.networks[name].state_dict()[key]), (name, key)


def test_the_state_of_another_network_is_refused() -> None:
    model = build_model(small())
    model.train_step(batch(), torch_stream(0, "test"))
    with pytest.raises(WireError, match=r"private state generator\.\S+exp_avg: found shape .*expected shape"):
        build_model(small("stylegan2.channel-max=8")).load_private_state(model.private_state())


@pytest.mark.parametrize(
    "recipe",
    [
        ("stylegan2.loss=relativistic",),
        ("stylegan2.loss=logistic",),
        EVERYTHING,
        ("stylegan2.augmentation.name=fixed", "stylegan2.augmentation.p=1.0", "stylegan2.augmentation.transforms=bgc"),
        ("stylegan2.augmentation.name=diffaugment",),
    ],
    ids=["relativistic", "logistic", "everything", "augmented", "diffaugment"],
)
def test_gradients_in_lower_precision_point_where_fp64_gradients_do(recipe: tuple[str, ...]) -> None:
    """Second derivatives too: R1 and path lengths are among the terms, and R1 passes through the augmentation."""

    def gradients(dtype: torch.dtype) -> torch.Tensor:
        model = build_model(small(*recipe, "stylegan2.gamma=1.0"))
        assert isinstance(model, StyleGAN2)
        # Enough images that one with an extreme transform does not decide.
        given = batch(32)
        if dtype == torch.float64:
            for network in model.networks.values():
                network.double()
            given = in_double(given)
        model.generator.compute_dtype = model.discriminator.compute_dtype = dtype
        model.train_step(given, torch_stream(0, "test"))
        return torch.cat(
            [
                parameter.grad.double().flatten()
                for network in (model.generator, model.discriminator)
                for parameter in network.parameters()
                if parameter.grad is not None
            ]
        )

    exact = gradients(torch.float64)
    assert torch.cosine_similarity(gradients(torch.float32), exact, dim=0) > 1 - 1e-8
    assert torch.cosine_similarity(gradients(torch.bfloat16), exact, dim=0) > 0.99


def test_precision_auto_is_bf16_only_where_the_processor_has_it() -> None:
    has = bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    assert compute_dtype("auto", torch.device("cpu")) == (torch.bfloat16 if has else torch.float32)


def test_uniform_fake_labels_leave_the_real_ones_alone() -> None:
    model = build_model(small("stylegan2.fake-labels=uniform"))
    assert isinstance(model, StyleGAN2)
    labels = torch.zeros(3000, dtype=torch.int64)
    real, fake = model._labels(labels, torch_stream(0, "test"))
    assert real is labels
    assert fake is not None
    assert torch.allclose(torch.bincount(fake) / 3000, torch.full((3,), 1 / 3), atol=0.04)


# ---------------------------------------------------------------- one network alone


def bits(network: torch.nn.Module) -> dict[str, bytes]:
    return {name: value.detach().numpy().tobytes() for name, value in network.state_dict().items()}


def in_fp64(*assignments: str) -> StyleGAN2:
    model = build_model(small(*assignments))
    assert isinstance(model, StyleGAN2)
    for network in model.networks.values():
        network.double()
        network.compute_dtype = torch.float64  # type: ignore[assignment]
    return model


def gradients_of(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {}
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        found[name] = parameter.grad.clone()
    return found


RECIPES = {
    "default": (),
    "no penalty": ("stylegan2.gamma=0.0",),
    "logistic": ("stylegan2.loss=logistic", "stylegan2.fake-labels=uniform", "stylegan2.style-mixing=0.5"),
    "unconditional": ("model.conditional=false", "stylegan2.loss=logistic"),
    "everything": EVERYTHING,
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_discriminator_alone_learns_what_it_learns_in_a_whole_step(recipe: tuple[str, ...]) -> None:
    """From the same weights and stream, with and without penalties, also where a whole step shares its passes."""
    # Path lengths take numbers from the stream, and only afterwards: they do not move the discriminator.
    whole, alone = in_fp64(*recipe), in_fp64(*recipe)
    given = in_double(batch())
    for step in range(3):
        # Both go on from the same weights.
        for name, network in whole.networks.items():
            alone.networks[name].load_state_dict(network.state_dict())
        alone.load_private_state(whole.private_state())
        expected = whole.train_step(given, torch_stream(step, "test"))
        found = alone.train_critic(given, torch_stream(step, "test"))
        assert alone.num_steps == whole.num_steps
        exact = gradients_of(whole.discriminator)
        for name, gradient in gradients_of(alone.discriminator).items():
            assert torch.allclose(gradient, exact[name], rtol=1e-9, atol=1e-12), name
        for name, value in alone.discriminator.state_dict().items():
            assert torch.allclose(value, whole.discriminator.state_dict()[name], rtol=1e-6, atol=1e-9), name
        for name, value in alone.state.state_dict().items():
            if name != "path_length_mean":
                assert torch.equal(value, whole.state.state_dict()[name]), name
        terms = {"loss-discriminator", "logit-real", "logit-fake", "penalty-real", "penalty-fake"} & expected.keys()
        assert found.keys() == terms
        for name in terms:
            assert found[name].item() == pytest.approx(expected[name].item(), rel=1e-9), name


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_discriminator_alone_leaves_every_bit_of_the_generator(recipe: tuple[str, ...]) -> None:
    model = build_model(small(*recipe))
    assert isinstance(model, StyleGAN2)
    before = {name: bits(network) for name, network in model.networks.items()}
    for step in range(3):
        model.train_critic(batch(), torch_stream(step, "test"))
    changed = {
        name: {key for key, value in bits(network).items() if value != before[name][key]}
        for name, network in model.networks.items()
    }
    # No weight, but how much of the class is heard: this hospital's own clock, and never sent from here.
    assert changed["generator"] == ({"mapping.label_weight"} if recipe == EVERYTHING else set())
    assert changed["generator_ema"] == set()
    # A bias of all logits has no part in differences of logits.
    bias = {"output.bias"} if model.settings.loss == "relativistic" else set()
    assert changed["discriminator"] == {name for name, _ in model.discriminator.named_parameters()} - bias
    assert not any(name.startswith("generator.") for name in model.private_state())


@pytest.mark.parametrize("loss", ["relativistic", "logistic"])
def test_the_discriminators_gradient_is_that_of_the_equations(loss: str) -> None:
    model = in_fp64(f"stylegan2.loss={loss}", "stylegan2.gamma=0.3", "stylegan2.penalty-every=4")
    given = in_double(batch())
    labels = given.labels
    stream = torch_stream(7, "test step")
    z = torch.randn(4, 16, generator=stream).double()
    fake = model.generator(z, labels, stream).detach().requires_grad_()
    real = given.images.clone().requires_grad_()
    d_real, d_fake = model.discriminator(real, labels), model.discriminator(fake, labels)
    (at_real,) = torch.autograd.grad(d_real.sum(), real, create_graph=True)
    (at_fake,) = torch.autograd.grad(d_fake.sum(), fake, create_graph=True)
    r1, r2 = (gradient.square().sum(dim=(1, 2, 3)).mean() for gradient in (at_real, at_fake))
    # gamma / 2 of the penalties, which come every fourth step and count four times.
    if loss == "relativistic":
        objective = F.softplus(d_fake - d_real).mean() + 0.15 * 4 * (r1 + r2)
    else:
        objective = (F.softplus(-d_real) + F.softplus(d_fake)).mean() + 0.15 * 4 * r1
    expected = torch.autograd.grad(objective, list(model.discriminator.parameters()))

    terms = model.train_critic(given, torch_stream(7, "test step"))
    for (name, found), gradient in zip(gradients_of(model.discriminator).items(), expected, strict=True):
        assert torch.allclose(found, gradient, rtol=1e-8, atol=1e-12), name
    assert terms["penalty-real"].item() == pytest.approx(r1.item())
    assert terms["logit-fake"].item() == pytest.approx(d_fake.mean().item())


def linear_judge(images: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    """Not a network: a fixed direction, and a class counts too."""
    weights = torch.randn(images.shape[1:], generator=torch_stream(1, "test judge"), dtype=torch.float64)
    logits = (images * weights).sum(dim=(1, 2, 3)) / 50
    return logits if labels is None else logits + labels


@pytest.mark.parametrize("conditional", [True, False])
def test_the_generators_gradient_is_that_of_the_logistic_loss(conditional: bool) -> None:
    model = in_fp64(f"model.conditional={str(conditional).lower()}")
    labels = torch.tensor([2, 0, 1, 1]) if conditional else None
    stream = torch_stream(7, "test step")
    z = torch.randn(4, 16, generator=stream).double()
    w = model.generator.mapping(z, labels)
    judged = linear_judge(model.generator.synthesize(model.generator.repeat(w), stream), labels)
    loss = -F.logsigmoid(judged).mean()
    expected = torch.autograd.grad(loss, list(model.generator.parameters()))
    old = {name: value.detach().clone() for name, value in model.generator.named_parameters()}
    old_mean = model.generator.mapping.w_mean.clone()

    found = model.train_generator(labels, 4, linear_judge, torch_stream(7, "test step"))
    assert found.item() == pytest.approx(loss.item(), rel=1e-12)
    assert found.requires_grad is False
    for (name, value), gradient in zip(gradients_of(model.generator).items(), expected, strict=True):
        assert torch.allclose(value, gradient, rtol=1e-8, atol=1e-12), name
    # Adam's first step: the learning rate against the sign of the gradient.
    for (name, parameter), gradient in zip(model.generator.named_parameters(), expected, strict=True):
        moved = gradient.abs() > 1e-4
        step = 0.002 * gradient.sign()[moved]
        assert torch.allclose((old[name] - parameter.detach())[moved], step, rtol=1e-3, atol=1e-7), name
    assert torch.allclose(model.generator.mapping.w_mean, old_mean + 0.005 * (w.mean(dim=0) - old_mean))


def test_the_generator_alone_leaves_every_bit_of_the_discriminator_and_moves_its_running_average() -> None:
    model = build_model(small("training.ema-half-life-images=0.2", "training.ema-ramp=0.05"))
    assert isinstance(model, StyleGAN2)
    discriminator, old = bits(model.discriminator), model.generator_ema.constant.clone()
    state = bits(model.state)
    model.train_generator(batch().labels, 4, model.discriminator, torch_stream(0, "test"))
    assert bits(model.discriminator) == discriminator
    assert all(parameter.grad is None for parameter in model.discriminator.parameters())
    assert bits(model.state) == state
    # min(0.2, 0.05 * 4 images) = 0.2 images of half-life, 4 images shown: 0.5 ** 20.
    decay = 0.5**20
    assert torch.allclose(model.generator_ema.constant, old * decay + model.generator.constant * (1 - decay))
    assert torch.equal(model.generator_ema.mapping.w_mean, model.generator.mapping.w_mean)
    assert model.num_steps == 1
    assert not any(name.startswith("discriminator.") for name in model.private_state())


@pytest.mark.parametrize("recipe", [("stylegan2.loss=logistic",), EVERYTHING], ids=["logistic", "everything"])
def test_the_generator_learns_from_its_judge_what_it_learns_in_a_whole_step(recipe: tuple[str, ...]) -> None:
    """With the discriminator as it is for a judge, and without the regulariser of path lengths."""
    recipe = (
        *recipe,
        "stylegan2.path-length-weight=0.0",
        "stylegan2.path-length-every=4",
        "stylegan2.augmentation.name=none",
        "stylegan2.augmentation.transforms=dermoscopy",
        "stylegan2.augmentation.p=0.0",
        *(f"stylegan2.augmentation.ada-{key}" for key in ("every=4", "kimg=500.0")),
    )
    recipe = (*recipe, "stylegan2.transition-images=0.0", "stylegan2.label-dropout=0.0")
    whole, alone = in_fp64(*recipe), in_fp64(*recipe)
    given = in_double(batch())
    whole.train_step(given, torch_stream(0, "test"))
    alone.train_generator(given.labels, 4, alone.discriminator, torch_stream(0, "test"))
    exact = gradients_of(whole.generator)
    for name, gradient in gradients_of(alone.generator).items():
        assert torch.allclose(gradient, exact[name], rtol=1e-8, atol=1e-12), name
    for name, value in alone.generator_ema.state_dict().items():
        assert torch.allclose(value, whole.generator_ema.state_dict()[name], rtol=1e-6, atol=1e-9), name


def test_a_generator_learns_to_please_its_judge() -> None:
    model = build_model(small("training.ema-ramp=0.0", "training.ema-half-life-images=0.0"))
    assert isinstance(model, StyleGAN2)

    def brightness(images: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        return images.mean(dim=(1, 2, 3))

    labels = batch().labels
    before = drawer_of(model).generate(labels, 4, torch_stream(9, "test")).float().mean().item()
    lost = [model.train_generator(labels, 4, brightness, torch_stream(step, "test")).item() for step in range(40)]
    after = drawer_of(model).generate(labels, 4, torch_stream(9, "test")).float().mean().item()
    assert sum(lost[-5:]) < sum(lost[:5])
    assert after > before + 20


@pytest.mark.parametrize("recipe", [(), EVERYTHING], ids=["default", "everything"])
def test_a_strategy_corrects_each_networks_gradients_once_in_a_step_before_they_move_it(
    recipe: tuple[str, ...],
) -> None:
    model = build_model(small(*recipe))
    assert isinstance(model, StyleGAN2)
    given = batch()
    seen: list[str] = []
    weights = {name: bits(network) for name, network in model.networks.items()}

    def check(name: str, network: torch.nn.Module) -> None:
        seen.append(name)
        assert network is model.networks[name]
        parameters = dict(network.named_parameters())
        assert bits(network).keys() >= parameters.keys()
        for key, parameter in parameters.items():
            assert parameter.grad is not None, key
            assert bool(torch.isfinite(parameter.grad).all()), key
            assert parameter.detach().numpy().tobytes() == weights[name][key], key  # has not moved yet
        assert any(bool(parameter.grad.any()) for parameter in parameters.values() if parameter.grad is not None)

    model.correct_gradients = check
    for step in (
        lambda: model.train_step(given, torch_stream(0, "test")),
        lambda: model.train_critic(given, torch_stream(1, "test")),
        lambda: model.train_generator(given.labels, 4, model.discriminator, torch_stream(2, "test")),
    ):
        step()
        seen.append("end")
        weights = {name: bits(network) for name, network in model.networks.items()}
    assert seen == ["generator", "discriminator", "end", "discriminator", "end", "generator", "end"]


def test_what_a_strategy_makes_of_the_gradients_is_what_moves_the_networks() -> None:
    model = build_model(small())
    assert isinstance(model, StyleGAN2)
    before = bits(model.discriminator)
    old = model.generator.constant.detach().clone()

    def correct(name: str, network: torch.nn.Module) -> None:
        for parameter in network.parameters():
            assert parameter.grad is not None
            parameter.grad.fill_(1.0 if name == "generator" else 0.0)

    model.correct_gradients = correct
    model.train_step(batch(), torch_stream(0, "test"))
    assert bits(model.discriminator) == before
    assert torch.allclose(model.generator.constant, old - 0.002, atol=1e-7)
    model.correct_gradients = None
    model.train_step(batch(), torch_stream(1, "test"))
    assert bits(model.discriminator) != before
