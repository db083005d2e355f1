"""Real images beside hospitals: of other patients, and of the hospital itself or of all."""

from __future__ import annotations

import numpy as np
import pytest

from data_partitions.image_index import ImageIndex
from federation.config import parse_assignments
from server.evaluation.scores import RealSet, SiteReference
from server.evaluation.site_yardsticks import thinned, with_real_images
from server.inputs import RunInputs, prepare_inputs
from strategies.configuration import resolve


def inputs_of(scheme: str, cache_dir: str) -> RunInputs:
    settings = [
        f"partition.scheme={scheme}", "partition.hospitals=4", "partition.min-images=1", "data.phantom-images=400",
        f"data.cache-dir={cache_dir}", "simulation.engine=in-process",
    ]  # fmt: skip
    return prepare_inputs(resolve([parse_assignments(settings)]))


def features(rows: np.ndarray) -> np.ndarray:
    """Of a row its number, so that it can be told which image stands where."""
    return rows[:, None].astype(float)


def groups(index: ImageIndex, found: np.ndarray) -> set[str]:
    return set(index.groups[found[:, 0].astype(int)])


@pytest.mark.parametrize("scheme", ["natural", "iid"])
def test_they_are_of_other_patients_and_of_the_hospital(scheme: str, cache_dir: str) -> None:
    inputs = inputs_of(scheme, cache_dir)
    index, test, train = inputs.index, inputs.rows("test"), inputs.choose("train", len(inputs.rows("test")))
    held = {name: thinned(inputs.partition.rows_of(name), len(test)) for name in inputs.partition.hospitals}
    if scheme == "natural":
        held = {name: test[index.sites[test] == name] for name in sorted(set(index.sites[test]))}
    found = with_real_images(
        SiteReference({name: features(rows) for name, rows in held.items()}, "said"),
        RealSet(features(test), index.labels[test], index.sites[test]),
        features(train),
        inputs=inputs,
        features=features,
        part="test",
        are_sites=scheme == "natural",
    )
    assert found.own.keys() == held.keys() == found.features.keys()
    assert len(held) >= 3
    assert found.everyone is not None
    for name, rows in held.items():
        ours, others = found.own[name]
        assert len(ours) > 0
        assert len(others) > 0
        assert not groups(index, ours) & groups(index, others)
        assert not groups(index, features(rows)) & groups(index, found.everyone)
        both = np.concatenate([ours, others])[:, 0].astype(int)
        if scheme == "natural":
            assert set(index.sites[both]) == {name}
            assert set(ours[:, 0]) == set(rows)
            assert len(others) <= len(rows)
        else:
            assert sorted(both) == sorted(rows)
    assert ("training images of the site" in found.real_say) == (scheme == "natural")


def test_thinned_rows_are_spread_and_no_more_than_asked() -> None:
    assert thinned(np.arange(10), 4).tolist() == [0, 3, 6, 9]
    assert thinned(np.arange(10), 10).tolist() == list(range(10))
