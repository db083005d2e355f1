"""Recipes are chosen without a look at test images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from federation.config import parse_assignments
from federation.models.classifier import SmallCNN
from server.evaluation.judge import Judge
from server.evaluation.membership import nothing_attacked
from server.evaluation.supply import PoolSupply
from server.inputs import prepare_inputs
from strategies.configuration import resolve

pytestmark = pytest.mark.usefixtures("one_thread")


class Guarded(np.ndarray):
    """Images of which some must not be read."""

    forbidden: np.ndarray

    def __getitem__(self, key: Any) -> Any:
        places = np.arange(len(self))[key] if isinstance(key, np.ndarray | slice | int | np.integer) else None
        assert places is not None, f"cannot tell which images {key!r} are"
        assert not np.isin(places, self.forbidden).any(), "a test image is read"
        return np.asarray(self)[key]


class Colours:
    """An extractor: mean and deviation of each channel."""

    name, digest, preprocessing, num_features = "colours", "1", "none", 6
    device = torch.device("cpu")

    def features(self, images: Any) -> np.ndarray:
        floats = np.asarray(images[:]) / 255
        return np.concatenate([floats.mean((1, 2)), floats.std((1, 2))], axis=1)


def judge(part: str, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(SmallCNN, "batch_size", 8)
    given = (
        "data.phantom-images=300",
        "partition.scheme=iid",
        "partition.hospitals=2",
        "partition.min-images=1",
        "evaluation.gain=true",
        "evaluation.draws=2",
        "evaluation.utility-steps=10",
        "evaluation.utility-seeds=1",
        f"data.cache-dir={cache_dir}",
    )
    inputs = prepare_inputs(resolve([parse_assignments(given)]))
    images = np.asarray(inputs.images).view(Guarded)
    images.forbidden = inputs.rows("test")
    rows = inputs.rows("train")
    supply = PoolSupply(np.asarray(inputs.images)[rows], inputs.index.labels[rows], seed=0)
    judge = Judge(replace(inputs, images=images), Colours(), device="cpu", progress=lambda *_: None)  # type: ignore[arg-type]
    return judge.judge(supply, attacked=nothing_attacked("there is nothing"), part=part)


def test_no_test_image_is_read_while_recipes_are_chosen(cache_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = judge("validation", Path(cache_dir), monkeypatch)
    assert found["test"]["part"] == "validation"
    assert found["utility"]["num_test_images"] == found["gain"]["num_test_images"] > 20
    assert found["authenticity"]["valid"] in (True, False)
    with pytest.raises(AssertionError, match="a test image is read"):
        judge("test", Path(cache_dir), monkeypatch)
