"""A generator alone: its two files, and what it draws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import nn

from federation.config import Configuration, parse_assignments
from federation.errors import DataError, InputError
from federation.models import build_model
from federation.models.drawing import drawer_of
from federation.models.final import FinalGenerator, load_final, save_final
from federation.models.stylegan2.family import ARCHITECTURE
from federation.models.stylegan2.settings import StyleGAN2Settings
from federation.models.stylegan2.step import StyleGAN2
from federation.seeding import torch_stream
from strategies.configuration import resolve


def small(*assignments: str) -> Configuration:
    fixed = ["data.classes=a,b,c", "stylegan2.channel-max=16", "stylegan2.latent-size=16", "training.precision=fp32"]
    return resolve([parse_assignments([*fixed, "model.site-embedding=off", *assignments])])


def trained(configuration: Configuration) -> StyleGAN2:
    """A model whose noise and mean of w are not their initial zeros."""
    model = build_model(configuration)
    assert isinstance(model, StyleGAN2)
    with torch.no_grad():
        model.generator_ema.mapping.w_mean.normal_(generator=torch_stream(0, "test"))
        for layer in model.generator_ema.layers:
            layer.noise_strength.fill_(0.3)  # type: ignore[operator, union-attr]
    return model


def saved(folder: Path, *assignments: str) -> Path:
    configuration = small(*assignments)
    save_final(folder, drawer_of(trained(configuration)), configuration)
    return folder


@pytest.fixture(scope="module")
def final(tmp_path_factory: pytest.TempPathFactory) -> FinalGenerator:
    return load_final(saved(tmp_path_factory.mktemp("final")))


def network_of(final: FinalGenerator) -> nn.Module:
    assert isinstance(final.network, nn.Module)
    return final.network


def edit(folder: Path, **changes: Any) -> Path:
    """Change entries of a folder's model.json."""
    file = folder / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


def problems(path: Path) -> tuple[str, ...]:
    with pytest.raises(DataError) as caught:
        load_final(path)
    return caught.value.problems


# ---------------------------------------------------------------- files


def test_a_generator_is_read_back_with_its_bits(tmp_path: Path) -> None:
    configuration = small()
    model = trained(configuration)
    save_final(tmp_path / "run" / "final", drawer_of(model), configuration)
    save_final(tmp_path / "again", drawer_of(model), configuration)
    weights = (tmp_path / "again" / "generator.safetensors").read_bytes()
    assert weights == (tmp_path / "run" / "final" / "generator.safetensors").read_bytes()
    assert b"__metadata__" not in weights
    # The folder as a text, the folder, the run.
    for path in (str(tmp_path / "again"), tmp_path / "again", tmp_path / "run"):
        final = load_final(path)
        assert final.classes == ("a", "b", "c")
        weights_read = network_of(final).state_dict()
        for name, value in model.generator_ema.state_dict().items():
            assert torch.equal(weights_read[name], value), name
    # The same images as the model that was saved, drawn as one whole chunk.
    images = final.generate(5, seed=3, truncation=0.7)
    stream = torch_stream(3, "generate", server_round=0)
    expected = drawer_of(model).generate(torch.arange(32) % 3, 32, stream, truncation=0.7)
    assert torch.equal(images, expected[:5])


def test_loading_and_drawing_leave_the_process_as_it_was(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    threads, stream = torch.get_num_threads(), torch.get_rng_state()
    load_final(folder).generate(3, threads=2)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), stream)


def test_another_format_is_refused(tmp_path: Path) -> None:
    folder = edit(saved(tmp_path), format=1)
    assert problems(folder) == (
        f"{folder / 'model.json'}: the generator is of format 1, and this version of dermafed reads formats 2 to 4; "
        "train or export it again with this version",
    )


def test_what_format_4_says(tmp_path: Path) -> None:
    description = json.loads((saved(tmp_path) / "model.json").read_text())
    assert description == {
        "format": 4,
        "model": {"name": "stylegan2", "conditional": True, "resolution": 32},
        "stylegan2": {
            "latent-size": 16,
            "mapping-layers": 2,
            "channel-base": 1024,
            "channel-max": 16,
            "resampling": "bilinear",
        },
        "classes": ["a", "b", "c"],
    }


# As version 2682e7d wrote it: the architecture of StyleGAN2 in the model's table, and a setting of the discriminator.
FORMAT_2 = {
    "format": 2,
    "model": {
        "name": "stylegan2",
        "conditional": True,
        "resolution": 32,
        "latent-size": 16,
        "mapping-layers": 2,
        "channel-base": 1024,
        "channel-max": 16,
        "resampling": "bilinear",
        "minibatch-std": 4,
    },
    "classes": ["a", "b", "c"],
}


def test_format_2_is_still_read(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    images = load_final(folder).generate(5, seed=3, truncation=0.7)
    (folder / "model.json").write_text(json.dumps(FORMAT_2))
    read = load_final(folder)
    assert read.classes == ("a", "b", "c")
    assert torch.equal(read.generate(5, seed=3, truncation=0.7), images)


def test_format_3_is_still_read(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    images = load_final(folder).generate(5, seed=3)
    assert torch.equal(load_final(edit(folder, format=3)).generate(5, seed=3), images)


def test_what_is_wrong_with_format_2_is_said_with_the_names_of_today(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    model = dict(FORMAT_2["model"])  # type: ignore[call-overload]
    del model["resampling"]
    (folder / "model.json").write_text(json.dumps(FORMAT_2 | {"model": model}))
    (problem,) = problems(folder)
    assert problem.startswith(f"{folder / 'model.json'}: stylegan2.resampling: is missing")
    model |= {"resampling": "fir", "latent-size": 32}
    (folder / "model.json").write_text(json.dumps(FORMAT_2 | {"model": model}))
    assert "mapping.w_mean: found shape (16,), expected (32,)" in "\n".join(problems(folder))


def test_a_generator_of_an_earlier_version_draws_what_it_drew() -> None:
    """The folder beside this file, and the images, are of version 2682e7d: four images of seed 7, truncation 0.7."""
    folder = Path(__file__).parent / "final-of-format-2"
    assert json.loads((folder / "model.json").read_text())["format"] == 2
    final = load_final(folder)
    assert final.classes == ("mel", "nv", "bcc")
    images = final.generate(4, seed=7, truncation=0.7)
    with Image.open(folder / "images.png") as side_by_side:
        expected = torch.from_numpy(np.array(side_by_side)).unflatten(1, (4, 32)).transpose(0, 1)
    assert images.shape == expected.shape
    assert images.float().std() > 20  # pictures, and not grey
    # Processors differ in the last bits.
    assert (images.int() - expected.int()).abs().max().item() <= 1


def test_missing_and_unfinished(tmp_path: Path) -> None:
    assert problems(tmp_path / "no") == (
        f"{tmp_path / 'no'}: does not exist; give the directory of a finished run, or its final/ folder",
    )
    assert "holds no generator" in problems(tmp_path)[0]
    (tmp_path / "config.toml").touch()
    assert problems(tmp_path) == (
        f"run directory {tmp_path}: has no final/ yet, since the run is not finished; "
        f"finish it with dermafed simulate --resume --run-dir {tmp_path}",
    )
    assert "is not a folder" in problems(tmp_path / "config.toml")[0]


@pytest.mark.parametrize("name", ["model.json", "generator.safetensors"])
def test_a_missing_or_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    file = saved(tmp_path) / name
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    (problem,) = problems(tmp_path)
    assert problem.startswith(f"{file}: is not ")
    torch.save({"weight": torch.zeros(3)}, file)  # a pickle is not even looked into
    assert problems(tmp_path)[0].startswith(f"{file}: is not ")
    file.unlink()
    assert problems(tmp_path) == (
        f"{file}: is missing; copy both model.json and generator.safetensors from the final/ of a finished run",
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"classes": ["a", "b", "a"]}, "classes = ['a', 'b', 'a']: allowed is a list of distinct names"),
        ({"classes": "abc"}, "classes = 'abc': allowed is a list of distinct names"),
        ({"classes": []}, "model.conditional = true and classes = []"),
        ({"model": None}, "model = None: allowed is a table"),
    ],
)
def test_wrong_descriptions(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    (problem,) = problems(edit(saved(tmp_path), **changes))
    assert problem.startswith(f"{tmp_path / 'model.json'}: {expected}")


def test_wrong_settings_are_all_named(tmp_path: Path) -> None:
    model = small().model.model_dump(by_alias=True)
    own = small().own(StyleGAN2Settings).model_dump(by_alias=True, include=ARCHITECTURE)
    wrong = own | {"latent-size": 4, "mapping-layers": "two"}
    found = problems(edit(saved(tmp_path), model=model | {"rooms": 3}, stylegan2=wrong))
    assert len(found) == 3
    assert "model.rooms (model.json): unknown key" in found[0]
    assert "stylegan2.latent-size = 4 (model.json): allowed is a whole number >= 8" in found[1]
    (found_power,) = problems(edit(tmp_path, model=model | {"resolution": 48}, stylegan2=own))
    assert "model.resolution = 48: allowed is a power of two" in found_power
    (unknown,) = problems(edit(tmp_path, model=model | {"name": "diffusion"}))
    assert "model.name = 'diffusion': allowed is one of stylegan2, vae" in unknown
    nameless = {key: value for key, value in model.items() if key != "name"}
    (missing,) = problems(edit(tmp_path, model=nameless))
    assert "model.name: is missing" in missing
    del own["resampling"]  # its default could be another network with the same shapes
    (missing,) = problems(edit(tmp_path, model=model, stylegan2=own))
    assert "stylegan2.resampling: is missing" in missing


def test_settings_of_the_discriminator_do_not_matter(tmp_path: Path) -> None:
    folder = saved(tmp_path, "stylegan2.minibatch-std=32", "training.batch-size=32")
    assert load_final(folder).classes == ("a", "b", "c")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_final(tmp_path, drawer_of(build_model(small())), small("stylegan2.latent-size=8", "model.resolution=64"))
    found = problems(tmp_path)
    file = tmp_path / "generator.safetensors"
    assert f"{file}: mapping.w_mean: found shape (16,), expected (8,)" in found
    assert len(found) == 10  # eight are named, the others counted
    assert found[-1].endswith(" more like these")
    assert found[0].startswith(f"{tmp_path}: its files do not belong together")


def test_every_unfit_tensor_is_named(tmp_path: Path) -> None:
    file = saved(tmp_path) / "generator.safetensors"
    tensors = safetensors.torch.load_file(file)
    tensors["constant"][0, 0, 0, 0] = torch.nan
    tensors["rgb_bias"] = tensors["rgb_bias"].double()
    tensors["extra"] = torch.zeros(1)
    del tensors["mapping.w_mean"]
    safetensors.torch.save_file(tensors, file)
    assert sorted(problem.removeprefix(f"{file}: ") for problem in problems(tmp_path)[1:]) == [
        "constant: holds values that are not finite",
        "extra: found a tensor that the network does not have",
        "mapping.w_mean: found nothing, expected shape (16,)",
        "rgb_bias: found torch.float64, expected torch.float32",
    ]


# ---------------------------------------------------------------- images


def test_an_image_depends_on_its_number_and_not_on_the_count(final: FinalGenerator) -> None:
    images = final.generate(70, seed=1)
    assert (images.dtype, tuple(images.shape)) == (torch.uint8, (70, 32, 32, 3))
    for count in (1, 31, 32, 33, 64):
        assert torch.equal(final.generate(count, seed=1), images[:count])
    assert [len(batch) for batch in final.batches(70, seed=1)] == [32, 32, 6]
    assert len({image.numpy().tobytes() for image in images}) == 70
    assert not torch.equal(final.generate(70, seed=2), images)


def test_only_the_class_changes_with_the_class(final: FinalGenerator) -> None:
    in_turn = final.generate(40)
    b = final.generate(40, class_name="b")
    same = [torch.equal(one, other) for one, other in zip(in_turn, b, strict=True)]
    assert same == [number % 3 == 1 for number in range(40)]
    # A class for each image.
    names = ["c", "a", "b", "b", "a"]
    drawn = final.generate(5, class_name=names)
    for number, name in enumerate(names):
        assert torch.equal(drawn[number], final.generate(5, class_name=name)[number])


def test_truncation_zero_leaves_the_noise_alone(final: FinalGenerator, tmp_path: Path) -> None:
    noisy = final.generate(4, truncation=0.0)
    assert len({image.numpy().tobytes() for image in noisy}) == 4
    configuration = small()
    new = drawer_of(build_model(configuration))  # a new generator's noise has no strength
    save_final(tmp_path, new, configuration)
    quiet = load_final(tmp_path)
    assert len({image.numpy().tobytes() for image in quiet.generate(40, truncation=0.0)}) == 1
    assert len({image.numpy().tobytes() for image in quiet.generate(4)}) == 4
    # Nearer to the mean image, less spread.
    spreads = [quiet.generate(32, truncation=value).float().std(dim=0).mean().item() for value in (0.0, 0.5, 1.0)]
    assert spreads == sorted(spreads)


def test_threads_do_not_change_a_byte(tmp_path: Path) -> None:
    """At this size PyTorch's own threads change the last bits; ours each draw whole chunks."""
    final = load_final(saved(tmp_path, "model.resolution=128"))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        images = final.generate(40, threads=1)
        torch.set_num_threads(2)
        assert torch.equal(final.generate(40, threads=1), images)
        assert torch.equal(final.generate(40, threads=2), images)
    finally:
        torch.set_num_threads(before)


def test_large_images_are_drawn_in_small_chunks(tmp_path: Path) -> None:
    final = load_final(saved(tmp_path, "model.resolution=256", "stylegan2.channel-base=256"))
    images = list(final.batches(9))
    assert [len(batch) for batch in images] == [8, 1]
    assert torch.equal(final.generate(3), images[0][:3])


def test_an_abandoned_generator_stops(final: FinalGenerator) -> None:
    batches = final.batches(10**9)
    next(batches)
    batches.close()
    with pytest.raises(StopIteration):
        next(batches)


def test_wrong_requests_are_refused_at_once(final: FinalGenerator, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        final.batches(0, class_name=["a", "d"], seed=-1, truncation=1.5, threads=0)
    assert caught.value.problems == (
        "count 0: allowed is a whole number >= 1",
        "seed -1: allowed is a whole number >= 0",
        "threads 0: allowed is a whole number >= 1",
        "truncation 1.5: allowed is a number from 0 (the typical image) to 1 (as learned)",
        "class 'd': this generator knows no such class; its classes are a, b, c",
    )
    unconditional = load_final(saved(tmp_path, "model.conditional=false"))
    assert unconditional.generate(2).shape == (2, 32, 32, 3)
    with pytest.raises(InputError, match="class 'a': this generator was trained without classes; ask for none"):
        unconditional.generate(2, class_name="a")
