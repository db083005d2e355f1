"""What did each change to the training step bring? Images per second, one change after another.

The first row is the step as the papers write it (``plain_stylegan2.py``); each row keeps all changes above it. Up to
bf16 the result stays what the equations say; the last two rows change the network and the recipe. An iteration is
whole: both networks, R1 and path lengths amortised over 16 steps, augmentation, Adam, running averages, on random
images. One thread, on a processor, whose own time counts: what others do on a shared machine is left out as far as
it can be. Variants take turns of a few steps, and factors are medians of ratios within a round, so that its drift
cancels.

Run::

    python benchmarks/step_ablation.py
    python benchmarks/step_ablation.py --resolution 64 --batch 8 --rounds 3 --json ablation.json

Imports neither flwr nor ray.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import plain_stylegan2 as plain
from benchmarks.training_step import lazy_period, make_trainer
from federation.batch import Batch
from federation.config import Configuration, load_toml, parse_assignments, resolve
from federation.models.stylegan2 import networks
from federation.models.stylegan2.augment import augment
from federation.models.stylegan2.step import StyleGAN2
from federation.models.training import supports_bf16

_PAPER = Path(__file__).resolve().parents[1] / "conf" / "stylegan2-ada" / "paper.toml"
# A fixed probability of augmentation: every variant does the same work, and none has to run the controller.
_FIXED = ["stylegan2.augmentation.name=fixed", "stylegan2.augmentation.p=0.2"]
# Steps that a variant takes in turn; divides the 16 steps of a round.
_TURN = 4
_RELATIVISTIC = [
    "stylegan2.loss=relativistic",
    "stylegan2.style-mixing=0.0",
    "stylegan2.path-length-weight=0.0",
    "stylegan2.minibatch-std=0",
]


# ---------------------------------------------------------------- changes to the plain step, each by itself


def transposed_convolution(
    x: Tensor, weight: Tensor, style: Tensor, *, demodulate: bool = True, zeros_between: bool = False
) -> Tensor:
    """Do what `plain.modulated_convolution` does, with a transposed convolution in place of zeros put in."""
    if not zeros_between:
        return _plain_convolution(x, weight, style, demodulate=demodulate)
    batch, channels, height, width = x.shape
    filters, _, size, _ = weight.shape
    weights = plain.scaled_kernel(weight)[None] * style[:, None, :, None, None]
    weights = weights * torch.rsqrt(weights.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8)
    x = x.reshape(1, batch * channels, height, width)
    # PyTorch wants (in, out, …) here.
    weights = weights.transpose(1, 2).reshape(batch * channels, filters, size, size)
    y = F.conv_transpose2d(x, weights, stride=2, groups=batch)
    return y.reshape(batch, filters, y.shape[2], y.shape[3])


_plain_convolution = plain.modulated_convolution


def scaled_activations(
    x: Tensor, weight: Tensor, style: Tensor, *, demodulate: bool = True, zeros_between: bool = False
) -> Tensor:
    """Do what `plain.modulated_convolution` does, with one kernel for the batch and styles on the activations."""
    kernel = plain.scaled_kernel(weight)
    x = x * style[:, :, None, None]
    if zeros_between:
        y = F.conv_transpose2d(x, kernel.transpose(0, 1), stride=2)
    else:
        y = F.conv2d(x, kernel, padding=kernel.shape[2] // 2)
    if demodulate:
        y = y * torch.rsqrt(style.square() @ kernel.square().sum(dim=(2, 3)).T + 1e-8)[:, :, None, None]
    return y


@lru_cache(maxsize=64)
def _fir_matrix(size: int, padding: tuple[int, int], stride: int, gain: float, dtype: torch.dtype) -> Tensor:
    taps = torch.tensor([[[1.0, 3.0, 3.0, 1.0]]]) / 8 * math.sqrt(gain)
    columns = F.conv1d(F.pad(torch.eye(size)[:, None], padding), taps, stride=stride)
    return columns[:, 0].T.to(dtype)


def matrix_filter(x: Tensor, padding: tuple[int, int], stride: int = 1, gain: float = 1.0) -> Tensor:
    """Do what `plain.fir` does, by a matrix product along each axis."""
    matrix = _fir_matrix(x.shape[-1], padding, stride, gain, x.dtype)
    return matrix @ (x @ matrix.T)


# ---------------------------------------------------------------- the fast step without channels-last


def filter_rows_and_columns(x: Tensor, kind: str) -> Tensor:
    """Do what `filter_images` does, for and with (batch, channels, height, width) in memory."""
    side = x.shape[2]
    if kind == "up":
        # Of a matrix for an image with zeros between pixels, the columns that meet a pixel.
        matrix = _fir_matrix(2 * side, (2, 1), 1, 4.0, x.dtype)[:, ::2]
    else:
        padding, stride, gain = _FILTERS[kind]
        matrix = _fir_matrix(side, padding, stride, gain, x.dtype)
    return matrix @ (x.contiguous() @ matrix.T)


# Padding, stride and gain of the filters between layers.
_FILTERS = {
    "after-transposed": ((1, 1), 1, 4.0),
    "before-strided": ((2, 2), 1, 1.0),
    "down": ((1, 1), 2, 1.0),
}


def _keeps_channels_first(variant: Variant) -> bool:
    """Take a step; tell whether every convolution gave (batch, channels, height, width) in memory."""
    found: list[bool] = []
    kinds = (networks.EqualizedConv, networks.ModulatedConv)
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: found.append(output.is_contiguous()))
        for network in (variant.model.generator, variant.model.discriminator)
        for module in network.modules()
        if isinstance(module, kinds)
    ]
    variant.run(1)
    for hook in hooks:
        hook.remove()
    return bool(found) and all(found)


# ---------------------------------------------------------------- variants


@dataclass
class Variant:
    """One row: a model, a function that takes one step, and what is exchanged while it runs."""

    name: str
    model: StyleGAN2
    step: Callable[[], None]
    patches: list[tuple[Any, str, Any]] = field(default_factory=list)
    """Objects, the attributes to exchange, and the values to put there."""

    def run(self, steps: int) -> float:
        """Take steps; return the seconds of processor time."""
        with ExitStack() as stack:
            for target, name, value in self.patches:
                stack.enter_context(mock.patch.object(target, name, value))
            start = time.process_time()
            for _ in range(steps):
                self.step()
            return time.process_time() - start


def fast_variant(name: str, configuration: Configuration, *patches: tuple[Any, str, Any]) -> Variant:
    """Return the package's own step."""
    return Variant(name, *make_trainer(configuration, torch.device("cpu")), list(patches))


def plain_variant(name: str, configuration: Configuration, *patches: tuple[Any, str, Any]) -> Variant:
    """Return the plain step, on the same initial weights and the same data."""
    model, step = make_trainer(configuration, torch.device("cpu"))
    assert isinstance(model, StyleGAN2)
    p, transforms = model.augmentation.p, model.transforms
    state = plain.initial_state(
        model.generator.state_dict(), model.discriminator.state_dict(), model.generator_ema.state_dict()
    )

    def plain_step(batch: Batch, stream: torch.Generator) -> None:
        nonlocal state
        state = plain.training_step(
            state,
            configuration,
            batch.images,
            batch.labels,
            stream,
            lambda images, stream: augment(images, p, transforms, stream),
        ).state

    # The trainer draws a batch and calls this.
    model.train_step = plain_step  # type: ignore[method-assign]
    return Variant(name, model, step, list(patches))


def make_variants(arguments: argparse.Namespace) -> list[Variant]:
    """Return all rows, each with every change of the rows before it."""
    names = ",".join(f"class-{number}" for number in range(arguments.classes))
    common = [
        f"data.classes={names}",
        f"model.conditional={str(arguments.classes > 0).lower()}",
        f"model.resolution={arguments.resolution}",
        f"stylegan2.channel-base={arguments.channel_base}",
        f"stylegan2.channel-max={arguments.channel_max}",
        f"stylegan2.latent-size={arguments.latent}",
        f"training.batch-size={arguments.batch}",
        "model.site-embedding=off",
        *_FIXED,
    ]

    def configuration(*assignments: str) -> Configuration:
        return resolve([load_toml(_PAPER), parse_assignments([*common, *assignments])])

    fp32 = configuration("training.precision=fp32")
    transposed = (plain, "modulated_convolution", transposed_convolution)
    scaled = (plain, "modulated_convolution", scaled_activations)
    filtered = (plain, "fir", matrix_filter)
    variants = [
        plain_variant("the papers' equations, fp32", fp32),
        plain_variant("transposed convolution, no zeros put in", fp32, transposed),
        plain_variant("styles on activations, no grouped convolution", fp32, scaled),
        plain_variant("filters as matrix products", fp32, scaled, filtered),
    ]
    channels_first = fast_variant(
        "shared passes, fused Adam",
        fp32,
        (torch, "channels_last", torch.contiguous_format),
        (networks, "filter_images", filter_rows_and_columns),
    )
    if _keeps_channels_first(channels_first):
        variants.append(channels_first)
        variants.append(fast_variant("channels-last memory", fp32))
    else:
        print("the fast step keeps channels last in memory in some layer: measured with it only", file=sys.stderr)
        variants.append(fast_variant("shared passes, fused Adam, channels-last", fp32))
    if not supports_bf16(torch.device("cpu")):
        print("this processor has no bf16: emulated, so slower", file=sys.stderr)
    variants += [
        fast_variant("bf16 convolutions", configuration("training.precision=bf16")),
        fast_variant(
            "bilinear instead of FIR", configuration("training.precision=bf16", "stylegan2.resampling=bilinear")
        ),
        fast_variant(
            "relativistic recipe",
            configuration("training.precision=bf16", "stylegan2.resampling=bilinear", *_RELATIVISTIC),
        ),
    ]
    return variants


# ---------------------------------------------------------------- measuring


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--channel-base", type=int, default=2048)
    parser.add_argument("--channel-max", type=int, default=64)
    parser.add_argument("--latent", type=int, default=512)
    parser.add_argument("--classes", type=int, default=7, help="0: unconditional")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each variant (default 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    arguments = read_arguments()
    torch.set_num_threads(1)
    variants = make_variants(arguments)
    period = math.lcm(
        *(
            lazy_period(resolve([load_toml(_PAPER), parse_assignments(extra)]))
            for extra in (_FIXED, _FIXED + _RELATIVISTIC)
        )
    )
    for variant in variants:
        variant.run(5)  # every kind of step once, before the clock runs
    seconds = [[0.0] * arguments.rounds for _ in variants]
    for number in range(arguments.rounds):
        for _ in range(period // _TURN):
            for variant, times in zip(variants, seconds, strict=True):
                times[number] += variant.run(_TURN)

    def factor(slower: list[float], faster: list[float]) -> float:
        return statistics.median(before / after for before, after in zip(slower, faster, strict=True))

    rows = []
    for number, (variant, times) in enumerate(zip(variants, seconds, strict=True)):
        rows.append(
            {
                "variant": variant.name,
                "images_per_second": period * arguments.batch / statistics.median(times),
                "over_previous": factor(seconds[max(number - 1, 0)], times),
                "over_first": factor(seconds[0], times),
                "seconds_per_round": times,
            }
        )
    print(
        f"{arguments.resolution} px, channels {arguments.channel_base}/{arguments.channel_max}, latent "
        f"{arguments.latent}, {arguments.classes} classes, batch {arguments.batch}, 1 thread, "
        f"{arguments.rounds} rounds of {period} steps, torch {torch.__version__}"
    )
    width = max(len(variant.name) for variant in variants) + 2
    print(f"{'':{width}}{'images/s':>10}{'x previous':>12}{'x first':>10}")
    for number, row in enumerate(rows):
        name = row["variant"] if number == 0 else f"+ {row['variant']}"
        print(f"{name:{width}}{row['images_per_second']:>10.1f}{row['over_previous']:>12.2f}{row['over_first']:>10.2f}")
    if arguments.json:
        options = {key: value for key, value in vars(arguments).items() if key != "json"}
        report = {"options": options, "steps_per_round": period, "torch": torch.__version__, "rows": rows}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
