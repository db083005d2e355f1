"""Runs whose generator is told hospitals: who is told which number, and what a run leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from smallest_run import configuration, run

import clients.questions
from clients.local_training import LocalResult, train_locally
from federation.config import parse_assignments
from federation.errors import ConfigurationError, RunDirectoryError
from federation.models.final import load_final
from server.inputs import prepare_inputs
from server.messaging import _check_counts
from strategies.configuration import resolve


@pytest.mark.usefixtures("without_pictures")
def test_each_hospital_trains_with_its_own_number(
    tmp_path: Path, cache_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the order of names, whoever takes part in a round; one model serves all of them, one after the other."""
    trained: list[tuple[int, int]] = []

    def spy(model: Any, dataset: Any, *arguments: Any, **more: Any) -> LocalResult:
        trained.append((model.site, len(dataset)))
        return train_locally(model, dataset, *arguments, **more)

    monkeypatch.setattr(clients.questions, "train_locally", spy)
    settings = configuration(tmp_path / "run", cache_dir, "rounds=6", "participation.fraction=0.5")
    run(settings)
    partition = prepare_inputs(settings).partition
    sizes = {number: len(partition.rows_of(name)) for number, name in enumerate(sorted(partition.hospitals))}
    assert len(set(sizes.values())) == 4
    assert len(trained) == 12
    assert {number for number, _ in trained} == set(sizes)
    assert all(sizes[number] == size for number, size in trained)


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("strategy", ["fed-tgan", "fedcar"])
def test_a_generator_without_classes_is_told_hospitals_too(strategy: str, tmp_path: Path, cache_dir: str) -> None:
    """The strategy asks for counts of classes, which are nothing to a generator that is told none."""
    assignments = [f"strategy.name={strategy}", "model.conditional=false"]
    run(configuration(tmp_path / "run", cache_dir, *assignments))
    description = json.loads((tmp_path / "run" / "final" / "model.json").read_text())
    weights = [entry["weights"] for entry in description["looks"]]
    assert [len(each) for each in weights] == [1] * 4
    assert sum(each[0] for each in weights) == pytest.approx(1, abs=0.002)
    generator = load_final(tmp_path / "run")
    assert len({generator.of_hospital(name).generate(4).sum().item() for name in generator.hospitals}) == 4


@pytest.mark.usefixtures("without_pictures")
def test_a_run_does_not_go_on_with_other_hospitals(tmp_path: Path, cache_dir: str) -> None:
    run(configuration(tmp_path / "run", cache_dir))
    (state,) = (tmp_path / "run" / "checkpoints").glob("*/state.json")
    entries = json.loads(state.read_text())
    first = min(entries["last_rounds"])
    entries["last_rounds"]["another-clinic"] = entries["last_rounds"].pop(first)
    state.write_text(json.dumps(entries))
    (tmp_path / "run" / "hospitals" / first).rename(tmp_path / "run" / "hospitals" / "another-clinic")
    with pytest.raises(RunDirectoryError) as caught:
        run(configuration(tmp_path / "run", cache_dir, "rounds=2", "resume=true"))
    assert caught.value.problems == (
        "another-clinic: took part in this run and is not there now; the generator is told hospitals, by the order of "
        "their names: go on with those that the run began with",
    )


@pytest.mark.parametrize("counts", [[5, 5, 1], [12, -2], [5, 4]])
def test_counts_that_cannot_be_are_refused(counts: list[int]) -> None:
    settings = resolve([parse_assignments(["data.classes=a,b"])])
    with pytest.raises(ConfigurationError) as caught:
        _check_counts(counts, 10, "clinic", settings)
    assert caught.value.problems == (
        f"hospital 'clinic' tells {counts} images of each class, and 10 in all: allowed is a number from 0 on for each "
        "of the 2 classes, which add up; its data.classes may be others",
    )
    _check_counts([5, 5], 10, "clinic", settings)
    _check_counts([], 10, "clinic", settings)
