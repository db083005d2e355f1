"""Where judged images come from."""

from __future__ import annotations

import numpy as np

from federation.config import parse_assignments
from federation.models import build_model
from federation.models.drawing import drawer_of
from federation.models.final import load_final, save_final
from server.evaluation.supply import GeneratorSupply, PoolSupply
from strategies.configuration import resolve


def pool(count: int = 50) -> PoolSupply:
    """Image number i is of colour i; classes 0 and 1 in turn."""
    images = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 4, 4, 3))
    return PoolSupply(images, np.arange(count) % 2, seed=3)


def numbers(batches) -> list[int]:
    return [int(image[0, 0, 0]) for batch in batches for image in batch]


def test_a_draw_takes_some_of_the_pool_once_each_and_another_draw_others() -> None:
    asked = np.arange(30) % 2
    labels, batches = pool().draw(asked, "draw 0")
    first = numbers(batches)
    assert len(set(first)) == 30
    np.testing.assert_array_equal(labels, np.array(first) % 2)
    assert numbers(pool().draw(asked, "draw 0")[1]) == first
    assert numbers(pool().draw(asked, "draw 1")[1]) != first
    # Never more than four fifths, or two draws would be the same.
    assert len(numbers(pool().draw(np.arange(1000) % 2, "draw 0")[1])) == 40


def test_a_draw_is_mixed_as_the_images_that_it_is_compared_with() -> None:
    """A folder of every class alike must not score worse than the generator that drew it, asked for real classes."""
    images = np.arange(3000, dtype=np.uint16).view(np.uint8).reshape(1000, 1, 2, 3)  # no two are alike
    large = PoolSupply(images, np.arange(1000) % 2, seed=3)
    asked = np.repeat([0, 1], [540, 60])
    labels, batches = large.draw(asked, "draw 0")
    assert large.follows(asked)
    # Four fifths of the first class are 400: a draw has 400 and 44 of them.
    assert np.bincount(labels).tolist() == [400, 44]
    assert len(np.unique(np.concatenate(list(batches)), axis=0)) == 444
    assert large.overlap(asked) == (400 * 0.8 + 44 * 44 / 500) / 444
    assert (large.overlap(asked, 0), large.overlap(asked, 1)) == (0.8, 44 / 500)
    # Where a class is missing, or too few would be left, the pool keeps its own proportions.
    assert not large.follows(np.repeat([0, 1, 2], [10, 10, 10]))
    lopsided = PoolSupply(large.images, np.repeat([0, 1], [990, 10]), seed=0)
    assert not lopsided.follows(np.repeat([0, 1], [100, 900]))
    assert np.bincount(lopsided.draw(np.repeat([0, 1], [100, 900]), "draw")[0])[0] > 700
    unlabelled = PoolSupply(large.images, None, seed=0)
    assert not unlabelled.follows(asked)
    assert unlabelled.overlap(asked) == 0.6


def test_images_of_a_class_repeat_only_when_all_have_been_given() -> None:
    given = numbers(pool(10).batches(np.array([1, 1, 0, 1, 1, 1, 1, 1]), "training"))
    ones = [number for place, number in enumerate(given) if place != 2]
    assert given[2] % 2 == 0
    assert sorted(ones[:5]) == [1, 3, 5, 7, 9]
    assert set(ones[5:]) < {1, 3, 5, 7, 9}
    assert pool().overlap(np.arange(40) % 2) == 0.8
    assert pool().has_class(1)
    assert not pool().has_class(2)


def test_the_whole_pool_may_be_taken_where_nothing_is_compared_between_draws() -> None:
    labels, batches = pool().draw(np.zeros(1000, dtype=np.int64), "authenticity", whole=True)
    assert sorted(numbers(batches)) == list(range(50))
    assert labels is not None
    assert len(labels) == 50


def test_a_generator_draws_the_classes_it_is_asked_for_and_the_same_images_again(tmp_path) -> None:
    settings = ["data.classes=nv,mel", "model.site-embedding=off", "stylegan2.channel-max=8", "stylegan2.latent-size=8"]
    configuration = resolve([parse_assignments(settings)])
    save_final(tmp_path, drawer_of(build_model(configuration)), configuration)
    final = load_final(tmp_path)
    supply = GeneratorSupply(final, seed=1)
    labels = np.array([1, 0, 0, 1, 1])
    heard, batches = supply.draw(labels, "scores")
    images = np.concatenate(list(batches))
    np.testing.assert_array_equal(heard, labels)
    np.testing.assert_array_equal(images, np.concatenate(list(supply.batches(labels, "scores"))))
    other = np.concatenate(list(supply.batches(labels, "another purpose")))
    assert (images != other).any()
    flipped = np.concatenate(list(supply.batches(1 - labels, "scores")))
    assert all((mine != its).any() for mine, its in zip(images, flipped, strict=True)), "the class is heard"
    assert supply.overlap(labels) == 0
    assert supply.follows(labels)
