"""StyleGAN2 as one thing that trains: networks, optimisers, running average, one step on a batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from federation.batch import Batch
from federation.models.anatomy import Anatomy
from federation.models.stylegan2 import losses
from federation.models.stylegan2.augment import adapted_probability, augment, diff_augment
from federation.models.stylegan2.networks import Discriminator, Generator
from federation.models.stylegan2.settings import LABEL_WEIGHT, StyleGAN2Settings, augmentation_transforms
from federation.models.training import (
    Clock,
    build_adam,
    compute_dtype,
    load_private_state,
    move_averages,
    private_state,
    set_gradients,
    step_optimizer,
)
from federation.settings.training import ModelSettings, TrainingSettings

# w_mean follows the mean of w over about 200 batches (Karras et al. 2019, Appendix B).
W_MEAN_DECAY = 0.995
SITE_EMBEDDING = "generator.mapping.site_embedding"
# Name of the entries beside the networks that may cross the wire.
TRAINING_STATE = "training"


def layer_channels(model: ModelSettings, settings: StyleGAN2Settings) -> list[int]:
    """Return the number of channels at 4, 8, …, resolution px (StyleGAN2-ADA, Appendix C)."""
    resolutions = [4]
    while resolutions[-1] < model.resolution:
        resolutions.append(2 * resolutions[-1])
    return [min(settings.channel_base // resolution, settings.channel_max) for resolution in resolutions]


def build_generator(
    model: ModelSettings, settings: StyleGAN2Settings, *, num_classes: int, num_sites: int = 0
) -> Generator:
    """Build a generator with weights from the process's random numbers: fork and seed them, or load weights."""
    return Generator(
        resolution=model.resolution,
        latent_size=settings.latent_size,
        channels=layer_channels(model, settings),
        num_classes=num_classes,
        num_sites=num_sites,
        mapping_layers=settings.mapping_layers,
        resampling=settings.resampling,
    )


class TrainingState(nn.Module):
    """What training carries from step to step beside weights and Adam's moments; all of it on the device.

    Its entries are named like those of a network (``training.ada_p``), so that the same policy says
    which of them a federation averages (``strategy.averaged-state``) and which stay at a hospital.
    """

    ada_p: Tensor
    ada_sign_sum: Tensor
    ada_sign_count: Tensor
    path_length_mean: Tensor

    def __init__(self, *, p: float) -> None:
        super().__init__()
        # Probability of each augmentation, and the discriminator's signs since it was last adapted.
        self.register_buffer("ada_p", torch.tensor(p))
        self.register_buffer("ada_sign_sum", torch.zeros(()))
        self.register_buffer("ada_sign_count", torch.zeros(()))
        # Running mean of path lengths (StyleGAN2, Eq. 4: a).
        self.register_buffer("path_length_mean", torch.zeros(()))


class StyleGAN2:
    """Generator, discriminator and the generator's running average, with their optimisers.

    Parameters
    ----------
    anatomy
        Of these settings.
    model, settings
        Architecture, loss, what the discriminator sees of images.
    training
        Optimiser, running average, precision.
    num_classes
        Classes the networks are told; 0: unconditional.
    num_sites
        Hospitals the generator is told; 0: none.
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
        settings: StyleGAN2Settings,
        *,
        num_classes: int,
        seed: int,
        device: torch.device,
        num_sites: int = 0,
    ) -> None:
        self.anatomy = anatomy
        self.training = training
        self.settings = settings
        self.augmentation = settings.augmentation
        self.transforms = augmentation_transforms(settings.augmentation.transforms)
        self.num_classes = num_classes
        self.num_sites = num_sites
        self.site = 0
        self.device = device
        # The layers draw their weights as they are built; the fork leaves the process's own stream alone.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.generator = build_generator(model, settings, num_classes=num_classes, num_sites=num_sites).to(device)
            self.discriminator = Discriminator(
                resolution=model.resolution,
                channels=layer_channels(model, settings),
                num_classes=num_classes,
                resampling=settings.resampling,
                minibatch_std_group=settings.minibatch_std,
            ).to(device)
        self.generator_ema = copy.deepcopy(self.generator).requires_grad_(False).eval()
        self.state = TrainingState(p=settings.augmentation.p).to(device)
        self.networks: dict[str, nn.Module] = {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "generator_ema": self.generator_ema,
            TRAINING_STATE: self.state,
        }
        dtype = compute_dtype(training.precision, device)
        self.generator.compute_dtype = dtype
        self.discriminator.compute_dtype = dtype
        self.generator_ema.compute_dtype = dtype
        self.optimizers = {
            "generator": build_adam(self.generator, training),
            "discriminator": build_adam(self.discriminator, training),
        }
        self.num_steps = 0
        self.clock = Clock()
        self.learning_rate_factor = 1.0
        self.correct_gradients: Callable[[str, nn.Module], None] | None = None
        self.site_rows: tuple[str, ...] = (SITE_EMBEDDING,) if num_sites else ()
        self.class_rows = tuple(
            name for name in ("generator.mapping.class_embedding", "discriminator.class_projection") if num_classes
        )

    @property
    def drawing(self) -> Generator:
        """The running average of the generator."""
        return self.generator_ema

    def train_step(self, batch: Batch, stream: torch.Generator) -> dict[str, Tensor]:
        """Update generator, discriminator and running average once.

        The generator moves first; the discriminator then learns from the very fakes, and the very
        activations, that moved the generator. As its weights did not change in between, this is the
        usual alternation with one generator pass and one discriminator pass fewer.

        See :class:`federation.models.protocol.GenerativeModel` for the parameters.
        """
        settings, count = self.settings, len(batch)
        # Adam's gradients come every step, a regulariser's every so many: scale it up (StyleGAN2, Appendix B).
        with_penalty = settings.gamma > 0 and self.num_steps % settings.penalty_every == 0
        with_path_length = settings.path_length_weight > 0 and self.num_steps % settings.path_length_every == 0

        # Draw fakes.
        real_labels, fake_labels = self._labels(batch.labels, stream)
        label_weights = self._label_weights(count, stream)
        z = self.generator.latents(count, stream)
        w = self._map(z, fake_labels, label_weights)
        fakes = self.generator.synthesize(self._styles(w, fake_labels, label_weights, stream), stream)

        # Judge reals and fakes, both augmented.
        fake_images = fakes.detach().requires_grad_()
        real_images = batch.images.detach().requires_grad_(with_penalty)
        # Where each logit depends on its own image alone, and no gradient is differentiated, one pass forwards and
        # one backwards serve both kinds of images and both networks.
        in_one_pass = not with_penalty and not self.discriminator.minibatch_std_group
        if in_one_pass:
            logits = self._judge([fake_images, real_images], [fake_labels, real_labels], label_weights, stream)
            fake_logits, real_logits = logits.chunk(2)
        else:
            fake_logits = self._judge([fake_images], [fake_labels], label_weights, stream)
            real_logits = self._judge([real_images], [real_labels], label_weights, stream)
        generator_loss = self._generator_loss(real_logits, fake_logits)
        penalised = [real_images, fake_images] if with_penalty else []
        discriminator_loss, penalties = self._discriminator_loss(real_logits, fake_logits, penalised)

        # Gradients of both networks, before either changes.
        if in_one_pass:
            # Both losses send the same gradient back through the discriminator, up to a factor for each fake.
            scale = losses.gradient_ratio(generator_loss, discriminator_loss, fake_logits)
            parameters = list(self.discriminator.parameters())
            *gradients, fake_gradient = torch.autograd.grad(discriminator_loss, [*parameters, fake_images])
            set_gradients(self.discriminator, gradients)
            fake_gradient = fake_gradient * scale[:, None, None, None]
        else:
            (fake_gradient,) = torch.autograd.grad(generator_loss, fake_images, retain_graph=True)
            self._set_discriminator_gradients(discriminator_loss, penalties)
        set_gradients(self.generator, torch.autograd.grad(fakes, list(self.generator.parameters()), fake_gradient))
        terms: dict[str, Tensor] = {}
        if with_path_length:
            terms["penalty-path-length"] = self._add_path_length_gradients(count, fake_labels, label_weights, stream)

        # Update the generator, then the discriminator, then what follows them.
        self._step("generator")
        self._step("discriminator")
        self._follow(w, count)
        terms |= self._adapt_augmentation(real_logits, fake_logits)
        terms["loss-generator"] = generator_loss.detach()
        return terms | _terms_of_discriminator(discriminator_loss, real_logits, fake_logits, penalties)

    def _generator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        if self.settings.loss == "relativistic":
            return losses.relativistic_generator_loss(real_logits.detach(), fake_logits)
        return losses.logistic_generator_loss(fake_logits)

    def _discriminator_loss(
        self, real_logits: Tensor, fake_logits: Tensor, penalised: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the loss, and the gradient penalties at real and fake images where they are given."""
        is_paired = self.settings.loss == "relativistic"
        loss_of = losses.relativistic_discriminator_loss if is_paired else losses.logistic_discriminator_loss
        loss = loss_of(real_logits, fake_logits)
        if not penalised:
            return loss, []
        if is_paired:
            return loss, losses.gradient_penalties(torch.cat([real_logits, fake_logits]), penalised)
        return loss, losses.gradient_penalties(real_logits, penalised[:1])

    def _set_discriminator_gradients(self, loss: Tensor, penalties: Sequence[Tensor]) -> None:
        objective = loss
        if penalties:
            weight = (self.settings.gamma / 2) * self.settings.penalty_every
            objective = objective + weight * torch.stack(list(penalties)).sum()
        set_gradients(self.discriminator, torch.autograd.grad(objective, list(self.discriminator.parameters())))

    def _step(self, name: str) -> None:
        """Let Adam take a step with the gradients of one network, once a strategy has corrected them."""
        if self.correct_gradients is not None:
            self.correct_gradients(name, self.networks[name])
        # A discriminator that hardly moves any more would let the generator drift.
        step_optimizer(self.optimizers[name], self.learning_rate_factor if name == "generator" else 1.0)

    def _follow(self, w: Tensor, images_shown: int) -> None:
        """Move what follows the generator: the mean of w, and the running average."""
        with torch.no_grad():
            self.generator.mapping.w_mean.lerp_(w.detach().mean(dim=0), 1 - W_MEAN_DECAY)
        self.num_steps += 1
        move_averages(
            self.networks,
            self.anatomy.averages,
            self.training,
            images_in_step=images_shown,
            images_shown=self.num_steps * images_shown,
            clock=self.clock,
        )

    def train_critic(self, batch: Batch, stream: torch.Generator) -> dict[str, Tensor]:
        """Update the discriminator once, against a generator that stays as it is.

        See :class:`federation.models.protocol.Adversarial` for the parameters.
        """
        settings, count = self.settings, len(batch)
        with_penalty = settings.gamma > 0 and self.num_steps % settings.penalty_every == 0
        real_labels, fake_labels = self._labels(batch.labels, stream)
        label_weights = self._label_weights(count, stream)
        with torch.no_grad():
            w = self._map(self.generator.latents(count, stream), fake_labels, label_weights)
            fakes = self.generator.synthesize(self._styles(w, fake_labels, label_weights, stream), stream)
        fake_images = fakes.detach().requires_grad_(with_penalty)
        real_images = batch.images.detach().requires_grad_(with_penalty)
        fake_logits = self._judge([fake_images], [fake_labels], label_weights, stream)
        real_logits = self._judge([real_images], [real_labels], label_weights, stream)
        loss, penalties = self._discriminator_loss(
            real_logits, fake_logits, [real_images, fake_images] if with_penalty else []
        )
        self._set_discriminator_gradients(loss, penalties)
        self._step("discriminator")
        self.num_steps += 1
        self._adapt_augmentation(real_logits, fake_logits)
        return _terms_of_discriminator(loss, real_logits, fake_logits, penalties)

    def train_generator(
        self,
        labels: Tensor | None,
        batch: int,
        judge: Callable[[Tensor, Tensor | None], Tensor],
        stream: torch.Generator,
        images_shown: int | None = None,
    ) -> Tensor:
        """Update generator and running average once, without real images.

        See :class:`federation.models.protocol.Adversarial` for the parameters.
        """
        label_weights = self._label_weights(batch, stream)
        w = self._map(self.generator.latents(batch, stream), labels, label_weights)
        fakes = self.generator.synthesize(self._styles(w, labels, label_weights, stream), stream)
        loss = losses.logistic_generator_loss(judge(self._augment(fakes, stream), labels))
        set_gradients(self.generator, torch.autograd.grad(loss, list(self.generator.parameters())))
        self._step("generator")
        self._follow(w, batch if images_shown is None else images_shown)
        return loss.detach()

    def _labels(self, labels: Tensor, stream: torch.Generator) -> tuple[Tensor | None, Tensor | None]:
        """Return the classes of the real images and the classes to ask of the generator."""
        if self.num_classes == 0:
            return None, None
        if self.settings.fake_labels == "data":
            # The batch's own: the data's distribution, and pairs of one class for the relativistic loss.
            return labels, labels
        asked = torch.randint(self.num_classes, labels.shape, generator=stream, device=stream.device)
        return labels, asked.to(self.device)

    def _label_weights(self, batch: int, stream: torch.Generator) -> Tensor | None:
        """Return how much of each label both networks hear, (batch,); None where it is all of all.

        Transitional conditioning (Shahbazi et al. 2022, arXiv 2201.06578) learns without classes first and
        blends them in. The paper adds a conditional to an unconditional loss; here the class enters
        the same two networks with a weight from 0 to 1.
        """
        settings = self.settings
        start, length = settings.transition_start_images, settings.transition_images
        if self.num_classes == 0 or (start == 0 and length == 0 and settings.label_dropout == 0):
            return None
        # One weight in both networks: that of the entry which hears the class where images are drawn.
        past_start = self.clock.shown(LABEL_WEIGHT, self.num_steps * batch) - start
        heard = min(max(past_start / length, 0.0), 1.0) if length > 0 else float(past_start >= 0)
        # What is judged, and what is exported, hears labels as they are heard in training.
        self.generator.mapping.label_weight.fill_(heard)
        kept = torch.rand(batch, generator=stream, device=stream.device) >= settings.label_dropout
        return kept.to(self.generator.constant) * heard

    def _map(self, z: Tensor, labels: Tensor | None, label_weights: Tensor | None) -> Tensor:
        """Return w of latents, with the look of the hospital that is trained at."""
        sites = torch.full((len(z),), self.site, device=z.device) if self.num_sites else None
        w: Tensor = self.generator.mapping(z, labels, label_weights, sites)
        return w

    def _styles(
        self, w: Tensor, labels: Tensor | None, label_weights: Tensor | None, stream: torch.Generator
    ) -> Tensor:
        """Return w for each layer; a share of images takes another w from a random layer on (StyleGAN, Section 3.1)."""
        generator = self.generator
        styles = generator.repeat(w)
        if self.settings.style_mixing == 0:
            return styles
        batch = len(w)
        z = generator.latents(batch, stream)
        mixed, crossover = torch.rand(2, batch, generator=stream, device=stream.device).to(w.device)
        # From layer 1 at the earliest: an image that is all the other's would not be mixed.
        first = 1 + (crossover * (generator.num_styles - 1)).long()
        is_other = torch.arange(generator.num_styles, device=w.device) >= first[:, None]
        is_other = is_other & (mixed < self.settings.style_mixing)[:, None]
        return torch.where(is_other[:, :, None], self._map(z, labels, label_weights)[:, None], styles)

    def _judge(
        self,
        images: Sequence[Tensor],
        labels: Sequence[Tensor | None],
        label_weights: Tensor | None,
        stream: torch.Generator,
    ) -> Tensor:
        """Augment batches of images and return the discriminator's logits of all of them, in one pass."""
        told = [label for label in labels if label is not None]
        return self.discriminator(
            self._augment(torch.cat(list(images)), stream),
            torch.cat(told) if told else None,
            None if label_weights is None else label_weights.repeat(len(images)),
        )

    def _augment(self, images: Tensor, stream: torch.Generator) -> Tensor:
        """Return what the discriminator sees of images."""
        if self.augmentation.name == "none":
            return images
        if self.augmentation.name == "diffaugment":
            return diff_augment(images, stream)
        # The probability stays on the device, also where it is a setting: no branch looks at it.
        return augment(images, self.state.ada_p, self.transforms, stream)

    def _add_path_length_gradients(
        self, batch: int, labels: Tensor | None, label_weights: Tensor | None, stream: torch.Generator
    ) -> Tensor:
        """Add the gradient of path-length regularisation to the generator's; return the penalty, unweighted."""
        settings, generator = self.settings, self.generator
        # Half a batch: memory and time of the second derivative (StyleGAN2, Appendix B).
        count = max(batch // 2, 1)
        labels = None if labels is None else labels[:count]
        label_weights = None if label_weights is None else label_weights[:count]
        w = self._map(generator.latents(count, stream), labels, label_weights)
        # A copy for each layer, whose gradients are told apart.
        styles = self._styles(w, labels, label_weights, stream).contiguous()
        images = generator.synthesize(styles, stream)
        noise = torch.randn(images.shape, generator=stream, device=stream.device, dtype=torch.float32).to(images)
        lengths = losses.path_lengths(images, styles, noise)
        mean = self.state.path_length_mean
        mean.lerp_(lengths.detach().mean(), settings.path_length_decay)
        penalty = (lengths - mean).square().mean()
        parameters = list(generator.parameters())
        weight = settings.path_length_weight * settings.path_length_every
        # The last biases of RGB move every image alike: they have no part in path lengths.
        gradients = torch.autograd.grad(penalty * weight, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                assert parameter.grad is not None
                parameter.grad += gradient
        return penalty.detach()

    @torch.no_grad()
    def _adapt_augmentation(self, real_logits: Tensor, fake_logits: Tensor) -> dict[str, Tensor]:
        """Count how sure the discriminator is of real images; adapt p every few steps (StyleGAN2-ADA, Section 3.1)."""
        settings, state = self.augmentation, self.state
        if settings.name != "ada":
            return {}
        # The relativistic loss knows no absolute logit: there, sure is a real image above its generated partner.
        real_logits, fake_logits = real_logits.detach(), fake_logits.detach()
        signs = (real_logits - fake_logits if self.settings.loss == "relativistic" else real_logits).sign()
        state.ada_sign_sum += signs.sum()
        state.ada_sign_count += len(signs)
        if self.num_steps % settings.ada_every == 0:
            p = adapted_probability(
                state.ada_p,
                state.ada_sign_sum / state.ada_sign_count,
                target=settings.ada_target,
                num_images=settings.ada_every * len(signs),
                ada_kimg=settings.ada_kimg,
            )
            state.ada_p.copy_(p)
            state.ada_sign_sum.zero_()
            state.ada_sign_count.zero_()
        return {"augmentation-p": state.ada_p.clone()}

    @torch.no_grad()
    def membership_scores(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Return the discriminator's logits, (n,): high for images that it knows.

        See :class:`federation.models.protocol.GenerativeModel` for the parameters.
        """
        count, group = len(images), self.discriminator.minibatch_std_group
        # A group of the minibatch standard deviation must be whole: the last one is filled with the first images.
        rows = torch.arange(count + (-count % group if group else 0), device=images.device) % count
        logits: Tensor = self.discriminator(images[rows], None if labels is None else labels[rows])
        return logits[:count]

    def private_state(self) -> dict[str, Tensor]:
        """Return Adam's moments by parameter name and the number of steps taken."""
        return private_state(self.optimizers, self.networks, self.num_steps)

    def load_private_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back :meth:`private_state`; an empty mapping means that training starts anew.

        Raises
        ------
        WireError
            If the state belongs to other networks.
        """
        self.num_steps = load_private_state(state, self.optimizers, self.networks)


def _terms_of_discriminator(
    loss: Tensor, real_logits: Tensor, fake_logits: Tensor, penalties: Sequence[Tensor]
) -> dict[str, Tensor]:
    terms = {
        "loss-discriminator": loss.detach(),
        "logit-real": real_logits.detach().mean(),
        "logit-fake": fake_logits.detach().mean(),
    }
    return terms | {
        name: penalty.detach() for name, penalty in zip(("penalty-real", "penalty-fake"), penalties, strict=False)
    }
