"""Weights and styles of all layers, made ready for a pass together: those of one shape in one operation.

A small network spends as long on many small operations as on its convolutions. What a layer does with its weights
before it convolves (scaling, casting, styles, demodulation) is the same in every layer; layers whose weights are of one
shape are stacked, and what costs one operation per layer costs one per shape. Values are those of each layer alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from federation.models.stylegan2.networks import EqualizedConv, ModulatedConv


class ReadyConv(NamedTuple):
    """What an :class:`~federation.models.stylegan2.networks.EqualizedConv` convolves with, in the type computed in."""

    weight: Tensor
    """(out_channels, in_channels, k, k), scaled, channels-last."""
    bias: Tensor | None
    """(out_channels,), scaled."""


class Modulation(NamedTuple):
    """What a :class:`~federation.models.stylegan2.networks.ModulatedConv` convolves with, in the type to compute in."""

    weight: Tensor
    """(out_channels, in_channels, k, k), or its transpose, unscaled, channels-last."""
    style: Tensor
    """(batch, in_channels, 1, 1): factors on what comes in."""
    scale: Tensor | None
    """(batch, out_channels, 1, 1): factors on what goes out; None: 1."""


def _positions(keys: Sequence[Hashable]) -> Iterator[list[int]]:
    """Yield the positions of each key, in the order in which keys first come."""
    found: dict[Hashable, list[int]] = {}
    for position, key in enumerate(keys):
        found.setdefault(key, []).append(position)
    yield from found.values()


def _channels_last(stack: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Cast a stack (n, out, in, k, k); return its parts, each channels-last in memory."""
    # Cast and reordered in one copy; where nothing is cast, `to` would leave the order as it is.
    rows = stack.permute(0, 1, 3, 4, 2).to(dtype, memory_format=torch.contiguous_format).contiguous()
    return rows.permute(0, 1, 4, 2, 3).unbind()


def scaled(tensors: Sequence[Tensor], gains: Sequence[float], dtype: torch.dtype) -> list[Tensor]:
    """Return each tensor times its gain, in `dtype`; those of one shape and gain are one operation."""
    ready: dict[int, Tensor] = {}
    for positions in _positions([(tensor.shape, gain) for tensor, gain in zip(tensors, gains, strict=True)]):
        stack = torch.stack([tensors[position] for position in positions]) * gains[positions[0]]
        parts = _channels_last(stack, dtype) if stack.ndim == 5 else stack.to(dtype).unbind()
        ready.update(zip(positions, parts, strict=True))
    return [ready[position] for position in range(len(tensors))]


def prepare_convs(convs: Sequence[tuple[EqualizedConv, float]], dtype: torch.dtype) -> list[ReadyConv]:
    """Make convolutions ready, each with a factor on its result."""
    gains = [gain * conv.activation_gain for conv, gain in convs]
    weights = scaled(
        [conv.weight for conv, _ in convs],
        [gain * conv.weight_gain for (conv, _), gain in zip(convs, gains, strict=True)],
        dtype,
    )
    with_bias = [(conv.bias, gain) for (conv, _), gain in zip(convs, gains, strict=True) if conv.bias is not None]
    biases = iter(scaled([bias for bias, _ in with_bias], [gain for _, gain in with_bias], dtype))
    return [
        ReadyConv(weight, None if conv.bias is None else next(biases))
        for (conv, _), weight in zip(convs, weights, strict=True)
    ]


def prepare_modulations(
    convs: Sequence[ModulatedConv], ws: Sequence[Tensor], gains: Sequence[float], dtype: torch.dtype
) -> list[Modulation]:
    """Make modulated convolutions ready (StyleGAN2, Eq. 1 and 3).

    Parameters
    ----------
    convs
        The convolutions.
    ws
        The style of each, (batch, latent_size), fp32.
    gains
        Factor on the result of each.
    dtype
        The type to compute in. Styles and demodulation are computed in fp32.
    """
    ready: dict[int, Modulation] = {}
    kinds = [
        (conv.weight.shape, conv.demodulate, conv.transposed, gain) for conv, gain in zip(convs, gains, strict=True)
    ]
    for positions in _positions(kinds):
        group, gain = [convs[position] for position in positions], gains[positions[0]]
        first = group[0]
        weight = torch.stack([conv.weight for conv in group])
        style = torch.baddbmm(
            torch.stack([conv.style.bias for conv in group])[:, None],
            torch.stack([ws[position] for position in positions]),
            torch.stack([conv.style.weight for conv in group]).transpose(1, 2),
            alpha=first.style.weight_gain,
        )
        scales: Sequence[Tensor | None] = [None] * len(group)
        if first.demodulate:
            scale = demodulation(style, weight, first.weight_gain) * gain
            scales = scale.to(dtype)[..., None, None].unbind()
        else:
            style = style * (first.weight_gain * gain)
        # PyTorch wants (in, out, …) of a transposed convolution, which also mirrors the kernel: that is learned.
        weights = _channels_last(weight.transpose(1, 2) if first.transposed else weight, dtype)
        styles = style.to(dtype)[..., None, None].unbind()
        parts = zip(weights, styles, scales, strict=True)
        ready.update(zip(positions, (Modulation(*part) for part in parts), strict=True))
    return [ready[position] for position in range(len(convs))]


def demodulation(style: Tensor, weight: Tensor, weight_gain: float) -> Tensor:
    """Return 1 / norm of modulated weights, without their gain (StyleGAN2, Eq. 3).

    Parameters
    ----------
    style
        (n, batch, in_channels).
    weight
        (n, out_channels, in_channels, k, k), unscaled.
    weight_gain
        What scales the weights.

    Returns
    -------
    (n, batch, out_channels).
    """
    squared_norms = weight.square().sum(dim=(3, 4)).transpose(1, 2)
    # Eq. 3's epsilon is meant for scaled weights.
    return torch.rsqrt(torch.bmm(style.square(), squared_norms) + 1e-8 / weight_gain**2)
