"""A run that version 2682e7d wrote, before there were families of models, goes on under this one.

``run-of-2682e7d.tar.xz`` holds two rounds of FedAdam at two hospitals, no more of it than a resume reads, and what that
version itself has after a third: global entries and the strategy's moments.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import server.app
from clients.hospital import _cached_holdings
from clients.questions import load_cached_hospital
from commands.main import _exit_code, _script
from data_partitions import partition
from federation.config import load_stored_toml
from federation.models.final import load_final
from federation.run_directory import read_lines
from federation.seeding import numpy_stream
from server.evaluation.evaluator import Evaluator
from server.evaluation.run_extractor import extractor_of
from server.inputs import prepare_inputs
from strategies.configuration import resolve


@pytest.fixture(scope="module", autouse=True)
def _who_held_what() -> Iterator[None]:
    """Patients were shuffled by NumPy then; it is their order alone that keeps such a run from going on today."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            partition,
            "_keyed_order",
            lambda groups, seed: numpy_stream(seed, "partition").permutation(len(groups)),
        )
        # What hospitals of other tests in this process have found is of today's order, and ours is of none of theirs.
        _forget()
        yield
        _forget()


def _forget() -> None:
    _cached_holdings.cache_clear()
    load_cached_hospital.cache_clear()


ARCHIVE = Path(__file__).with_name("run-of-2682e7d.tar.xz")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory, cache_dir: str) -> Path:
    """The run and what came of it, as if it had been made on this machine."""
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    run_dir = folder / "run"
    config = run_dir / "config.toml"
    text = config.read_text()
    for key, path in (("run-dir", run_dir), ("cache-dir", cache_dir)):
        (line,) = (line for line in text.splitlines() if line.startswith(f"{key} = "))
        text = text.replace(line, f'{key} = "{path}"')
    config.write_text(text)
    # The extractor was trained there; its last bits, and so its name, are of a processor.
    inputs = prepare_inputs(resolve([load_stored_toml(config)]))
    extractor, _ = extractor_of(inputs, device=torch.device("cpu"), progress=lambda *steps: None)
    lines = [line | {"extractor": extractor.name} for line in read_lines(run_dir / "metrics.jsonl")]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def resumed(unpacked: Path, run_dir: Path) -> Path:
    """Let a copy of the run go on to round 3, as a person does."""
    shutil.copytree(unpacked / "run", run_dir)
    arguments = ["--resume", "--run-dir", str(run_dir), "--set", "rounds=3"]
    try:
        code = _exit_code(lambda: _script(arguments))
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    assert code == 0
    return run_dir


def differences(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> np.ndarray:
    """How far apart two sets of entries are, number by number."""
    assert found.keys() == expected.keys()
    return np.concatenate([np.abs(found[name] - value).reshape(-1) for name, value in expected.items()])


def test_it_goes_on_as_the_version_that_wrote_it(
    unpacked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = resumed(unpacked, tmp_path / "run")
    assert "resumed after round 2" in capsys.readouterr().out
    newest = run_dir / "checkpoints" / "round-0003"
    for name in ("global.safetensors", "strategy.safetensors"):
        expected = load_file(unpacked / "after-round-3" / name)
        apart = differences(load_file(newest / name), expected)
        # On the processor that it was made on there is no difference. On others Adam's steps of gradients that are
        # nothing but rounding have either sign.
        assert np.mean(apart > 1e-4) < 0.001, name
        assert apart.max() < 2e-3, name
    state = json.loads((newest / "state.json").read_text())
    assert (state["round"], state["num_images"]) == (3, 48)
    assert state["last_rounds"] == {"hospital-00": 3, "hospital-01": 3}
    lines = read_lines(run_dir / "metrics.jsonl")
    assert [line["round"] for line in lines] == [0, 1, 2, 3]
    assert [line["images"] for line in lines] == [0, 16, 32, 48]
    # What that version did not count follows from the images; the third round is counted.
    counted = sum(line["num_evaluations"] for line in read_lines(run_dir / "hospitals.jsonl") if line["round"] == 3)
    per_image = resolve([load_stored_toml(run_dir / "config.toml")]).anatomy.evaluations
    assert "evaluations" not in lines[2]
    assert state["num_evaluations"] == lines[3]["evaluations"] == round(32 * per_image) + counted
    # From here on it is a run of this version.
    values = load_stored_toml(run_dir / "config.toml").values
    assert (values["stylegan2.channel-max"], values["stylegan2.latent-size"]) == (8, 8)
    assert "model.channel-max" not in values
    assert load_final(run_dir).resolution == 32
    assert json.loads((run_dir / "summary.json").read_text())["status"] == "done"


def test_without_the_moments_or_hospitals_state_it_would_go_elsewhere(
    unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the test above would prove nothing."""
    monkeypatch.setattr(server.app, "write_report", lambda directory: None)
    monkeypatch.setattr(Evaluator, "write_sample_sheet", lambda evaluator, model, server_round: None)
    expected = load_file(unpacked / "after-round-3" / "global.safetensors")
    for number, pattern in enumerate(("checkpoints/round-0002/strategy.safetensors", "hospitals/*/*.safetensors")):
        spoiled = tmp_path / f"spoiled-{number}"
        shutil.copytree(unpacked / "run", spoiled / "run")
        files = sorted((spoiled / "run").glob(pattern))
        assert files
        for file in files:
            tensors = load_file(file)
            save_file(
                {
                    name: np.zeros_like(value) if "/m/" in name or "/v/" in name or "exp_avg" in name else value
                    for name, value in tensors.items()
                },
                file,
            )
        run_dir = resumed(spoiled, spoiled / "resumed")
        found = load_file(run_dir / "checkpoints" / "round-0003" / "global.safetensors")
        assert np.mean(differences(found, expected) > 1e-4) > 0.5


def test_of_other_holders_it_is_said_what_they_come_from(
    unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(partition, "_keyed_order", lambda groups, seed: np.arange(len(groups))[::-1])
    shutil.copytree(unpacked / "run", tmp_path / "run")
    assert _exit_code(lambda: _script(["--resume", "--run-dir", str(tmp_path / "run"), "--set", "rounds=3"])) == 2
    assert "dermafed ordered patients otherwise before" in capsys.readouterr().err


def test_its_settings_are_those_of_today_under_their_new_names(unpacked: Path) -> None:
    configuration = resolve([load_stored_toml(unpacked / "run" / "config.toml")])
    flat = configuration.to_flat()
    assert flat["stylegan2.channel-base"] == 32
    assert flat["stylegan2.loss"] == "relativistic"
    assert flat["stylegan2.augmentation.name"] == "none"
    assert flat["strategy.fairness-loss"] == "auto"
