"""The Gaussian VAE: losses against closed forms, the training step against its definition, what chance decides."""

from __future__ import annotations

import math
from fnmatch import fnmatch

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from federation.batch import Batch
from federation.errors import WireError
from federation.models.protocol import Adversarial, LatentSpace
from federation.models.vae import losses
from federation.models.vae.networks import LOG_VARIANCE_BOUND, ActivatedNorm
from federation.models.vae.step import GaussianVAE
from federation.seeding import torch_stream

pytestmark = pytest.mark.usefixtures("one_thread")


def build(*assignments: str) -> GaussianVAE:
    """Build a small model."""
    from federation.config import parse_assignments
    from federation.models import build_model
    from strategies.configuration import resolve

    small = ["vae.channel-max=16", "vae.latent-size=8", "training.batch-size=4", "training.precision=fp32"]
    model = build_model(resolve([parse_assignments(["model.name=vae", "data.classes=a,b,c", *small, *assignments])]))
    assert isinstance(model, GaussianVAE)
    return model


def images_of_blobs(count: int = 4, resolution: int = 32) -> torch.Tensor:
    """Discs of different colour, place and size on grounds of different colour: (count, 3, r, r)."""
    stream = torch_stream(5, "test images")
    centre, radius, colours = (torch.rand(count, size, generator=stream) for size in (2, 1, 6))
    axis = (torch.arange(resolution) + 0.5) / resolution
    distance = (axis[None, :, None] - centre[:, :1, None]) ** 2 + (axis[None, None, :] - centre[:, 1:, None]) ** 2
    inside = (distance < (0.2 + 0.2 * radius[:, :, None]) ** 2)[:, None]
    return torch.where(inside, colours[:, :3, None, None], colours[:, 3:, None, None]) * 2 - 1


def batch(count: int = 4, resolution: int = 32) -> Batch:
    return Batch(images_of_blobs(count, resolution), torch.arange(count) % 3)


def weights(model: GaussianVAE) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{name}": value.clone()
        for part, network in model.networks.items()
        for name, value in network.state_dict().items()
    }


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(value, right[name]) for name, value in left.items())


def stir(network: torch.nn.Module) -> None:
    """Change every weight of a network."""
    stream = torch_stream(6, "test stir")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=stream)


# ---------------------------------------------------------------- losses


def test_divergence_of_known_posteriors() -> None:
    mean = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    log_variance = torch.tensor([[0.0, math.log(4.0)], [0.0, 0.0]])
    # 1 / 2 of the mean; (4 - 1 - log 4) / 2 of the variance; over 10 pixel values.
    assert losses.divergence_from_prior(mean, log_variance, 10).tolist() == pytest.approx([0.130685282, 0.0])


def test_divergence_is_that_of_the_distributions() -> None:
    stream = torch_stream(0, "test")
    mean, log_variance = torch.randn(2, 5, 7, generator=stream, dtype=torch.float64)
    expected = kl_divergence(Normal(mean, torch.exp(log_variance / 2)), Normal(0.0, 1.0)).sum(dim=1) / 48
    assert torch.allclose(losses.divergence_from_prior(mean, log_variance, 48), expected)


def test_divergence_keeps_its_digits_beside_the_prior() -> None:
    # x² / 4 to first order; exp(x) - 1 in fp32 would be off by a thousand times as much.
    divergence = losses.divergence_from_prior(torch.zeros(1, 1), torch.full((1, 1), 1e-4), 1)
    assert divergence.item() == pytest.approx(2.5e-9, rel=0.01)


def test_likelihood_of_known_errors() -> None:
    # log(2 pi) / 2 + log(1 / 2) + (1 / 4) / (2 / 4)
    assert losses.gaussian_negative_log_likelihood(torch.tensor([0.25]), 0.5).item() == pytest.approx(0.725791353)
    # The density is 1 at most: what the anatomy calls the least value of the loss.
    peak = losses.gaussian_negative_log_likelihood(torch.zeros(1), 1 / math.sqrt(2 * math.pi))
    assert peak.item() == pytest.approx(0.0, abs=1e-6)


def test_likelihood_is_that_of_the_distribution() -> None:
    images, reconstructions = torch.randn(2, 3, 3, 4, 4, generator=torch_stream(0, "test"), dtype=torch.float64)
    errors = losses.squared_error(images, reconstructions)
    expected = -Normal(reconstructions, 0.3).log_prob(images).mean(dim=(1, 2, 3))
    assert torch.allclose(losses.gaussian_negative_log_likelihood(errors, 0.3), expected)


def test_no_deviation_is_likelier_than_the_optimal_one() -> None:
    errors = torch.tensor([0.01, 0.03, 0.08], dtype=torch.float64)
    deviation = losses.optimal_deviation(errors.mean())
    assert deviation.item() == pytest.approx(0.2)
    optimal = losses.gaussian_negative_log_likelihood(errors, deviation).mean()
    assert optimal.item() == pytest.approx(0.5 * math.log(2 * math.pi * 0.04) + 0.5)
    for other in (0.19, 0.21):
        assert losses.gaussian_negative_log_likelihood(errors, other).mean() > optimal


def test_gradient_with_the_optimal_deviation_is_that_of_the_definition() -> None:
    images, reconstructions = torch.rand(2, 3, 3, 4, 4, generator=torch_stream(0, "test"), dtype=torch.float64)
    reconstructions.requires_grad_()
    errors = losses.squared_error(images, reconstructions)
    loss = losses.gaussian_negative_log_likelihood(errors, losses.optimal_deviation(errors.mean())).mean()
    # Rybkin et al. 2021: with the optimum put in, the likelihood is the logarithm of the mean squared error.
    definition = 0.5 * ((images - reconstructions).square().mean() * 2 * math.pi).log() + 0.5
    assert loss.item() == pytest.approx(definition.item())
    (found,), (expected,) = (torch.autograd.grad(value, reconstructions) for value in (loss, definition))
    assert expected.abs().max() > 0
    assert torch.allclose(found, expected)


def test_perfect_reconstruction_stays_finite() -> None:
    images = images_of_blobs()
    reconstructions = images.clone().requires_grad_()
    errors = losses.squared_error(images, reconstructions)
    loss = losses.gaussian_negative_log_likelihood(errors, losses.optimal_deviation(errors.mean())).mean()
    # The deviation of rounding to 256 levels from -1 to 1: 2 / 255 / sqrt(12).
    assert loss.item() == pytest.approx(0.5 * math.log(2 * math.pi) + math.log(0.00226415), abs=1e-4)
    (gradient,) = torch.autograd.grad(loss, reconstructions)
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize(
    ("assignments", "least"),
    [
        (["vae.variance=fixed", "vae.pixel-deviation=0.399"], 0.0),
        (["vae.variance=fixed", "vae.pixel-deviation=0.398"], -math.inf),
        ([], -math.inf),
    ],
)
def test_anatomy_knows_whether_the_loss_can_be_negative(assignments: list[str], least: float) -> None:
    said = build(*assignments).anatomy.losses
    assert said["loss-negative-elbo"].least == said["loss-reconstruction"].least == least
    assert said["loss-divergence"].least == 0.0


# ---------------------------------------------------------------- networks


def test_parts_are_those_of_the_anatomy() -> None:
    model = build()
    assert tuple(model.networks) == tuple(model.anatomy.parts)
    assert tuple(model.optimizers) == model.anatomy.trained
    assert model.drawing is model.networks[model.anatomy.drawing[0]]
    assert isinstance(model, LatentSpace)
    assert not isinstance(model, Adversarial)
    parts = weights(model)
    for average, leader in model.anatomy.averages.items():
        for name in model.networks[leader].state_dict():
            assert torch.equal(parts[f"{average}.{name}"], parts[f"{leader}.{name}"])
        assert not any(parameter.requires_grad for parameter in model.networks[average].parameters())


def test_groups_of_the_anatomy_name_the_layers_that_are_meant() -> None:
    model = build()
    modules = {
        f"{part}.{name}": module
        for part in model.anatomy.trained
        for name, module in model.networks[part].named_modules()
    }
    for name, module in modules.items():
        named = any(fnmatch(name, pattern) for pattern in model.anatomy.groups["normalisation"])
        assert named == isinstance(module, ActivatedNorm), name
    assert modules["decoder.mapping"] is model.decoder.mapping
    # 8 of z and 8 of the class, to 16 channels of 4 x 4.
    assert model.decoder.mapping.weight.shape == (256, 16)


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("resolution", [32, 64, 128])
def test_shapes(resolution: int, conditional: bool) -> None:
    model = build(f"model.resolution={resolution}", f"model.conditional={str(conditional).lower()}")
    data = batch(2, resolution)
    labels = data.labels if conditional else None
    latents = model.encode(data.images, labels)
    assert latents.shape == (2, 8)
    assert model.decode(latents, labels).shape == (2, 3, resolution, resolution)
    drawn = model.drawing(model.drawing.latents(5, torch_stream(0, "z")), torch.arange(5) % 3 if conditional else None)
    assert drawn.shape == (5, 3, resolution, resolution)
    assert model.drawing.resolution == resolution
    assert model.membership_scores(data.images, labels).shape == (2,)
    terms = model.train_step(data, torch_stream(0, "step"))
    assert all(term.shape == () and term.isfinite() for term in terms.values())


def test_no_image_of_a_batch_depends_on_another() -> None:
    model, data = build(), batch()
    together = model.encode(data.images, data.labels)
    alone = torch.cat([model.encode(data.images[[i]], data.labels[[i]]) for i in range(4)])
    assert together.std() > 1e-3
    assert torch.allclose(together, alone, atol=1e-6)
    decoded = torch.cat([model.decode(together[[i]], data.labels[[i]]) for i in range(4)])
    assert torch.allclose(model.decode(together, data.labels), decoded, atol=1e-6)


def test_posterior_stays_within_its_bounds() -> None:
    model, data = build(), batch()
    with torch.no_grad():
        model.encoder.posterior.weight.mul_(1e4)
    _, log_variance = model.encoder(data.images, data.labels)
    assert log_variance.abs().max() > 0.9 * LOG_VARIANCE_BOUND
    assert log_variance.abs().max() <= LOG_VARIANCE_BOUND


def test_bf16_is_for_convolutions_alone() -> None:
    data, exact, rough = batch(), build(), build("training.precision=bf16")
    latents = exact.encode(data.images, data.labels)
    assert all(value.dtype == torch.float32 for value in weights(rough).values())
    encoded, drawn = rough.encode(data.images, data.labels), rough.decode(latents, data.labels)
    assert encoded.dtype == drawn.dtype == torch.float32
    for found, expected in ((encoded, latents), (drawn, exact.decode(latents, data.labels))):
        error = (found - expected).square().mean().sqrt() / expected.std()
        assert 0 < error < 0.03
    # Finer than bf16: its rounding would leave every value as it is.
    assert not torch.equal(drawn, drawn.bfloat16().float())
    before = weights(rough)
    assert all(term.isfinite() for term in rough.train_step(data, torch_stream(0, "step")).values())
    assert not same(before, weights(rough))


# ---------------------------------------------------------------- classes


def test_conditional_model_hears_the_class() -> None:
    model, data = build(), batch()
    assert model.num_classes == 3
    for name in model.class_rows:
        part, _, entry = name.partition(".")
        assert dict(model.networks[part].named_parameters())[entry].shape[0] == 3
        assert entry in dict(model.networks[f"{part}_ema"].named_parameters())
    other = (data.labels + 1) % 3
    latents = model.encode(data.images, data.labels)
    assert not torch.allclose(latents, model.encode(data.images, other), atol=1e-3)
    assert not torch.allclose(model.decode(latents, data.labels), model.decode(latents, other), atol=1e-3)


def test_only_the_rows_of_classes_seen_are_learned() -> None:
    model = build()
    before = weights(model)
    model.train_step(Batch(images_of_blobs(4), torch.tensor([0, 2, 0, 2])), torch_stream(0, "step"))
    after = weights(model)
    assert model.class_rows == ("encoder.class_embedding", "decoder.class_embedding")
    for name in model.class_rows:
        moved = (after[name] != before[name]).any(dim=1)
        assert moved.tolist() == [True, False, True], name


def test_unconditional_model_ignores_labels() -> None:
    left, right = build("model.conditional=false"), build("model.conditional=false")
    assert left.num_classes == 0
    assert left.class_rows == ()
    assert not any("class" in name for name in weights(left))
    images = images_of_blobs()
    assert torch.equal(left.encode(images, None), left.encode(images, torch.arange(4) % 3))
    left.train_step(Batch(images, torch.zeros(4, dtype=torch.int64)), torch_stream(0, "step"))
    right.train_step(Batch(images, torch.arange(4) % 3), torch_stream(0, "step"))
    assert same(weights(left), weights(right))


def test_truncation_scales_the_latents() -> None:
    drawing, stream = build().drawing, torch_stream(0, "test")
    labels = torch.tensor([0, 0, 1, 1])
    z = drawing.latents(4, stream)
    with torch.no_grad():
        typical = drawing(z, labels, stream, 0.0)
        varied = drawing(z, labels, stream, 1.0)
        assert torch.allclose(drawing(z, labels, stream, 0.5), drawing(z / 2, labels, stream, 1.0))
    assert torch.allclose(typical[[0, 2]], typical[[1, 3]], atol=1e-6)
    assert (typical[0] - typical[2]).abs().max() > 1e-3
    assert (varied[0] - varied[1]).abs().max() > 1e-3


# ---------------------------------------------------------------- training


@pytest.mark.parametrize(
    "assignments", [["vae.beta=2.5"], ["vae.variance=fixed", "vae.pixel-deviation=0.7"]], ids=["optimal", "fixed"]
)
def test_step_minimises_the_negative_evidence_lower_bound(assignments: list[str]) -> None:
    model, data = build(*assignments), batch()
    mean, log_variance = model.encoder(data.images, data.labels)
    noise = torch.randn(4, 8, generator=torch_stream(3, "step"))
    drawn = model.decoder(mean + noise * (0.5 * log_variance).exp(), data.labels)
    deviation = 0.7 if "vae.variance=fixed" in assignments else (drawn - data.images).square().mean().sqrt()
    reconstruction = -Normal(drawn, deviation).log_prob(data.images).mean()
    divergence = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum(dim=1).mean() / 3072
    loss = reconstruction + (2.5 if "vae.beta=2.5" in assignments else 1.0) * divergence
    names = [f"{part}.{name}" for part in ("encoder", "decoder") for name, _ in model.networks[part].named_parameters()]
    parameters = [*model.encoder.parameters(), *model.decoder.parameters()]
    expected = dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))

    found: dict[str, torch.Tensor] = {}

    def keep(part: str, network: torch.nn.Module) -> None:
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None
            found[f"{part}.{name}"] = parameter.grad.clone()

    model.correct_gradients = keep
    terms = model.train_step(data, torch_stream(3, "step"))
    assert list(terms) == list(model.anatomy.losses)
    assert terms["loss-negative-elbo"].item() == pytest.approx(loss.item(), rel=1e-5)
    assert terms["loss-reconstruction"].item() == pytest.approx(reconstruction.item(), rel=1e-5)
    assert terms["loss-divergence"].item() == pytest.approx(divergence.item(), rel=1e-4)
    assert list(found) == names
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-3, atol=1e-4 * gradient.abs().max().item()), name


def test_running_averages_by_hand() -> None:
    for ramp, decay in ((0.1, 0.5**10), (0.0, 0.5 ** (4 / 5000))):
        # Half-life of a tenth of the 4 images shown, of which 4 are in the step; or of 5000 images.
        model = build(f"training.ema-ramp={ramp}")
        before = weights(model)
        model.train_step(batch(), torch_stream(0, "step"))
        after = weights(model)
        for average, leader in model.anatomy.averages.items():
            for name, _ in model.networks[leader].named_parameters():
                assert not torch.equal(after[f"{leader}.{name}"], before[f"{leader}.{name}"]), name
                expected = decay * before[f"{leader}.{name}"] + (1 - decay) * after[f"{leader}.{name}"]
                assert torch.allclose(after[f"{average}.{name}"], expected, rtol=0, atol=1e-6), name


def test_a_correction_of_gradients_is_heard() -> None:
    model = build()
    called = []

    def silence_the_encoder(part: str, network: torch.nn.Module) -> None:
        called.append((part, network is model.networks[part]))
        if part == "encoder":
            for parameter in network.parameters():
                assert parameter.grad is not None
                parameter.grad.zero_()

    model.correct_gradients = silence_the_encoder
    before = weights(model)
    model.train_step(batch(), torch_stream(0, "step"))
    assert called == [("encoder", True), ("decoder", True)]
    for name, value in weights(model).items():
        if name.startswith("encoder."):
            assert torch.equal(value, before[name])
        if name.startswith("decoder.") and name != "decoder.class_embedding":
            assert not torch.equal(value, before[name])


def test_private_state_continues_bit_by_bit() -> None:
    first, stream = build("training.beta1=0.5"), torch_stream(0, "step")
    for _ in range(2):
        first.train_step(batch(), stream)
    state = {name: value.clone() for name, value in first.private_state().items()}
    resumed, forgetful = build("training.beta1=0.5"), build("training.beta1=0.5")
    for model in (resumed, forgetful):
        for name, network in model.networks.items():
            network.load_state_dict(first.networks[name].state_dict())
    resumed.load_private_state(state)
    for model in (first, resumed, forgetful):
        model.train_step(batch(), torch_stream(1, "step"))
        model.train_step(batch(), torch_stream(2, "step"))
    assert same(weights(first), weights(resumed))
    assert same(first.private_state(), resumed.private_state())
    assert int(resumed.private_state()["num_steps"]) == 4
    assert not same(weights(first), weights(forgetful))


def test_private_state_of_other_networks_is_refused() -> None:
    model = build()
    model.train_step(batch(), torch_stream(0, "step"))
    with pytest.raises(WireError, match=r"encoder\.posterior\.weight\.exp_avg: found shape"):
        build("vae.latent-size=16").load_private_state(
            {name: value for name, value in model.private_state().items() if "posterior.weight" in name}
        )


def test_the_stream_decides_everything() -> None:
    results = []
    for global_seed, step_seed in ((0, 7), (1, 7), (0, 8)):
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        model = build()
        terms = model.train_step(batch(), torch_stream(step_seed, "step"))
        drawn = model.drawing(model.drawing.latents(2, torch_stream(step_seed, "z")), torch.tensor([0, 1]))
        assert torch.equal(torch.get_rng_state(), before)
        results.append(weights(model) | terms | {"drawn": drawn})
    assert same(results[0], results[1])
    assert not torch.equal(results[0]["encoder.posterior.weight"], results[2]["encoder.posterior.weight"])
    assert not torch.equal(results[0]["loss-negative-elbo"], results[2]["loss-negative-elbo"])
    assert not torch.equal(results[0]["drawn"], results[2]["drawn"])


# ---------------------------------------------------------------- what is read off images


@pytest.mark.parametrize(
    "assignments", [[], ["vae.variance=fixed", "vae.pixel-deviation=0.5"]], ids=["optimal", "fixed"]
)
def test_membership_scores_are_the_bound_of_each_image(assignments: list[str]) -> None:
    model, data = build(*assignments), batch()
    scores = model.membership_scores(data.images, data.labels)
    alone = torch.cat([model.membership_scores(data.images[[i]], data.labels[[i]]) for i in range(4)])
    assert scores.std() > 1e-3
    assert torch.allclose(scores, alone, atol=1e-5)

    mean, log_variance = model.encoder(data.images, data.labels)
    drawn = model.decoder(mean, data.labels)
    errors = (drawn - data.images).square().mean(dim=(1, 2, 3), keepdim=True)
    deviation = 0.5 if assignments else errors.sqrt()
    likelihood = Normal(drawn, deviation).log_prob(data.images).mean(dim=(1, 2, 3))
    divergence = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum(dim=1) / 3072
    assert torch.allclose(scores, likelihood - divergence, atol=1e-5)


def test_membership_is_scored_with_the_scoring_parts() -> None:
    model, data = build(), batch()
    before = model.membership_scores(data.images, data.labels)
    for part in model.anatomy.parts:
        changed = build()
        stir(changed.networks[part])
        equal = torch.equal(changed.membership_scores(data.images, data.labels), before)
        assert equal == (part not in model.anatomy.scoring), part


def test_latents_are_read_and_seen_with_the_running_averages() -> None:
    model, data = build(), batch()
    latents = model.encode(data.images, data.labels)
    images = model.decode(latents, data.labels)
    stir(model.encoder)
    stir(model.decoder)
    assert torch.equal(model.encode(data.images, data.labels), latents)
    assert torch.equal(model.decode(latents, data.labels), images)
    assert torch.equal(model.drawing(latents, data.labels), images)
    stir(model.encoder_ema)
    stir(model.decoder_ema)
    assert not torch.allclose(model.encode(data.images, data.labels), latents, atol=1e-3)
    assert not torch.allclose(model.decode(latents, data.labels), images, atol=1e-3)


def test_a_few_images_are_learned() -> None:
    model, data, stream = build(), batch(), torch_stream(0, "step")
    first = model.train_step(data, stream)
    for _ in range(100):
        last = model.train_step(data, stream)
    assert last["loss-negative-elbo"] < first["loss-negative-elbo"] - 0.5
    # Each image is told from the others by its latent, not by its class: the second and the last share theirs.
    seen = model.decode(model.encode(data.images, data.labels), data.labels)
    error = (seen - data.images).square().mean()
    error_of_mean_image = (data.images.mean(dim=0) - data.images).square().mean()
    assert error < 0.25 * error_of_mean_image
