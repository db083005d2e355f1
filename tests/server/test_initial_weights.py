"""Training that continues from weights of ours: what is taken, what is named, what the run keeps."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from smallest_run import configuration, run

from data_partitions.holdings import find_holdings
from federation.config import Configuration
from federation.errors import DataError
from federation.models import build_model
from federation.models.initial import main as export
from federation.models.initial import read_initial, take
from federation.settings.data import DataSettings, PartitionSettings
from federation.sharing import named_tensors

CLASSES = "akiec,bcc,bkl,df,mel,nv,vasc"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, cache_dir: str) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("source") / "run"
    run(configuration(folder, cache_dir, "training.learning-rate=0.05"))
    return folder


def model_of(*assignments: str) -> tuple[Configuration, object]:
    settings = configuration(Path("unused"), "", f"data.classes={CLASSES}", *assignments)
    return settings, build_model(settings)


@pytest.mark.usefixtures("without_pictures")
def test_a_run_goes_on_from_another_and_keeps_what_it_began_with(source: Path, tmp_path: Path, cache_dir: str) -> None:
    still = ["training.learning-rate=1e-12", "training.ema-half-life-images=0", "training.ema-ramp=0"]
    copied = tmp_path / "copied"
    shutil.copytree(source, copied)
    screen = run(
        configuration(
            tmp_path / "run", cache_dir, f"model.initial={copied}", "strategy.private=discriminator", "seed=5", *still
        )
    )
    file = source / "checkpoints" / "round-0001" / "global.safetensors"
    before, kept = load_file(file), load_file(tmp_path / "run" / "initial.safetensors")
    rows = {"generator.mapping.site_embedding", "generator_ema.mapping.site_embedding"}
    assert kept.keys() == {name for name in before if not name.startswith("training.")} - rows
    assert all(torch.equal(value, before[name]) for name, value in kept.items())
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert (
        f"initial weights: {len(kept)} of {len(kept) + len(rows)} entries from {copied} (sha256 {digest[:12]})"
        in screen
    )
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["initial"]["sha256"] == digest
    # What is averaged and what stays at a hospital both begin with it: no step has moved either.
    after = load_file(tmp_path / "run" / "checkpoints" / "round-0001" / "global.safetensors")
    torch.testing.assert_close(after["generator.constant"], before["generator.constant"])
    (state, *_) = sorted((tmp_path / "run" / "hospitals").glob("*/round-0001.safetensors"))
    own = load_file(state)["network.discriminator.dense.weight"]
    torch.testing.assert_close(own, before["discriminator.dense.weight"])
    # The source may go: a resumed run has its own copy.
    shutil.rmtree(copied)
    resumed = ["rounds=2", "resume=true", f"model.initial={copied}", "strategy.private=discriminator", "seed=5"]
    assert "resumed after round 1" in run(configuration(tmp_path / "run", cache_dir, *resumed, *still))


@pytest.mark.usefixtures("without_pictures")
def test_an_exported_generator_begins_the_generator_and_its_average(source: Path) -> None:
    settings, model = model_of(f"model.initial={source / 'final'}")
    taken = take(read_initial(settings), model, settings.class_names)  # type: ignore[arg-type]
    exported = load_file(source / "final" / "generator.safetensors")
    assert torch.equal(taken.tensors["generator.constant"], exported["constant"])
    assert torch.equal(taken.tensors["generator_ema.constant"], exported["constant"])
    assert not any(name.startswith("discriminator.") for name in taken.tensors)
    (note,) = taken.notes
    assert note.startswith("not there, and begin at random: discriminator.")


@pytest.mark.usefixtures("without_pictures")
def test_class_rows_go_by_the_names_of_classes(source: Path) -> None:
    settings = configuration(Path("unused"), "", "data.classes=nv,scc,akiec", f"model.initial={source}")
    model = build_model(settings)
    random = named_tensors(model.networks)["generator.mapping.class_embedding"].clone()
    taken = take(read_initial(settings), model, settings.class_names)
    rows = taken.tensors["generator.mapping.class_embedding"]
    known = load_file(source / "checkpoints" / "round-0001" / "global.safetensors")["generator.mapping.class_embedding"]
    assert torch.equal(rows, torch.stack([known[5], random[1], known[0]]))
    assert taken.notes == ("classes that begin at random, as it does not know them: scc",)


@pytest.mark.usefixtures("without_pictures")
def test_other_shapes_are_named(source: Path) -> None:
    settings, model = model_of(f"model.initial={source}", "stylegan2.channel-base=64")
    taken = take(read_initial(settings), model, settings.class_names)  # type: ignore[arg-type]
    assert "generator.mapping.layers.0.weight" in taken.tensors
    assert "generator.to_rgb.3.weight" not in taken.tensors
    (note,) = taken.notes
    assert note.startswith("of other shapes there, and begin at random: generator.layers.")


@pytest.mark.usefixtures("without_pictures")
def test_the_parts_that_train_can_be_kept_in_one_small_file(source: Path, tmp_path: Path) -> None:
    export(str(source), str(tmp_path / "weights.safetensors"))
    settings, model = model_of(f"model.initial={tmp_path / 'weights.safetensors'}")
    initial = read_initial(settings)
    assert (initial.classes, initial.resolution) == (tuple(CLASSES.split(",")), 32)
    taken = take(initial, model, settings.class_names)  # type: ignore[arg-type]
    average = load_file(source / "final" / "generator.safetensors")["constant"]
    assert torch.equal(taken.tensors["generator.constant"], average.bfloat16().float())
    assert taken.notes == ()


def test_the_weights_that_come_along_fit_the_default() -> None:
    settings, model = model_of("model.initial=phantoms", "stylegan2.channel-max=64", "stylegan2.latent-size=128")
    initial = read_initial(settings)
    assert initial.file.stat().st_size < 5e6
    assert take(initial, model, settings.class_names).notes == ()  # type: ignore[arg-type]


def test_the_weights_that_come_along_never_met_a_test_image_of_the_default() -> None:
    """They were trained on the training part of 20,000 phantoms (docs/learning.md), of which the default's are some."""
    ours = find_holdings(DataSettings(), PartitionSettings(), 32)
    theirs = find_holdings(DataSettings(phantom_images=20_000), PartitionSettings(hospitals=1), 32)
    tested, met = set(ours.index.groups[ours.parts == "test"]), set(theirs.index.groups[theirs.parts == "train"])
    assert len(tested) > 300
    assert set(ours.index.groups) <= set(theirs.index.groups)
    assert not tested & met


def test_what_cannot_be_taken_is_refused_by_name(tmp_path: Path, source: Path) -> None:
    def refused(*assignments: str) -> str:
        settings, model = model_of(*assignments)
        with pytest.raises(DataError) as caught:
            take(read_initial(settings), model, settings.class_names)  # type: ignore[arg-type]
        return str(caught.value)

    assert "does not exist; give a run's directory" in refused(f"model.initial={tmp_path / 'nothing'}")
    (tmp_path / "empty").mkdir()
    assert "holds no weights" in refused(f"model.initial={tmp_path / 'empty'}")
    (tmp_path / "text.safetensors").write_text("no weights")
    assert "cannot be read as a safetensors file" in refused(f"model.initial={tmp_path / 'text.safetensors'}")
    assert "draw 32 px, and model.resolution = 64" in refused(f"model.initial={source}", "model.resolution=64")
    spoiled = {"generator.constant": torch.full((1, 8, 4, 4), np.nan)}
    save_file(spoiled, tmp_path / "spoiled.safetensors")
    assert "not finite in generator.constant" in refused(f"model.initial={tmp_path / 'spoiled.safetensors'}")
    save_file({"decoder.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    assert "nothing of" in refused(f"model.initial={tmp_path / 'other.safetensors'}")
