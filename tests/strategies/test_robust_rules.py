"""The rules against liars, against plain loops in float64 that follow the papers' text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize
from three_numbers import Arrays, Hospital, answer, ask, play, strategy

from strategies.aggregation import Reply
from strategies.distances import krum_scores, squared_distances

SHAPES = {
    "generator.w": (4, 5),
    "generator.b": (),
    "generator_ema.w": (4, 5),
    "generator_ema.b": (),
    "discriminator.w": (8,),
}
DIMENSIONS = 50
CASES = [(seed, number, liars) for seed in range(3) for number, liars in ((7, 1), (9, 1), (10, 0), (11, 2))]


def drawn(seed: int, number: int, liars: int) -> list[Hospital]:
    """Models around one point, the last few far from it; of as many images as somebody happened to take."""
    stream = np.random.default_rng([seed, number, liars])
    centre, found = stream.normal(size=DIMENSIONS), []
    for position in range(number):
        flat = centre + stream.normal(size=DIMENSIONS) * (0.3 if position < number - liars else 5.0)
        found.append(Hospital(unflattened(flat), int(stream.integers(1, 500))))
    order = stream.permutation(number)
    return [found[position] for position in order]


def unflattened(flat: NDArray[np.float64]) -> Arrays:
    arrays, start = {}, 0
    for name, shape in SHAPES.items():
        size = int(np.prod(shape))
        arrays[name] = flat[start : start + size].reshape(shape).astype(np.float32)
        start += size
    return arrays


def flattened(arrays: Arrays) -> NDArray[np.float64]:
    return np.concatenate([arrays[name].astype(np.float64).ravel() for name in SHAPES])


def vectors(hospitals: Sequence[Hospital]) -> list[NDArray[np.float64]]:
    return [flattened(one.arrays) for one in hospitals]


def combine(hospitals: Sequence[Hospital], name: str, *options: str) -> NDArray[np.float64]:
    rule = strategy(f"strategy.name={name}", *options)
    return flattened(play(rule, unflattened(np.zeros(DIMENSIONS)), hospitals))


def replies(*models: Arrays) -> list[Reply]:
    hospitals = [Hospital(one) for one in models]
    rule = strategy()
    messages = [answer(question, one) for question, one in zip(ask(rule, models[0], hospitals), hospitals, strict=True)]
    return [Reply("a", message, message.content.array_records["arrays"], {}) for message in messages]


def squared_distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    total = 0.0
    for x, y in zip(one, other, strict=True):
        total += (x - y) ** 2
    return total


def score(position: int, models: Sequence[NDArray[np.float64]], malicious: int) -> float:
    """Blanchard et al. 2017, Section 4: over the n − f − 2 nearest; one at least, as our rule has it."""
    others = sorted(
        squared_distance(models[position], other) for number, other in enumerate(models) if number != position
    )
    return sum(others[: max(1, len(models) - malicious - 2)])


@pytest.mark.parametrize(("seed", "number", "liars"), CASES)
def test_krum_is_the_model_of_the_least_score(seed: int, number: int, liars: int) -> None:
    hospitals = drawn(seed, number, liars)
    models = vectors(hospitals)
    best = min(range(number), key=lambda position: score(position, models, liars))
    found = combine(hospitals, "krum", f"strategy.malicious={liars}")
    np.testing.assert_array_equal(found, models[best])


@pytest.mark.parametrize("selected", [0, 1, 3])
@pytest.mark.parametrize(("seed", "number", "liars"), CASES)
def test_multikrum_is_the_mean_of_the_least_scores(seed: int, number: int, liars: int, selected: int) -> None:
    hospitals = drawn(seed, number, liars)
    models = vectors(hospitals)
    chosen = sorted(range(number), key=lambda position: score(position, models, liars))[: selected or number - liars]
    expected = sum(models[position] for position in chosen) / len(chosen)
    options = (f"strategy.malicious={liars}", f"strategy.selected={selected}")
    np.testing.assert_allclose(combine(hospitals, "multikrum", *options), expected, rtol=1e-6, atol=1e-7)


def bulyan_choices(models: Sequence[NDArray[np.float64]], malicious: int) -> Iterator[tuple[int, ...]]:
    """Every set that Krum may choose one by one: of two that are one another's nearest either may go first."""

    def go_on(left: tuple[int, ...], chosen: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if len(chosen) == len(models) - 2 * malicious:
            yield tuple(sorted(chosen))
            return
        scores = [score(position, [models[number] for number in left], malicious) for position in range(len(left))]
        for number, value in zip(left, scores, strict=True):
            if value <= min(scores) * (1 + 1e-12):
                yield from go_on(tuple(one for one in left if one != number), (*chosen, number))

    yield from sorted(set(go_on(tuple(range(len(models))), ())))


def mean_around_median(models: Sequence[NDArray[np.float64]], number: int) -> NDArray[np.float64]:
    """El Mhamdi et al. 2018, Section 4: of each number the mean of those nearest to the median."""
    found = np.empty(DIMENSIONS)
    for position in range(DIMENSIONS):
        values = sorted(model[position] for model in models)
        middle = len(values) // 2
        median = values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2
        found[position] = np.mean(sorted(values, key=lambda value: abs(value - median))[:number])
    return found


@pytest.mark.parametrize(("seed", "number", "liars"), CASES)
def test_bulyan_is_the_mean_around_the_median_of_what_krum_chose(seed: int, number: int, liars: int) -> None:
    hospitals = drawn(seed, number, liars)
    models = vectors(hospitals)
    found = combine(hospitals, "bulyan", f"strategy.malicious={liars}")
    outcomes = [
        mean_around_median([models[position] for position in chosen], number - 4 * liars)
        for chosen in bulyan_choices(models, liars)
    ]
    assert any(np.allclose(found, outcome, rtol=1e-6, atol=1e-6) for outcome in outcomes)


def test_bulyan_does_not_take_all_of_krums_best_at_once() -> None:
    """Among these seeds are some where the paper's choice is another than Multi-Krum's first."""
    different = 0
    for seed in range(6):
        models = vectors(drawn(seed, 11, 2))
        at_once = tuple(sorted(sorted(range(11), key=lambda position: score(position, models, 2))[:7]))
        one_by_one = list(bulyan_choices(models, 2))
        if at_once in one_by_one:
            continue
        different += 1
        found = combine(drawn(seed, 11, 2), "bulyan", "strategy.malicious=2")
        assert not np.allclose(found, mean_around_median([models[position] for position in at_once], 3), atol=1e-6)
    assert different > 0


@pytest.mark.parametrize(("seed", "number", "liars"), CASES)
def test_the_median_is_that_of_each_number(seed: int, number: int, liars: int) -> None:
    hospitals = drawn(seed, number, liars)
    models = vectors(hospitals)
    expected = []
    for position in range(DIMENSIONS):
        values = sorted(model[position] for model in models)
        middle = number // 2
        expected.append(values[middle] if number % 2 else (values[middle - 1] + values[middle]) / 2)
    np.testing.assert_allclose(combine(hospitals, "fedmedian"), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("cut", [0.1, 0.2, 0.45])
@pytest.mark.parametrize(("seed", "number", "liars"), CASES)
def test_the_trimmed_mean_leaves_out_both_ends(seed: int, number: int, liars: int, cut: float) -> None:
    if cut * number < 1:
        cut = 1 / 7 + 1e-9  # one of seven, and one of nine
    hospitals = drawn(seed, number, liars)
    models = vectors(hospitals)
    least = int(cut * number)
    expected = []
    for position in range(DIMENSIONS):
        values = sorted(model[position] for model in models)
        expected.append(np.mean(values[least : number - least]))
    found = combine(hospitals, "fedtrimmedavg", f"strategy.trim={cut}")
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize(("seed", "number", "liars"), CASES)
def test_the_geometric_median_has_the_least_sum_of_distances(seed: int, number: int, liars: int) -> None:
    hospitals = drawn(seed, number, liars)
    models, shares = np.stack(vectors(hospitals)), np.full(number, 1 / number)

    def distances(point: NDArray[np.float64]) -> float:
        return float(shares @ np.sqrt(np.square(models - point).sum(axis=1)))

    def gradient(point: NDArray[np.float64]) -> NDArray[np.float64]:
        lengths = np.maximum(np.sqrt(np.square(models - point).sum(axis=1)), 1e-12)
        return np.asarray((shares / lengths) @ (point - models))

    found = combine(hospitals, "geometric-median")
    # From the best of the models, or from between them.
    starts = [min(models, key=distances), models.mean(axis=0)]
    best = min(minimize(distances, start, jac=gradient, method="BFGS").fun for start in starts)
    assert distances(found) <= min(best, distances(starts[0])) * (1 + 1e-6)


@pytest.mark.parametrize("name", ["krum", "multikrum", "bulyan", "fedmedian", "fedtrimmedavg", "geometric-median"])
@pytest.mark.parametrize("far", [1e3, 1e8, 1e15, 1e30])
def test_two_far_liars_of_eleven_move_nothing_out_of_the_honest_ones_reach(name: str, far: float) -> None:
    """However far, and however large they claim to be: a reply may hold any finite number."""
    options = () if name in ("fedmedian", "fedtrimmedavg", "geometric-median") else ("strategy.malicious=2",)
    for seed in range(3):
        honest = [Hospital(one.arrays, 1) for one in drawn(seed, 9, 0)]
        models = np.stack(vectors(honest))
        signs = (1, 1 - 2 * (seed % 2))
        liars = [Hospital(unflattened(sign * far * np.ones(DIMENSIONS)), 10**9) for sign in signs]
        found = combine([honest[0], *liars, *honest[1:]], name, *options)
        # Twice the distance of the farthest honest model from their middle: every proof gives no less.
        middle = np.median(models, axis=0)
        reach = 2 * max(np.linalg.norm(model - middle) for model in models)
        assert np.linalg.norm(found - middle) < reach


@pytest.mark.parametrize("far", [1e6, 1e9])
def test_krum_tells_honest_models_apart_beside_a_far_liar(far: float) -> None:
    """The liar must not decide which of the honest is taken, as it would if their distances drowned in its own."""
    hospitals = drawn(0, 8, 0)
    liar = Hospital(unflattened(far * np.random.default_rng(3).normal(size=DIMENSIONS)), 1)
    models = vectors([*hospitals, liar])
    best = min(range(9), key=lambda position: score(position, models, 1))
    np.testing.assert_array_equal(combine([*hospitals, liar], "krum", "strategy.malicious=1"), models[best])


# ---------------------------------------------------------------------- distances


MILLION = 1_000_003


def test_a_model_of_a_million_weights_is_at_no_distance_from_itself() -> None:
    """The expansion in float32 gave −0.0078."""
    weights = np.random.default_rng(0).normal(size=MILLION).astype(np.float32)
    one = {"generator.w": weights[:700_000].reshape(700, 1000), "discriminator.w": weights[700_000:]}
    found = squared_distances(replies(one, {name: value.copy() for name, value in one.items()}))
    assert found.tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_equal_models_are_at_no_distance_beside_others() -> None:
    """To rounding: a 1e-12 of the distance to the others."""
    stream = np.random.default_rng(0)
    one, other = ({"generator.w": stream.normal(size=MILLION).astype(np.float32)} for _ in range(2))
    found = squared_distances(replies(one, one, other))
    assert found[0, 1] <= 1e-12 * found[0, 2]
    assert np.array_equal(found, found.T)
    assert np.diag(found).tolist() == [0.0, 0.0, 0.0]


def test_the_distance_to_a_near_copy_is_right() -> None:
    stream = np.random.default_rng(0)
    one = stream.normal(size=MILLION).astype(np.float32)
    near = one.copy()
    near[::1000] += np.float32(1e-4)
    far = (one + stream.normal(size=MILLION)).astype(np.float32)
    models = [{"generator.w": value} for value in (one, near, far)]
    found = squared_distances(replies(*models))
    for first, second in combinations(range(3), 2):
        difference = models[first]["generator.w"].astype(np.float64) - models[second]["generator.w"]
        assert found[first, second] == pytest.approx(float(difference @ difference), rel=1e-6)
    assert 0 < found[0, 1] < 1e-4


def test_distances_are_over_all_entries() -> None:
    """A million weights in pieces, and scalars."""
    hospitals = drawn(4, 7, 1)
    found = squared_distances(replies(*(one.arrays for one in hospitals)))
    models = vectors(hospitals)
    expected = [[squared_distance(one, other) for other in models] for one in models]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_krums_scores_by_hand() -> None:
    points = np.array([0.0, 1, 3, 6, 100])
    distances = (points[:, None] - points[None, :]) ** 2
    assert krum_scores(distances, 1).tolist() == [10, 5, 13, 34, 94**2 + 97**2]
    assert krum_scores(distances, 0).tolist() == [46, 30, 22, 70, 94**2 + 97**2 + 99**2]
    # Where n − f − 2 is nothing, the nearest is counted.
    assert krum_scores(distances, 4).tolist() == [1, 1, 4, 9, 94**2]
