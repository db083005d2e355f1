"""Decoded images in the order of the index, and batches that a random stream alone decides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_partitions.dataset import ImageDataset, load_images, turn_and_mirror
from data_partitions.sources import load_index
from federation.batch import Batch
from federation.images import to_floats
from federation.seeding import torch_stream
from federation.settings.data import DataSettings


def dataset(num_images: int, *, flips: bool = False) -> ImageDataset:
    """Image i is of the constant value i and has the label i."""
    images = np.broadcast_to(np.arange(num_images, dtype=np.uint8)[:, None, None, None], (num_images, 2, 2, 3))
    return ImageDataset(images, np.arange(num_images), np.arange(num_images), flips=flips)


def test_balanced_batches_draw_each_class_alike() -> None:
    labels = np.array([0] * 90 + [2] * 9 + [3])  # a long tail; class 1 does not occur
    images = np.zeros((100, 2, 2, 3), dtype=np.uint8)
    data = ImageDataset(images, labels, np.arange(100), balanced=True)
    drawn = torch.bincount(data.sample_batch(torch_stream(0, "test"), 6000).labels, minlength=4) / 6000
    assert drawn[1] == 0
    assert torch.allclose(drawn[[0, 2, 3]], torch.full((3,), 1 / 3), atol=0.02)
    assert draw(data, torch_stream(1, "test"), 5, 3) == draw(data, torch_stream(1, "test"), 5, 3)


def draw(data: ImageDataset, generator: torch.Generator, *sizes: int) -> list[int]:
    return [label for size in sizes for label in data.sample_batch(generator, size).labels.tolist()]


def test_load_images_gives_the_rows_of_the_index(tmp_path: Path) -> None:
    root = tmp_path / "images"
    rng = np.random.default_rng(0)
    for name, shape in {"nv/b": (64, 48, 3), "nv/a": (32, 32, 3), "mel/z": (100, 200, 3), "mel/y": (40, 40)}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(root / f"{name}.png")
    data = DataSettings(source="folder", root=str(root), cache_dir=str(tmp_path / "cache"))
    index = load_index(data, resolution=32)
    images = load_images(index, 32, data.cache_dir)
    assert index.table.image_id.tolist() == ["mel/y.png", "mel/z.png", "nv/a.png", "nv/b.png"]
    np.testing.assert_array_equal(images[2], np.asarray(Image.open(root / "nv/a.png")))
    expected = Image.open(root / "mel/z.png").crop((50, 0, 150, 100)).resize((32, 32), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(images[1], np.asarray(expected))
    np.testing.assert_array_equal(index.read_image(3), np.asarray(Image.open(root / "nv/b.png")))
    # Decoded while the index was made; another resolution is decoded when it is asked for.
    assert len(list((tmp_path / "cache" / "pixels").iterdir())) == 1
    assert load_images(index, 64, data.cache_dir).shape == (4, 64, 64, 3)


def test_load_images_draws_phantoms(tmp_path: Path) -> None:
    pytest.importorskip("data_partitions.sources.phantom")
    data = DataSettings(source="phantom", phantom_images=200, cache_dir=str(tmp_path))
    index = load_index(data, resolution=32)
    images = load_images(index, 32, data.cache_dir)
    assert images.shape == (200, 32, 32, 3)
    np.testing.assert_array_equal(images[7], index.read_image(7))


def test_only_the_given_rows_are_held() -> None:
    images = np.arange(4 * 2 * 2 * 3, dtype=np.uint8).reshape(4, 2, 2, 3)
    data = ImageDataset(images, np.array([5, 6, 7, 8]), np.array([3, 1]))
    np.testing.assert_array_equal(data.images.numpy(), images[[3, 1]])
    assert data.labels.tolist() == [8, 6]
    assert len(data) == 2


def test_a_dataset_needs_an_image() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        ImageDataset(np.zeros((3, 2, 2, 3), np.uint8), np.zeros(3, np.int64), np.array([], dtype=np.int64))


def test_floats_span_minus_one_to_one_and_are_channels_last() -> None:
    images = torch.tensor([0, 51, 102, 153, 204, 255], dtype=torch.uint8).reshape(1, 2, 1, 3)
    floats = to_floats(images)
    torch.testing.assert_close(
        floats, torch.tensor([[[[-1.0], [0.2]], [[-0.6], [0.6]], [[-0.2], [1.0]]]]), rtol=0, atol=1e-6
    )
    assert floats.min() == -1
    assert floats.max() == 1
    images = dataset(9).sample_batch(torch_stream(0, "x"), 5).images
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_images_and_labels_stay_together() -> None:
    batch = dataset(100, flips=True).sample_batch(torch_stream(0, "x"), 30)
    np.testing.assert_allclose(batch.images[:, 0, 0, 0], batch.labels / 127.5 - 1, atol=1e-6)
    assert len(batch) == 30


@settings(deadline=None)
@given(num_images=st.integers(1, 40), batch_size=st.integers(1, 50), seed=st.integers(0, 1000))
def test_each_pass_shows_every_image_once(num_images: int, batch_size: int, seed: int) -> None:
    drawn = draw(dataset(num_images), torch_stream(seed, "x"), *[batch_size] * num_images)
    passes = [drawn[start : start + num_images] for start in range(0, len(drawn), num_images)]
    assert len(passes) == batch_size
    assert all(sorted(one_pass) == list(range(num_images)) for one_pass in passes)


def test_passes_differ_and_streams_repeat() -> None:
    data = dataset(50)
    first = draw(data, torch_stream(1, "x"), 50, 50)
    assert first[:50] != first[50:]
    assert first[:50] != list(range(50))
    assert draw(dataset(50), torch_stream(1, "x"), 50, 50) == first
    assert draw(dataset(50), torch_stream(2, "x"), 50, 50) != first


def test_a_round_does_not_depend_on_what_was_drawn_before() -> None:
    fresh, used = dataset(50, flips=True), dataset(50, flips=True)
    used.sample_batch(torch_stream(0, "training", server_round=1), 17)
    expected = fresh.sample_batch(torch_stream(0, "training", server_round=2), 16)
    drawn = used.sample_batch(torch_stream(0, "training", server_round=2), 16)
    torch.testing.assert_close(drawn.images, expected.images, rtol=0, atol=0)
    torch.testing.assert_close(drawn.labels, expected.labels, rtol=0, atol=0)


def test_the_first_image_is_uniform() -> None:
    data = dataset(5)
    counts = np.bincount([draw(data, torch_stream(seed, "x"), 1)[0] for seed in range(2000)], minlength=5)
    assert np.abs(counts - 400).max() < 80  # 4.5 standard deviations


def test_the_eight_symmetries_are_equally_likely_and_no_other_occurs() -> None:
    square = torch.tensor([[0, 1], [2, 3]])
    images = square.reshape(1, 2, 2, 1).expand(8000, 2, 2, 1)
    turned = turn_and_mirror(images, torch_stream(0, "x"))
    found, counts = np.unique(turned.reshape(8000, 4).numpy(), axis=0, return_counts=True)
    expected = {
        tuple(symmetry.flatten().tolist())
        for quarter_turns in range(4)
        for symmetry in (square.rot90(quarter_turns), square.rot90(quarter_turns).fliplr())
    }
    assert {tuple(row) for row in found.tolist()} == expected
    assert np.abs(counts - 1000).max() < 140  # 4.7 standard deviations


def test_without_flips_images_are_upright() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), dtype=np.uint8)
    data = ImageDataset(images, np.arange(20), np.arange(20))
    drawn = data.sample_batch(torch_stream(0, "x"), 20)
    torch.testing.assert_close(drawn.images, to_floats(torch.from_numpy(images))[drawn.labels], rtol=0, atol=0)


# ---------------------------------------------------------------- what else is known of an image

TABLE = pd.DataFrame(
    {
        "age": [45.0, np.nan, 70.0, 5.0, np.nan, 85.0],
        "sex": ["male", "", "female", "male", "female", ""],
        "localisation": ["back", "face", "", "back", "abdomen", "scalp"],
        "site": ["vienna", "vienna", "sydney", "sydney", "vienna", "rosendahl"],
    }
)


def with_attributes(rows: list[int], *, flips: bool = False, balanced: bool = False) -> ImageDataset:
    """Image i is of the constant value i."""
    images = np.broadcast_to(np.arange(6, dtype=np.uint8)[:, None, None, None], (6, 2, 2, 3))
    labels = np.array([0, 0, 1, 0, 1, 0])
    return ImageDataset(images, labels, np.array(rows), flips=flips, balanced=balanced, table=TABLE)


def check_attributes(data: ImageDataset, batch: Batch) -> None:
    """The attributes of each image of a batch are those of its row in the table."""
    rows = ((batch.images[:, 0, 0, 0] + 1) * 127.5).round().long().tolist()
    assert set(batch.attributes) == {"age", "sex", "localisation", "site"}
    assert batch.attributes["age"].dtype == torch.float32
    np.testing.assert_array_equal(batch.attributes["age"].numpy(), TABLE.age.to_numpy(dtype=np.float32)[rows])
    for name in ("sex", "localisation", "site"):
        codes = batch.attributes[name]
        assert (codes.dtype, tuple(codes.shape)) == (torch.int64, (len(batch),))
        assert [data.vocabularies[name][code] for code in codes.tolist()] == TABLE[name][rows].tolist()


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4, 5], [4, 1, 5], [2]])
@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("balanced", [False, True])
def test_the_attributes_of_a_batch_are_those_of_its_images(rows: list[int], flips: bool, balanced: bool) -> None:
    data = with_attributes(rows, flips=flips, balanced=balanced)
    stream = torch_stream(0, "x")
    for size in (4, 1, 9):
        check_attributes(data, data.sample_batch(stream, size))
    check_attributes(data, data.sample_distinct(stream, 3))


def test_names_are_counted_through_in_the_order_of_the_whole_index_and_unknown_is_first() -> None:
    """A hospital that has never seen a name counts as the others do."""
    assert with_attributes([4]).vocabularies == {
        "sex": ("", "female", "male"),
        "localisation": ("", "abdomen", "back", "face", "scalp"),
        "site": ("", "rosendahl", "sydney", "vienna"),
    }
    assert with_attributes([4]).attributes["localisation"].tolist() == [1]
    assert with_attributes([1, 5]).attributes["sex"].tolist() == [0, 0]


def test_attributes_change_nothing_of_what_is_drawn() -> None:
    images = np.broadcast_to(np.arange(6, dtype=np.uint8)[:, None, None, None], (6, 2, 2, 3))
    without = ImageDataset(images, np.array([0, 0, 1, 0, 1, 0]), np.arange(6), flips=True)
    known = with_attributes([0, 1, 2, 3, 4, 5], flips=True)
    assert (without.attributes, without.vocabularies) == ({}, {})
    first, second = torch_stream(3, "x"), torch_stream(3, "x")
    for _ in range(4):
        expected, drawn = without.sample_batch(first, 4), known.sample_batch(second, 4)
        assert expected.attributes == {}
        assert torch.equal(drawn.images, expected.images)
        assert torch.equal(drawn.labels, expected.labels)


def test_phantoms_have_the_attributes_of_their_index(cache_dir: str) -> None:
    data = DataSettings(source="phantom", phantom_images=200, cache_dir=cache_dir)
    index = load_index(data, resolution=32)
    rows = np.arange(0, 200, 3)
    found = ImageDataset(load_images(index, 32, cache_dir), index.labels, rows, table=index.table)
    np.testing.assert_array_equal(found.attributes["age"].numpy(), index.table.age.to_numpy(dtype=np.float32)[rows])
    for name in ("sex", "localisation", "site"):
        names = [found.vocabularies[name][code] for code in found.attributes[name].tolist()]
        assert names == index.table[name][rows].tolist()
        assert set(found.vocabularies[name]) == {"", *index.table[name]}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_the_same_batches() -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
    for_cpu, for_gpu = (
        ImageDataset(images, np.arange(50), np.arange(50), device=device, flips=True) for device in ("cpu", "cuda")
    )
    first, second = torch_stream(0, "x"), torch_stream(0, "x")
    for _ in range(5):
        expected, drawn = for_cpu.sample_batch(first, 16), for_gpu.sample_batch(second, 16)
        torch.testing.assert_close(drawn.images.cpu(), expected.images, rtol=0, atol=1e-6)
        torch.testing.assert_close(drawn.labels.cpu(), expected.labels, rtol=0, atol=1e-6)
