"""Stored classifiers: found again with the same bits, trained anew where anything that decides them differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from federation.errors import StorageError
from federation.models.classifier import build_classifier, fit_classifier, predict_probabilities
from federation.seeding import numpy_stream, torch_stream
from server.evaluation.classifier_cache import fit_once

pytestmark = pytest.mark.usefixtures("one_thread")


def draw(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    stream = numpy_stream(seed, "images")
    return stream.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), stream.integers(0, 3, count)


def train(cache_dir: Path, **changes: Any) -> tuple[Any, bool]:
    """Return a classifier and whether it was trained."""
    seed = changes.pop("seed", 0)
    given: dict[str, Any] = {"images": draw(40, 0), "validation": draw(12, 1), "steps": 3} | changes
    stream = torch_stream(seed, "classifier")
    classifier = build_classifier("small-cnn", resolution=32, num_classes=3, stream=stream)
    validation = given["validation"]

    def fit() -> None:
        fit_classifier(
            classifier, *given["images"], steps=given["steps"], stream=stream, validation=validation, batch_size=8
        )

    stored = fit_once(
        classifier,
        fit,
        how={"steps": given["steps"]},
        shown=[given["images"], validation],
        streams=[stream],
        cache_dir=str(cache_dir),
    )
    return classifier, not stored


def test_a_stored_classifier_has_the_bits_of_the_trained_one(tmp_path: Path) -> None:
    first, was_trained = train(tmp_path)
    assert was_trained
    again, was_trained = train(tmp_path)
    assert not was_trained
    assert not again.training
    assert all(torch.equal(value, first.state_dict()[name]) for name, value in again.state_dict().items())
    images = draw(7, 2)[0]
    assert predict_probabilities(again, images).tobytes() == predict_probabilities(first, images).tobytes()
    (path,) = (tmp_path / "classifiers").iterdir()
    # The checksum lies behind what other readers look at.
    path.write_bytes(path.read_bytes()[:-16])
    assert load_file(path).keys() == first.state_dict().keys()


def test_whatever_decides_the_weights_decides_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train(tmp_path)[1]
    pixels, labels = draw(40, 0)
    other, relabelled = pixels.copy(), labels.copy()
    other[-1, -1, -1, -1] ^= 1
    relabelled[-1] = (relabelled[-1] + 1) % 3
    assert train(tmp_path, images=(other, labels))[1]
    assert train(tmp_path, images=(pixels, relabelled))[1]
    assert train(tmp_path, validation=draw(12, 3))[1]
    assert train(tmp_path, steps=4)[1]
    assert train(tmp_path, seed=1)[1]
    monkeypatch.setattr(torch, "__version__", "0.0")
    assert train(tmp_path)[1]
    monkeypatch.undo()
    assert not train(tmp_path)[1]


def test_a_damaged_file_is_trained_anew(tmp_path: Path) -> None:
    first, _ = train(tmp_path)
    (path,) = (tmp_path / "classifiers").iterdir()
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-100] ^= 1
    for damaged in (b"", whole[:-1], bytes(flipped), b"x" * 200):
        path.write_bytes(damaged)
        again, was_trained = train(tmp_path)
        assert was_trained
        assert path.read_bytes() == whole
    assert all(torch.equal(value, first.state_dict()[name]) for name, value in again.state_dict().items())


def test_a_cache_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "classifiers").write_text("a file, where a folder should be")
    with pytest.raises(StorageError, match=r"data\.cache-dir .*classifiers: cannot be written"):
        train(tmp_path)
