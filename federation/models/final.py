"""A trained generator as two files: enough to generate images without the rest of a run.

``generator.safetensors`` holds the weights without metadata, so that equal weights are equal bytes;
``model.json`` what they are the weights of.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor

from federation.config import Configuration, ModelSettings
from federation.errors import DataError
from federation.images import to_uint8
from federation.models.protocol import GenerativeModel
from federation.models.stylegan2.networks import Generator
from federation.models.stylegan2.step import build_generator
from federation.run_directory import to_json, write_text, written_atomically
from federation.seeding import torch_stream

FORMAT = 1


@dataclass(frozen=True)
class FinalGenerator:
    """A generator that was read back from ``final/``."""

    network: Generator
    classes: tuple[str, ...]
    """Names of the labels; empty for an unconditional generator."""

    @torch.no_grad()
    def generate(self, count: int, *, labels: Tensor | None = None, seed: int = 0, batch: int = 64) -> Tensor:
        """Draw images; uint8 (count, r, r, 3). `labels` is (count,) int64, or None where there are no classes."""
        stream = torch_stream(seed, "generate")
        drawn = []
        for start in range(0, count, batch):
            stop = min(start + batch, count)
            z = torch.randn(stop - start, self.network.latent_size, generator=stream)
            drawn.append(to_uint8(self.network(z, None if labels is None else labels[start:stop], stream)))
        return torch.cat(drawn)


def save_final(folder: Path, model: GenerativeModel, configuration: Configuration) -> None:
    """Write the judged generator (the EMA) to `folder`."""
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in model.networks["generator_ema"].state_dict().items()
    }
    with written_atomically(folder / "generator.safetensors") as temporary:
        safetensors.torch.save_file(tensors, temporary)
    description = {
        "format": FORMAT,
        "model": configuration.model.model_dump(by_alias=True),
        "classes": list(configuration.class_names) if configuration.model.conditional else [],
    }
    write_text(folder / "model.json", to_json(description, indent=2) + "\n")


def load_final(folder: Path) -> FinalGenerator:
    """Read a generator back from a run's ``final`` folder.

    Raises
    ------
    DataError
        If a file is missing or the weights are not those of the described network.
    """
    try:
        description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        settings = ModelSettings.model_validate(description["model"])
        classes = tuple(description["classes"])
        tensors = safetensors.torch.load_file(folder / "generator.safetensors")
    except (OSError, ValueError, KeyError, ValidationError, safetensors.SafetensorError) as error:
        raise DataError(
            f"{folder}: holds no generator that can be read ({error}); give the final/ folder of a finished run"
        ) from None
    network = build_generator(settings, num_classes=len(classes))
    expected = network.state_dict()
    problems = [
        f"{name}: found {tuple(tensors[name].shape) if name in tensors else 'nothing'}, expected {tuple(value.shape)}"
        for name, value in expected.items()
        if name not in tensors or tensors[name].shape != value.shape
    ]
    problems += [f"{name}: unknown" for name in tensors if name not in expected]
    if problems:
        raise DataError([f"{folder / 'generator.safetensors'}: {problem}" for problem in problems])
    network.load_state_dict(tensors)
    return FinalGenerator(network.requires_grad_(False).eval(), classes)
