"""StyleGAN2 as one thing that trains: networks, optimisers, running average, one step on a batch."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from federation.config import ModelSettings, TrainingSettings
from federation.errors import WireError
from federation.images import to_uint8
from federation.models.stylegan2 import losses
from federation.models.stylegan2.networks import Discriminator, Generator

# w_mean follows the mean of w over about 200 batches (Karras et al. 2019, Appendix B).
W_MEAN_DECAY = 0.995


def supports_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies bf16 faster than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        # AVX-512 alone would emulate bf16, slower than fp32.
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the type of the convolutions for ``training.precision`` on `device`."""
    if precision == "auto":
        precision = "bf16" if supports_bf16(device) else "fp32"
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def layer_channels(model: ModelSettings) -> list[int]:
    """Return the number of channels at 4, 8, …, resolution px (StyleGAN2-ADA, Appendix C)."""
    resolutions = [4]
    while resolutions[-1] < model.resolution:
        resolutions.append(2 * resolutions[-1])
    return [min(model.channel_base // resolution, model.channel_max) for resolution in resolutions]


def build_generator(model: ModelSettings, *, num_classes: int) -> Generator:
    """Build a generator with weights from the process's random numbers: fork and seed them, or load weights."""
    return Generator(
        resolution=model.resolution,
        latent_size=model.latent_size,
        channels=layer_channels(model),
        num_classes=num_classes,
        mapping_layers=model.mapping_layers,
    )


class StyleGAN2:
    """Generator, discriminator and the generator's running average, with their optimisers.

    Parameters
    ----------
    model
        Architecture.
    training
        Loss, optimiser, precision.
    num_classes
        Classes the networks are told; 0: unconditional.
    seed
        Of the initial weights; use ``derive_seed(seed, "initial weights")``.
    device
        Where the networks live.
    """

    def __init__(
        self, model: ModelSettings, training: TrainingSettings, *, num_classes: int, seed: int, device: torch.device
    ) -> None:
        self.settings = training
        self.num_classes = num_classes
        self.device = device
        # The layers draw their weights as they are built; the fork leaves the process's own stream alone.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.generator = build_generator(model, num_classes=num_classes).to(device)
            self.discriminator = Discriminator(
                resolution=model.resolution, channels=layer_channels(model), num_classes=num_classes
            ).to(device)
        self.generator_ema = copy.deepcopy(self.generator).requires_grad_(False).eval()
        self.networks: dict[str, nn.Module] = {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "generator_ema": self.generator_ema,
        }
        dtype = compute_dtype(training.precision, device)
        self.generator.compute_dtype = dtype
        self.discriminator.compute_dtype = dtype
        self.generator_ema.compute_dtype = dtype
        self.optimizers = {
            "generator": self._adam(self.generator),
            "discriminator": self._adam(self.discriminator),
        }
        self.num_steps = 0

    def _adam(self, network: nn.Module) -> torch.optim.Adam:
        settings = self.settings
        return torch.optim.Adam(
            network.parameters(), lr=settings.learning_rate, betas=(settings.beta1, settings.beta2), fused=True
        )

    def train_step(self, images: Tensor, labels: Tensor, stream: torch.Generator) -> dict[str, Tensor]:
        """Update generator, discriminator and running average once.

        The generator moves first; the discriminator then learns from the very fakes, and the very
        activations, that moved the generator. As its weights did not change in between, this is the
        usual alternation with one generator pass and one discriminator pass fewer.

        See :class:`federation.models.protocol.GenerativeModel` for the parameters.
        """
        settings = self.settings
        batch = images.shape[0]
        # Adam's gradients come every step, the penalty's every so many: scale it up (StyleGAN2, Appendix B).
        with_penalty = self.num_steps % settings.penalty_every == 0 and settings.gamma > 0

        # Draw fakes.
        z = self._latents(self.generator, batch, stream)
        real_labels, fake_labels = self._labels(labels, stream)
        w = self.generator.mapping(z, fake_labels)
        fakes = self.generator.synthesize(w, stream)

        # Judge reals and fakes.
        fake_images = fakes.detach().requires_grad_()
        real_images = images.detach().requires_grad_(with_penalty)
        fake_logits = self.discriminator(fake_images, fake_labels)
        real_logits = self.discriminator(real_images, real_labels)
        penalties: list[Tensor] = []
        if settings.loss == "relativistic":
            generator_loss = losses.relativistic_generator_loss(real_logits.detach(), fake_logits)
            discriminator_loss = losses.relativistic_discriminator_loss(real_logits, fake_logits)
            if with_penalty:
                penalties = losses.gradient_penalties(torch.cat([real_logits, fake_logits]), [real_images, fake_images])
        else:
            generator_loss = losses.logistic_generator_loss(fake_logits)
            discriminator_loss = losses.logistic_discriminator_loss(real_logits, fake_logits)
            if with_penalty:
                penalties = losses.gradient_penalties(real_logits, [real_images])

        # Gradients of both networks, before either changes.
        (fake_gradient,) = torch.autograd.grad(generator_loss, fake_images, retain_graph=True)
        _set_gradients(self.generator, torch.autograd.grad(fakes, list(self.generator.parameters()), fake_gradient))
        objective = discriminator_loss
        if penalties:
            objective = objective + (settings.gamma / 2) * settings.penalty_every * torch.stack(penalties).sum()
        _set_gradients(self.discriminator, torch.autograd.grad(objective, list(self.discriminator.parameters())))

        # Update the generator, then the discriminator.
        self.optimizers["generator"].step()
        self.optimizers["discriminator"].step()

        # Update the running averages.
        with torch.no_grad():
            self.generator.mapping.w_mean.lerp_(w.detach().mean(dim=0), 1 - W_MEAN_DECAY)
        self.num_steps += 1
        self._update_ema(batch)

        terms = {
            "loss-generator": generator_loss.detach(),
            "loss-discriminator": discriminator_loss.detach(),
            "logit-real": real_logits.detach().mean(),
            "logit-fake": fake_logits.detach().mean(),
        }
        for name, penalty in zip(("penalty-real", "penalty-fake"), penalties, strict=False):
            terms[name] = penalty.detach()
        return terms

    @staticmethod
    def _latents(generator: Generator, count: int, stream: torch.Generator) -> Tensor:
        """Draw z where the stream lives, in fp32, and give it the generator's device and type."""
        z = torch.randn(count, generator.latent_size, generator=stream, device=stream.device, dtype=torch.float32)
        return z.to(generator.constant)

    def _labels(self, labels: Tensor, stream: torch.Generator) -> tuple[Tensor | None, Tensor | None]:
        """Return the classes of the real images and the classes to ask of the generator."""
        if self.num_classes == 0:
            return None, None
        if self.settings.fake_labels == "data":
            # The batch's own: the data's distribution, and pairs of one class for the relativistic loss.
            return labels, labels
        asked = torch.randint(self.num_classes, labels.shape, generator=stream, device=stream.device)
        return labels, asked.to(self.device)

    @torch.no_grad()
    def _update_ema(self, batch: int) -> None:
        images_shown = self.num_steps * batch
        half_life = min(self.settings.ema_half_life_images, self.settings.ema_ramp * images_shown)
        decay = 0.5 ** (batch / half_life) if half_life > 0 else 0.0
        torch._foreach_lerp_(
            list(self.generator_ema.parameters()), [p.detach() for p in self.generator.parameters()], 1 - decay
        )
        for average, buffer in zip(self.generator_ema.buffers(), self.generator.buffers(), strict=True):
            average.copy_(buffer)

    @torch.no_grad()
    def generate(self, labels: Tensor | None, count: int, stream: torch.Generator, truncation: float = 1.0) -> Tensor:
        """Draw images with the running average of the generator.

        Parameters
        ----------
        labels
            (count,) int64, or None for an unconditional model.
        count
            Number of images; drawn as one batch, so the caller chooses what memory allows.
        stream
            Of latents and noise.
        truncation
            In [0, 1]; 1 draws from the learned distribution.

        Returns
        -------
        uint8 (count, resolution, resolution, 3), on the model's device.
        """
        z = self._latents(self.generator_ema, count, stream)
        images = self.generator_ema(z, None if labels is None else labels.to(self.device), stream, truncation)
        return to_uint8(images)

    def private_state(self) -> dict[str, Tensor]:
        """Return Adam's moments by parameter name and the number of steps taken."""
        state = {"num_steps": torch.tensor(self.num_steps)}
        for name, optimizer in self.optimizers.items():
            for key, parameter in self.networks[name].named_parameters():
                for entry, value in optimizer.state.get(parameter, {}).items():
                    state[f"{name}.{key}.{entry}"] = value
        return state

    def load_private_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back :meth:`private_state`; an empty mapping means that training starts anew.

        Raises
        ------
        WireError
            If the state belongs to other networks.
        """
        self.num_steps = int(state["num_steps"]) if state else 0
        for name, optimizer in self.optimizers.items():
            optimizer.state.clear()
            for key, parameter in self.networks[name].named_parameters():
                prefix = f"{name}.{key}."
                entries = {entry: state.get(prefix + entry) for entry in ("step", "exp_avg", "exp_avg_sq")}
                if all(value is None for value in entries.values()):
                    continue  # never updated: Adam starts it at its first step
                for entry, value in entries.items():
                    if value is None or (entry != "step" and value.shape != parameter.shape):
                        found = "nothing" if value is None else f"shape {tuple(value.shape)}"
                        raise WireError(
                            f"private state {prefix}{entry}: found {found}, expected shape {tuple(parameter.shape)}"
                        )
                optimizer.state[parameter] = {
                    # Adam's fused kernel wants all of them beside the parameter.
                    entry: value.to(parameter.device, copy=True)
                    for entry, value in entries.items()
                    if value is not None
                }


def _set_gradients(network: nn.Module, gradients: tuple[Tensor, ...]) -> None:
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        # Adam's fused kernel walks through memory: a gradient laid out channels-last beside a weight that
        # is not would move the wrong entries.
        parameter.grad = gradient.contiguous()
