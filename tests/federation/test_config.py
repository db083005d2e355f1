"""The schema, its layers and its error messages."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.config import (
    Configuration,
    Layer,
    augmentation_transforms,
    flower_table,
    load_toml,
    parse_assignments,
    resolve,
)
from federation.errors import ConfigurationError

REPOSITORY = Path(__file__).resolve().parents[2]


def problems_of(*assignments: str) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        resolve([parse_assignments(assignments)])
    return caught.value.problems


def test_pyproject_holds_the_generated_table() -> None:
    pyproject = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    generated = tomllib.loads(flower_table())
    assert pyproject["tool"]["flwr"]["app"]["config"] == generated["tool"]["flwr"]["app"]["config"]


def test_flat_and_toml_round_trip(tmp_path: Path) -> None:
    configuration = resolve([parse_assignments(["training.batch-size=8", "data.classes=a,b", "partition.alpha=1"])])
    assert resolve([Layer("flat", configuration.to_flat())]) == configuration
    path = tmp_path / "config.toml"
    path.write_text(configuration.to_toml(), encoding="utf-8")
    assert resolve([load_toml(path)]) == configuration
    assert configuration.class_names == ("a", "b")
    assert configuration.partition.alpha == 1.0


def test_flat_values_are_what_flower_takes() -> None:
    assert {type(value) for value in Configuration().to_flat().values()} <= {int, float, bool, str}


def test_later_layers_win() -> None:
    configuration = resolve([Layer("file", {"rounds": 3, "seed": 5}), Layer("--set", {"rounds": 7})])
    assert (configuration.rounds, configuration.seed) == (7, 5)


def test_all_problems_are_given_at_once_with_remedy() -> None:
    assert problems_of(
        "modle.resolution=3", "seed=-1", "data.source=ham", "rounds=2.5", "training.flips=1", "training.batch-size=x"
    ) == (
        "modle.resolution (--set): unknown key; the nearest known key is model.resolution",
        "seed = -1 (--set): allowed is a whole number >= 0; the default is 0",
        "rounds = 2.5 (--set): allowed is a whole number >= 1; the default is 24",
        "data.source = 'ham' (--set): allowed is one of phantom, ham10000, isic2019, isic2020, folder, huggingface; "
        "the default is 'phantom'",
        "training.batch-size = 'x' (--set): allowed is a whole number >= 2 and <= 4096; the default is 8",
        "training.flips = 1 (--set): allowed is true or false; the default is True",
    )


def test_sets_of_transforms() -> None:
    assert len(augmentation_transforms("bgc")) == 12
    assert set(augmentation_transforms("bgc")) - set(augmentation_transforms("dermoscopy")) == {"luma-flip", "hue"}
    assert augmentation_transforms("bgc,-luma-flip,-hue") == augmentation_transforms("dermoscopy")
    assert augmentation_transforms("rotate90, x-flip") == ("x-flip", "rotate90")
    assert augmentation_transforms("dermoscopy,-bgc,hue") == ("hue",)
    with pytest.raises(ValueError, match="'hues' is no transform; allowed are bgc, dermoscopy, x-flip, "):
        augmentation_transforms("bgc,-hues")


@pytest.mark.parametrize(
    ("assignments", "problem"),
    [
        (
            ["augmentation.transforms=bgc,blur"],
            "augmentation.transforms = 'bgc,blur': 'blur' is no transform; allowed are bgc, dermoscopy, x-flip, "
            "rotate90, integer-translation, scale, rotation, anisotropic-scale, fractional-translation, brightness, "
            "contrast, luma-flip, hue, saturation, each left out with a minus before it",
        ),
        (
            ["augmentation.name=ada", "augmentation.transforms=bgc,-bgc"],
            "augmentation.transforms = 'bgc,-bgc': leaves no transform; name one, e.g. dermoscopy, or set "
            "augmentation.name=none",
        ),
        (
            ["augmentation.name=fixed"],
            "augmentation.p = 0: augmentation.name = fixed would change nothing; set augmentation.p=0.2, say",
        ),
        (
            ["model.minibatch-std=3"],
            "model.minibatch-std = 3: allowed is a divisor of training.batch-size = 8 from 2 on, so that groups are "
            "whole and differ within, or 0",
        ),
        (
            ["model.conditional=false", "training.label-dropout=0.1"],
            "training.label-dropout = 0.1: model.conditional = false has no class to hide; set it to 0",
        ),
        (
            ["rounds=2", "training.local-steps=10", "training.transition-images=200.0"],
            "training.transition-start-images + training.transition-images = 200: a hospital is shown 160 images in "
            "all (rounds x local-steps x batch-size), so that the class would never be fully heard; lower them, or set "
            "more rounds",
        ),
        (
            ["strategy.averaged-state=ada-p"],
            "strategy.averaged-state = 'ada-p': there is none to average; leave it out, or set augmentation.name=ada",
        ),
        (
            ["augmentation.p=0.2"],
            "augmentation.p = 0.2: augmentation.name = none has no probability; set augmentation.p=0, or "
            "augmentation.name=fixed",
        ),
        (
            ["strategy.averaged-state=adam"],
            "strategy.averaged-state = 'adam': 'adam' is not known; allowed are ada-p, path-length-mean",
        ),
    ],
)
def test_contradictions_of_a_recipe(assignments: list[str], problem: str) -> None:
    assert problems_of(*assignments) == (problem,)


def test_contradictions() -> None:
    assert problems_of(
        "model.resolution=48", "training.local-epochs=1", "training.local-steps=3", "data.source=folder"
    ) == (
        "model.resolution = 48: allowed is a power of two: 32, 64, 128, 256 or 512",
        "training.local-steps = 3 and training.local-epochs = 1: give one of them",
        "data.root is empty: data.source = folder needs a folder; set data.root=/path/to/the/images",
    )


def test_a_layer_without_channels_is_refused() -> None:
    assert problems_of("model.channel-base=32", "model.resolution=64")[0].startswith(
        "model.channel-base = 32: allowed is at least model.resolution = 64"
    )


def test_paths_become_absolute() -> None:
    configuration = resolve([parse_assignments(["run-dir=runs/x", "data.cache-dir=~/cache"])]).with_absolute_paths()
    assert configuration.run_dir == str(Path.cwd() / "runs" / "x")
    assert configuration.data.cache_dir == str(Path.home() / "cache")
    assert configuration.data.root == ""


def test_local_epochs_replace_local_steps() -> None:
    training = resolve([parse_assignments(["training.local-epochs=0.5"])]).training
    assert (training.local_epochs, training.local_steps) == (0.5, 0)


def test_an_assignment_without_a_value_is_refused() -> None:
    assert problems_of("rounds")[0] == "--set rounds: is not KEY=VALUE; write for example --set rounds=10"


def test_a_text_key_takes_what_looks_like_a_number() -> None:
    configuration = resolve([parse_assignments(["data.classes=1,2", "name=3"])])
    assert (configuration.data.classes, configuration.name) == ("1,2", "3")


@pytest.mark.parametrize("content", [b"rounds = = 3", b"\xff\xfe"])
def test_a_file_that_is_no_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="broken.toml: is not"):
        load_toml(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none.toml: cannot be read \(No such file or directory\)"):
        load_toml(tmp_path / "none.toml")


@given(st.text(min_size=1).filter(lambda key: key not in Configuration().to_flat()))
def test_no_unknown_key_passes(key: str) -> None:
    with pytest.raises(ConfigurationError, match="unknown key; the nearest known key is"):
        resolve([Layer("test", {key: 1})])


@pytest.mark.parametrize("preset", sorted((REPOSITORY / "conf").glob("[!b]*.toml")), ids=lambda path: path.stem)
def test_every_preset_resolves(preset: Path) -> None:
    resolve([load_toml(preset), Layer("test", {"data.root": "somewhere"})])
