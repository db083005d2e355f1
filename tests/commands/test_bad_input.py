"""Wrong input: exit code 2, one clear message with the remedy, no traceback, nothing written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands.main import _exit_code, _script, cli
from federation.config import parse_assignments, schema
from federation.models import build_model
from federation.models.drawing import drawer_of
from federation.models.final import save_final
from federation.toml_files import with_end
from strategies.configuration import resolve


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run the command in this process: everything here must end before workers start."""
    try:
        code = _exit_code(lambda: _script(list(arguments)))
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    return code, capsys.readouterr().err


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eighty images of two classes with a csv; two images of each patient."""
    root = tmp_path / "images"
    root.mkdir()
    rows = ["image,label,patient"]
    for number in range(80):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"i{number}.png")
        rows.append(f"i{number}.png,{'nv' if number % 2 else 'mel'},p{number // 2}")
    (root / "list.csv").write_text("\n".join(rows) + "\n")
    return root


def test_unknown_key(capsys: pytest.CaptureFixture[str]) -> None:
    code, errors = run("--set", "modle.name=x", "--set", "rounds=zero", capsys=capsys)
    assert (code, errors) == (
        2,
        "error: modle.name (--set): unknown key; the nearest known key is model.name\n"
        "error: rounds = 'zero' (--set): allowed is a whole number >= 1; the default is 350\n",
    )


def test_missing_preset(capsys: pytest.CaptureFixture[str]) -> None:
    code, errors = run("--config", "nowhere.toml", capsys=capsys)
    assert code == 2
    assert errors.startswith("error: --config nowhere.toml: cannot be read")


def test_resolution_that_is_no_power_of_two(capsys: pytest.CaptureFixture[str]) -> None:
    code, errors = run("--set", "model.resolution=48", capsys=capsys)
    assert (code, errors) == (2, "error: model.resolution = 48: allowed is a power of two: 32, 64, 128, 256 or 512\n")


def test_missing_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = tmp_path / "run"
    code, errors = run(
        "--set",
        "data.source=ham10000",
        "--set",
        f"data.root={tmp_path / 'no'}",
        "--run-dir",
        str(run_dir),
        capsys=capsys,
    )
    assert code == 2
    assert str(tmp_path / "no") in errors
    assert errors.count("error:") == 1
    assert not run_dir.exists()


def test_csv_without_the_column(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, errors = run(
        "--set", "data.source=folder", "--set", f"data.root={folder}", "--set", "data.label-column=diagnosis",
        "--run-dir", str(tmp_path / "run"), capsys=capsys,
    )  # fmt: skip
    assert code == 2
    assert "diagnosis" in errors
    assert "label" in errors  # the columns that there are
    assert not (tmp_path / "run").exists()


def test_class_without_images(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, errors = run(
        "--set", "data.source=folder", "--set", f"data.root={folder}", "--set", "data.classes=mel,nv,bcc",
        "--run-dir", str(tmp_path / "run"), capsys=capsys,
    )  # fmt: skip
    assert code == 2
    assert "bcc" in errors
    assert not (tmp_path / "run").exists()


def test_more_hospitals_than_groups(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, errors = run(
        "--set", "data.source=folder", "--set", f"data.root={folder}", "--set", "data.group-column=patient",
        "--set", "partition.scheme=iid", "--set", "partition.hospitals=50", "--set", "partition.min-images=1",
        "--run-dir", str(tmp_path / "run"), capsys=capsys,
    )  # fmt: skip
    assert code == 2
    assert "partition.hospitals" in errors
    assert not (tmp_path / "run").exists()


def test_what_was_left_out_is_said_before_the_error_that_comes_of_it(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows = (folder / "list.csv").read_text().splitlines()
    (folder / "list.csv").write_text("\n".join([*rows, "i0.png,mel,p0", "gone.png,nv,p0"]) + "\n")
    common = ["--set", "data.source=folder", "--set", f"data.root={folder}", "--set", f"data.cache-dir={tmp_path}",
              "--set", "partition.hospitals=1", "--run-dir", str(tmp_path / "run")]  # fmt: skip
    notes = (
        "data: 1 repeated row of list.csv was left out (i0.png)\n"
        "data: 1 row of list.csv has no image file and was left out (gone.png)\n"
    )
    code, errors = run(*common, "--set", "partition.min-images=999", capsys=capsys)
    assert code == 2
    assert errors.startswith(f"{notes}error: partition.min-images = 999: too few training images at all ")
    # Nor is it lost where the source itself comes to nothing.
    code, errors = run(*common, "--set", "data.classes=mel", capsys=capsys)
    assert code == 2
    assert errors.startswith(f"{notes}error: {folder}: there are images of classes that data.classes = 'mel' does not")
    assert not (tmp_path / "run").exists()


def test_existing_run_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.toml").write_text(schema()().to_toml())
    code, errors = run("--run-dir", str(tmp_path), capsys=capsys)
    assert (code, errors) == (
        2,
        f"error: run directory {tmp_path}: exists already; give another --run-dir, remove it, or continue it with "
        "--resume\n",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]


@pytest.mark.parametrize("command", ["simulate", "report"])
def test_a_configuration_that_a_copy_has_cut_is_not_filled_with_defaults(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = with_end(schema()().to_toml()).splitlines(keepends=True)
    (tmp_path / "config.toml").write_text("".join(lines[:-3]))
    if command == "simulate":
        code, errors = run("--run-dir", str(tmp_path), "--resume", capsys=capsys)
    else:
        code, errors = _exit_code(lambda: cli(["report", str(tmp_path)])), capsys.readouterr().err
    assert (code, errors) == (
        2,
        f"error: {tmp_path / 'config.toml'}: has been cut short, its last line is missing; put it back from a copy\n",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]


def test_resume_without_a_directory(capsys: pytest.CaptureFixture[str]) -> None:
    code, errors = run("--resume", capsys=capsys)
    assert code == 2
    assert "give --run-dir DIR as well" in errors


def test_resume_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "holiday.jpg").touch()
    code, errors = run("--resume", "--run-dir", str(tmp_path), capsys=capsys)
    assert code == 2
    assert "has no config.toml to resume" in errors


def test_wrong_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--rounds", "3", capsys=capsys)[0] == 2


# ---------------------------------------------------------------- families of models


def test_a_strategy_that_a_family_cannot_follow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = tmp_path / "run"
    code, errors = run(
        "--set", "model.name=vae", "--set", "strategy.name=md-gan", "--run-dir", str(run_dir), capsys=capsys
    )  # fmt: skip
    assert (code, errors) == (
        2,
        "error: strategy.name = 'md-gan': hospitals train a discriminator and the server the generator, and "
        "model.name = vae has no such pair; choose another strategy.name, or model.name=stylegan2\n",
    )
    assert not run_dir.exists()


def test_an_option_of_another_family(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = tmp_path / "run"
    code, errors = run("--set", "vae.beta=2.5", "--run-dir", str(run_dir), capsys=capsys)
    assert (code, errors) == (
        2,
        "error: vae.beta = 2.5: is an option of model.name = vae, and here model.name = stylegan2; leave it out, or "
        "set model.name=vae\n",
    )
    assert not run_dir.exists()


def test_a_family_that_there_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = tmp_path / "run"
    code, errors = run("--set", "model.name=diffusion", "--run-dir", str(run_dir), capsys=capsys)
    assert (code, errors) == (2, "error: model.name = 'diffusion': allowed is one of stylegan2, vae\n")
    assert not run_dir.exists()


def test_a_private_part_that_a_family_has_not(
    tmp_path: Path, cache_dir: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    code, errors = run(
        "--set", "model.name=vae", "--set", "strategy.private=generator", "--set", "data.phantom-images=400",
        "--set", "partition.min-images=1", "--set", "simulation.engine=in-process",
        "--set", f"data.cache-dir={cache_dir}", "--run-dir", str(run_dir), capsys=capsys,
    )  # fmt: skip
    assert (code, errors) == (
        2,
        "error: strategy.private = 'generator': no network or layer has this name; give a network (decoder, "
        "decoder_ema, encoder, encoder_ema) or the beginning of a parameter's name\n",
    )
    assert not run_dir.exists()


@pytest.mark.parametrize("channels", ["", "stylegan2.channel-max=8"], ids=["defaults", "options of its own"])
def test_resume_with_another_family(channels: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = resolve([parse_assignments([channels] if channels else [])]).to_toml()
    (tmp_path / "config.toml").write_text(text)
    code, errors = run("--resume", "--run-dir", str(tmp_path), "--set", "model.name=vae", capsys=capsys)
    assert (code, errors) == (
        2,
        "error: model.name: the run was started with 'stylegan2' and cannot go on with 'vae'; set model.name back\n",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]
    assert (tmp_path / "config.toml").read_text() == text


def test_a_key_of_an_earlier_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preset, run_dir = tmp_path / "mine.toml", tmp_path / "run"
    preset.write_text("[model]\nchannel-max = 16\n")
    code, errors = run("--config", str(preset), "--run-dir", str(run_dir), capsys=capsys)
    assert (code, errors) == (
        2,
        f"error: model.channel-max ({preset}): is called stylegan2.channel-max now; write that in its place\n",
    )
    assert not run_dir.exists()


@pytest.mark.parametrize(("family", "other"), [("stylegan2", "vae"), ("vae", "stylegan2")])
def test_a_final_folder_whose_description_is_of_another_family(
    family: str, other: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (family, other):
        fixed = ["data.classes=nv,mel,bcc", f"model.name={name}", f"{name}.channel-max=8", f"{name}.latent-size=8"]
        fixed.append("model.site-embedding=off")
        configuration = resolve([parse_assignments(fixed)])
        save_final(tmp_path / name, drawer_of(build_model(configuration)), configuration)
    final, out = tmp_path / family, tmp_path / "out"
    (final / "model.json").write_text((tmp_path / other / "model.json").read_text())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for arguments in (
        ("generate", str(final), "--count=1", f"--out={out}"),
        ("evaluate", str(final), "--data=phantom", f"--out={out}"),
    ):
        assert _exit_code(lambda arguments=arguments: cli(list(arguments))) == 2
        errors = capsys.readouterr().err
        assert errors.splitlines()[0] == (
            f"error: {final}: its files do not belong together or are damaged; copy all of them from one finished run"
        )
        assert "Traceback" not in errors
        assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_run_directory_that_cannot_be_written_is_refused_before_images_are_read(
    user: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (user / "run").mkdir(mode=0o555)
    code, errors = run(
        "--run-dir", str(user / "run"), "--set", f"data.cache-dir={user / 'cache'}",
        "--set", "simulation.engine=in-process", "--set", "data.phantom-images=200",
        capsys=capsys,
    )  # fmt: skip
    assert (code, errors) == (
        2,
        f"error: run directory {user / 'run'}: cannot be written (Permission denied); give another --run-dir, or make "
        "it writable\n",
    )
    assert [path.name for path in user.iterdir()] == ["run"]
