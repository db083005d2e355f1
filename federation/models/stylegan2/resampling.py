"""StyleGAN2's filter [1, 3, 3, 1] between resolutions, without a compiled extension.

Karras et al. 2020a (StyleGAN2, arXiv 1912.04958), Section 2 and Appendix B; Zhang 2019, *Making
Convolutional Networks Shift-Invariant Again*, arXiv 1904.11486.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

TAPS = (0.125, 0.375, 0.375, 0.125)
_SIDE = len(TAPS)


def _kernel(x: Tensor, gain: float) -> Tensor:
    """Return the filter of both axes for each channel of `x`, (channels, 1, 4, 4); exact in bf16."""
    taps = torch.tensor(TAPS, dtype=x.dtype, device=x.device)
    kernel = torch.outer(taps, taps) * gain
    return kernel.expand(x.shape[1], 1, _SIDE, _SIDE).contiguous(memory_format=torch.channels_last)


class _Filter(torch.autograd.Function):
    """Depthwise convolution with the filter, zeros around the image.

    The filter is symmetric, so the gradient is the same filter with the complementary padding, and so is
    the gradient's gradient. PyTorch's own gradient of a depthwise convolution is several times as slow.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, padding: int, gain: float) -> Tensor:
        ctx.padding, ctx.gain = padding, gain
        return F.conv2d(x, _kernel(x, gain), padding=padding, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Filter.apply(gradient, _SIDE - 1 - ctx.padding, ctx.gain), None, None


class _AveragePairs(torch.autograd.Function):
    """Average pooling, whose gradient is spread without a search for windows that overlap.

    PyTorch's own gradient knows windows of any size and stride, and takes three times as long.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # Exact in any binary type. Its own gradient is PyTorch's, of an enlargement.
        return F.interpolate(gradient * 0.25, scale_factor=2.0, mode="nearest")


def average_pairs(x: Tensor) -> Tensor:
    """Halve height and width of (batch, channels, n, n), n even: each pixel the mean of 2 x 2."""
    halved: Tensor = _AveragePairs.apply(x)
    return halved


def filter_images(x: Tensor, kind: Literal["up", "after-transposed", "before-strided", "down"]) -> Tensor:
    """Filter images; outside of them lie zeros.

    Parameters
    ----------
    x
        (batch, channels, n, n), best channels-last in memory.
    kind
        ``"up"``: to 2 n pixels (zeros between them, then the filter with gain 2 an axis).
        ``"after-transposed"``: what a transposed 3x3 convolution of stride 2 gave, n = 2 r + 1, to 2 r (gain 2
        an axis). ``"before-strided"``: to the n + 1 pixels that a 3x3 convolution of stride 2 turns into n / 2.
        ``"down"``: to n / 2.

    Returns
    -------
    (batch, channels, new n, new n), in x's type.
    """
    if kind == "up":
        return F.conv_transpose2d(x, _kernel(x, 4.0), stride=2, padding=1, groups=x.shape[1])
    if kind == "after-transposed":
        return _Filter.apply(x, 1, 4.0)
    if kind == "before-strided":
        return _Filter.apply(x, 2, 1.0)
    if kind == "down":
        return _Filter.apply(x, 1, 1.0)[:, :, ::2, ::2]
    raise ValueError(f"kind {kind!r}: allowed are up, after-transposed, before-strided, down")
