"""What training steps of every family share: Adam's moments on disk, the running average, the type of arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from federation.errors import WireError
from federation.settings.training import TrainingSettings


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


def build_adam(network: nn.Module, settings: TrainingSettings) -> torch.optim.Adam:
    """Return Adam over all parameters of a network."""
    return torch.optim.Adam(
        network.parameters(), lr=settings.learning_rate, betas=(settings.beta1, settings.beta2), fused=True
    )


# What is left of the step size at the end of a decay. With a twentieth, a discriminator that keeps its own learned
# small sets by heart while the generator hardly moved.
_LEAST_LEARNING_RATE = 0.25


def learning_rate_factor(settings: TrainingSettings, done: float) -> float:
    """Return what is left of the step size once a share of all rounds is `done`, from 0 to 1.

    Along half a cosine (Loshchilov & Hutter 2017, arXiv 1608.03983, Eq. 5, without restarts).
    """
    if settings.learning_rate_decay == "none":
        return 1.0
    return _LEAST_LEARNING_RATE + (1 - _LEAST_LEARNING_RATE) * (1 + math.cos(math.pi * done)) / 2


def step_optimizer(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Take a step, each group of parameters with its own step size times a factor."""
    for group in optimizer.param_groups:
        group.setdefault("whole_lr", group["lr"])
        group["lr"] = group["whole_lr"] * factor
    optimizer.step()


@dataclass(frozen=True)
class Clock:
    """Whose count of images the ramp of a running average, and a transition, go by.

    Of entries that the hospitals share it is the federation's. A hospital that comes late has shown none yet: by its
    own count it would let go, in its first round, of all that the others have averaged in theirs. What it has kept
    for itself is as old as itself.
    """

    ahead: float = 0.0
    """Images that the federation has shown at one hospital, on average, beyond those that this model was shown."""
    own: frozenset[str] = frozenset()
    """Full names of the entries that go by the model's own count."""

    def shown(self, name: str, own_images: float) -> float:
        """Return the images that count for an entry, of `own_images` that this model was shown."""
        return own_images if name in self.own else max(own_images + self.ahead, 0.0)


def ema_decay(settings: TrainingSettings, images_in_step: float, images_shown: float) -> float:
    """Return how much of a running average stays after a step.

    Parameters
    ----------
    settings
        Half-life and ramp.
    images_in_step, images_shown
        At one hospital: in this step, and so far with it (see :class:`Clock`).
    """
    half_life = settings.ema_half_life_images
    if settings.ema_ramp > 0:
        half_life = min(half_life, settings.ema_ramp * images_shown)
    return 0.5 ** (images_in_step / half_life) if half_life > 0 else 0.0


@torch.no_grad()
def move_averages(
    networks: Mapping[str, nn.Module],
    averages: Mapping[str, str],
    settings: TrainingSettings,
    *,
    images_in_step: int,
    images_shown: int,
    clock: Clock,
) -> None:
    """Move running averages towards their networks; buffers, which nothing trains, are copied.

    Parameters
    ----------
    networks
        By name.
    averages
        Of each running average the network that it follows.
    settings
        Half-life and ramp.
    images_in_step, images_shown
        By this model: in this step, and so far with it.
    clock
        What of them counts.
    """
    for follower, leader in averages.items():
        moved: dict[float, tuple[list[Tensor], list[Tensor]]] = {}
        if clock.own:
            pairs = zip(networks[follower].named_parameters(), networks[leader].parameters(), strict=True)
            for (name, average), parameter in pairs:
                shown = clock.shown(f"{follower}.{name}", images_shown)
                kept, towards = moved.setdefault(shown, ([], []))
                kept.append(average)
                towards.append(parameter)
        else:
            moved[clock.shown("", images_shown)] = (
                list(networks[follower].parameters()),
                list(networks[leader].parameters()),
            )
        for shown, (kept, towards) in moved.items():
            torch._foreach_lerp_(kept, towards, 1 - ema_decay(settings, images_in_step, shown))
        for buffer, newest in zip(networks[follower].buffers(), networks[leader].buffers(), strict=True):
            buffer.copy_(newest)


def set_gradients(network: nn.Module, gradients: Iterable[Tensor]) -> None:
    """Give parameters their gradients, laid out as the parameters are."""
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        # Adam's fused kernel walks through memory: a gradient laid out channels-last beside a weight that
        # is not would move the wrong entries.
        parameter.grad = gradient.contiguous()


def private_state(
    optimizers: Mapping[str, torch.optim.Adam], networks: Mapping[str, nn.Module], num_steps: int
) -> dict[str, Tensor]:
    """Return Adam's moments by parameter name and the number of steps taken."""
    state = {"num_steps": torch.tensor(num_steps)}
    for name, optimizer in optimizers.items():
        for key, parameter in networks[name].named_parameters():
            for entry, value in optimizer.state.get(parameter, {}).items():
                state[f"{name}.{key}.{entry}"] = value
    return state


def load_private_state(
    state: Mapping[str, Tensor], optimizers: Mapping[str, torch.optim.Adam], networks: Mapping[str, nn.Module]
) -> int:
    """Take back :func:`private_state`; an empty mapping means that training starts anew. Return the number of steps.

    Raises
    ------
    WireError
        If the state belongs to other networks.
    """
    for name, optimizer in optimizers.items():
        optimizer.state.clear()
        for key, parameter in networks[name].named_parameters():
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
    return int(state["num_steps"]) if state else 0
