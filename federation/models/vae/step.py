"""The Gaussian VAE as one thing that trains: networks, optimisers, running averages, one step on a batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from federation.batch import Batch
from federation.models import training as shared
from federation.models.anatomy import Anatomy
from federation.models.vae import losses
from federation.models.vae.networks import Decoder, build_decoder, build_encoder
from federation.models.vae.settings import VAESettings
from federation.settings.training import ModelSettings, TrainingSettings


class GaussianVAE:
    """Encoder and decoder, the running average of each, and their optimisers.

    A :class:`federation.models.protocol.GenerativeModel` and a :class:`federation.models.protocol.LatentSpace`.

    Parameters
    ----------
    anatomy
        Names of the parts.
    model
        Resolution.
    training
        Optimiser, precision.
    settings
        Architecture, weight of the divergence, variance of pixels.
    num_classes
        Classes the networks are told; 0: unconditional.
    seed
        Of the initial weights; use ``derive_seed(seed, "initial weights")``.
    device
        Where the networks live.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        model: ModelSettings,
        training: TrainingSettings,
        settings: VAESettings,
        *,
        num_classes: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self.anatomy = anatomy
        self.training = training
        self.settings = settings
        self.num_classes = num_classes
        self.num_sites = self.site = 0
        self.site_rows: tuple[str, ...] = ()
        self.device = device
        # The layers draw their weights as they are built; the fork leaves the process's own stream alone.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = build_encoder(model, settings, num_classes=num_classes).to(device)
            self.decoder = build_decoder(model, settings, num_classes=num_classes).to(device)
        dtype = shared.compute_dtype(training.precision, device)
        self.encoder.compute_dtype = dtype
        self.decoder.compute_dtype = dtype
        self.encoder_ema = copy.deepcopy(self.encoder).requires_grad_(False).eval()
        self.decoder_ema = copy.deepcopy(self.decoder).requires_grad_(False).eval()
        self.networks: dict[str, nn.Module] = {
            "encoder": self.encoder,
            "decoder": self.decoder,
            "encoder_ema": self.encoder_ema,
            "decoder_ema": self.decoder_ema,
        }
        self.optimizers = {name: shared.build_adam(self.networks[name], training) for name in ("encoder", "decoder")}
        self.num_steps = 0
        self.clock = shared.Clock()
        self.learning_rate_factor = 1.0
        self.correct_gradients: Callable[[str, nn.Module], None] | None = None
        self.class_rows = tuple(name for name in ("encoder.class_embedding", "decoder.class_embedding") if num_classes)

    @property
    def drawing(self) -> Decoder:
        """The running average of the decoder."""
        return self.decoder_ema

    def train_step(self, batch: Batch, stream: torch.Generator) -> dict[str, Tensor]:
        """Update encoder, decoder and running averages once, by the negative evidence lower bound.

        See :class:`federation.models.protocol.GenerativeModel` for the parameters. The terms are in nats per pixel
        value (:mod:`federation.models.vae.losses`), means over the batch. ``loss-negative-elbo`` is what is minimised,
        with the divergence weighted by ``vae.beta``; ``loss-divergence`` is without that weight.
        """
        images, labels = batch.images, self._told(batch.labels)
        mean, log_variance = self.encoder(images, labels)
        noise = torch.randn(mean.shape, generator=stream, device=stream.device, dtype=torch.float32).to(mean)
        # One sample of z for each image, written so that gradients pass it (Kingma & Welling 2014, Section 2.4).
        reconstructions = self.decoder.mean_images(mean + torch.exp(log_variance / 2) * noise, labels)
        errors = losses.squared_error(images, reconstructions)
        if self.settings.variance == "optimal":
            deviation: float | Tensor = losses.optimal_deviation(errors.mean())
        else:
            deviation = self.settings.pixel_deviation
        reconstruction = losses.gaussian_negative_log_likelihood(errors, deviation).mean()
        divergence = losses.divergence_from_prior(mean, log_variance, images[0].numel()).mean()
        loss = reconstruction + self.settings.beta * divergence

        # Gradients of both networks, before either changes.
        parts = [self.encoder, self.decoder]
        gradients = torch.autograd.grad(loss, [parameter for part in parts for parameter in part.parameters()])
        boundary = sum(1 for _ in self.encoder.parameters())
        shared.set_gradients(self.encoder, gradients[:boundary])
        shared.set_gradients(self.decoder, gradients[boundary:])
        self._step("encoder")
        self._step("decoder")

        self.num_steps += 1
        shared.move_averages(
            self.networks,
            self.anatomy.averages,
            self.training,
            images_in_step=len(batch),
            images_shown=self.num_steps * len(batch),
            clock=self.clock,
        )
        return {
            "loss-negative-elbo": loss.detach(),
            "loss-reconstruction": reconstruction.detach(),
            "loss-divergence": divergence.detach(),
        }

    def _step(self, name: str) -> None:
        """Let Adam take a step with the gradients of one network, once a strategy has corrected them."""
        if self.correct_gradients is not None:
            self.correct_gradients(name, self.networks[name])
        shared.step_optimizer(self.optimizers[name], self.learning_rate_factor)

    def _told(self, labels: Tensor | None) -> Tensor | None:
        """Return the classes that the networks are told."""
        return labels if self.num_classes else None

    @torch.no_grad()
    def membership_scores(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Return the evidence lower bound of each image, under encoder and decoder as they were trained.

        See :class:`federation.models.protocol.GenerativeModel` for the parameters.

        Returns
        -------
        (n,) in nats per pixel value, the reconstruction taken at the mean of q(z | x), without chance. No image
        changes the score of another: ``vae.variance = optimal`` is here the variance that fits the one image best.
        """
        labels = self._told(labels)
        mean, log_variance = self.encoder(images, labels)
        errors = losses.squared_error(images, self.decoder.mean_images(mean, labels))
        if self.settings.variance == "optimal":
            deviation: float | Tensor = losses.optimal_deviation(errors)
        else:
            deviation = self.settings.pixel_deviation
        likelihood = -losses.gaussian_negative_log_likelihood(errors, deviation)
        return likelihood - losses.divergence_from_prior(mean, log_variance, images[0].numel())

    @torch.no_grad()
    def encode(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Return the mean of q(z | x), by the running average of the encoder.

        See :class:`federation.models.protocol.LatentSpace` for the parameters.
        """
        mean: Tensor
        mean, _ = self.encoder_ema(images, self._told(labels))
        return mean

    @torch.no_grad()
    def decode(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Return the mean of p(x | z), by the running average of the decoder.

        See :class:`federation.models.protocol.LatentSpace` for the parameters.
        """
        return self.decoder_ema.mean_images(latents, self._told(labels))

    def private_state(self) -> dict[str, Tensor]:
        """Return Adam's moments by parameter name and the number of steps taken."""
        return shared.private_state(self.optimizers, self.networks, self.num_steps)

    def load_private_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back :meth:`private_state`; an empty mapping means that training starts anew.

        Raises
        ------
        WireError
            If the state belongs to other networks.
        """
        self.num_steps = shared.load_private_state(state, self.optimizers, self.networks)
