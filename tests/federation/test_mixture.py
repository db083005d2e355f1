"""Several generators as one: who draws which image, and a final/ folder of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from federation.config import Configuration, parse_assignments
from federation.errors import DataError
from federation.images import to_uint8
from federation.models import build_model
from federation.models.drawing import Component, Drawer, choose_components, drawer_of, lent_component
from federation.models.final import FinalGenerator, load_final, save_final
from federation.models.protocol import DrawingNetwork
from federation.models.stylegan2.step import StyleGAN2
from federation.seeding import torch_stream
from federation.sharing import named_tensors
from strategies.configuration import resolve

CLASSES = 3


def small(*assignments: str) -> Configuration:
    fixed = ["data.classes=a,b,c", "stylegan2.channel-max=8", "stylegan2.latent-size=8", "training.precision=fp32"]
    return resolve([parse_assignments([*fixed, "model.site-embedding=off", *assignments])])


def model_of(seed: int, *assignments: str) -> StyleGAN2:
    """A generator of its own for each seed, with noise and a mean of w that are not their initial zeros."""
    model = build_model(small(f"seed={seed}", *assignments))
    assert isinstance(model, StyleGAN2)
    with torch.no_grad():
        model.generator_ema.mapping.w_mean.normal_(generator=torch_stream(seed, "test"))
        for layer in model.generator_ema.layers:
            layer.noise_strength.fill_(0.3)  # type: ignore[operator, union-attr]
    return model


def component_of(host: StyleGAN2, seed: int, weights: Sequence[float], *assignments: str) -> Component:
    """The generator of a seed, which `host` lends its network."""
    entries = named_tensors({"generator_ema": model_of(seed, *assignments).generator_ema})
    arrays = {name: value.detach().numpy().copy() for name, value in entries.items()}
    return lent_component(host, f"hospital-{seed}", arrays, weights)


def mixture_in(host: StyleGAN2, *weights: Sequence[float]) -> Drawer:
    """Generators of the seeds 1, 2, …, in a model."""
    components = [component_of(host, seed, found) for seed, found in enumerate(weights, start=1)]
    return Drawer(components, CLASSES)


def mixture_of(*weights: Sequence[float]) -> Drawer:
    """Generators of the seeds 1, 2, …, in a model of seed 0."""
    return mixture_in(model_of(0), *weights)


def network_of(component: Component) -> nn.Module:
    network = component.use()
    assert isinstance(network, nn.Module)
    return network


def begun(network: DrawingNetwork, count: int) -> tuple[torch.Tensor, torch.Generator]:
    """The latents of so many images, and the stream behind them and behind the choice of components."""
    stream = torch_stream(4, "test")
    latents = network.latents(count, stream)
    torch.rand(count, generator=stream, dtype=torch.float64)
    return latents, stream


# ---------------------------------------------------------------- who draws


def test_components_draw_each_class_by_their_share_of_its_images() -> None:
    # (components, classes): images of each class at each of three hospitals.
    weights = torch.tensor([[30.0, 0.0, 5.0], [10.0, 50.0, 5.0], [0.0, 50.0, 90.0]], dtype=torch.float64)
    labels = torch.arange(30_000) % CLASSES
    chosen = choose_components(weights, labels, 30_000, torch_stream(0, "test"))
    assert (chosen.dtype, tuple(chosen.shape)) == (torch.int64, (30_000,))
    counts = torch.stack([torch.bincount(chosen[labels == label], minlength=3) for label in range(3)], dim=1)
    shares = torch.tensor([[0.75, 0.0, 0.05], [0.25, 0.5, 0.05], [0.0, 0.5, 0.9]])
    # Five standard deviations of a draw; nothing where there is nothing.
    assert bool(((counts - 10_000 * shares).abs() <= 5 * (10_000 * shares * (1 - shares)).sqrt()).all())
    assert counts[0, 1] == counts[2, 0] == 0


@pytest.mark.parametrize("lacking", [0, 1, 2])
def test_a_class_that_a_hospital_lacks_is_never_drawn_from_it(lacking: int) -> None:
    weights = torch.full((3, 2), 0.1, dtype=torch.float64)
    weights[lacking, 1] = 0.0
    labels = torch.arange(100_000) % 2
    chosen = choose_components(weights, labels, 100_000, torch_stream(3, "test"))
    assert set(chosen[labels == 1].tolist()) == {0, 1, 2} - {lacking}
    assert set(chosen[labels == 0].tolist()) == {0, 1, 2}


def test_one_weight_holds_for_every_class() -> None:
    weights = torch.tensor([[1.0], [3.0]], dtype=torch.float64)
    labelled = choose_components(weights, torch.arange(4000) % 2, 4000, torch_stream(0, "test"))
    without = choose_components(weights, None, 4000, torch_stream(0, "test"))
    assert torch.equal(labelled, without)
    assert without.float().mean().item() == pytest.approx(0.75, abs=5 * (0.75 * 0.25 / 4000) ** 0.5)


def test_a_class_that_no_hospital_has_is_drawn_from_all_alike() -> None:
    weights = torch.tensor([[5.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    chosen = choose_components(weights, torch.ones(4000, dtype=torch.int64), 4000, torch_stream(0, "test"))
    assert chosen.float().mean().item() == pytest.approx(0.5, abs=5 * 0.5 / 4000**0.5)


def test_weights_count_in_relation_to_one_another() -> None:
    weights = torch.tensor([[1.0, 2.0], [3.0, 2.0]], dtype=torch.float64)
    labels = torch.arange(1000) % 2
    drawn = [choose_components(scale * weights, labels, 1000, torch_stream(0, "test")) for scale in (1, 1024, 2**-20)]
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])


def test_many_components_are_all_within_reach() -> None:
    weights = torch.ones(10, 1, dtype=torch.float64)
    chosen = choose_components(weights, None, 20_000, torch_stream(0, "test"))
    assert (torch.bincount(chosen, minlength=10) - 2000).abs().max() < 5 * (2000 * 0.9) ** 0.5


# ---------------------------------------------------------------- what is drawn


@pytest.mark.parametrize("truncation", [1.0, 0.5])
@torch.no_grad()
def test_a_mixture_of_one_generator_is_that_generator(truncation: float) -> None:
    mixture = mixture_of([1, 1, 1])
    labels = torch.arange(6) % CLASSES
    images = mixture.generate(labels, 6, torch_stream(4, "test"), truncation)
    network = model_of(1).drawing
    latents, stream = begun(network, 6)
    assert torch.equal(images, to_uint8(network(latents, labels, stream, truncation)))
    assert (images.dtype, tuple(images.shape)) == (torch.uint8, (6, 32, 32, 3))
    assert (mixture.num_classes, images.device) == (3, torch.device("cpu"))


@torch.no_grad()
def test_each_class_comes_from_the_hospital_that_has_it_in_the_order_of_the_labels() -> None:
    mixture = mixture_of([1, 0, 0], [0, 1, 1])
    labels = torch.tensor([1, 0, 2, 0, 1])
    images = mixture.generate(labels, 5, torch_stream(4, "test"))
    first, second = model_of(1).drawing, model_of(2).drawing
    latents, stream = begun(first, 5)
    # The first component draws its images, then the second.
    of_first = to_uint8(first(latents[[1, 3]], torch.tensor([0, 0]), stream, 1.0))
    of_second = to_uint8(second(latents[[0, 2, 4]], torch.tensor([1, 2, 1]), stream, 1.0))
    assert torch.equal(images[[1, 3]], of_first)
    assert torch.equal(images[[0, 2, 4]], of_second)


@torch.no_grad()
def test_an_unconditional_mixture_draws_by_the_number_of_images() -> None:
    unconditional = "model.conditional=false"
    host = model_of(0, unconditional)
    components = [component_of(host, 1, [0.0], unconditional), component_of(host, 2, [40.0], unconditional)]
    images = Drawer(components, 0).generate(None, 4, torch_stream(4, "test"))
    network = model_of(2, unconditional).drawing
    latents, stream = begun(network, 4)
    assert torch.equal(images, to_uint8(network(latents, None, stream, 1.0)))


def test_what_the_federation_has_alone_is_drawn_without_a_choice() -> None:
    model, labels = model_of(1), torch.arange(6) % CLASSES
    images = drawer_of(model).generate(labels, 6, torch_stream(4, "test"), 0.5)
    stream = torch_stream(4, "test")
    with torch.no_grad():
        latents = model.drawing.latents(6, stream)
        assert torch.equal(images, to_uint8(model.drawing(latents, labels, stream, 0.5)))


def test_what_draws_a_running_model_has_the_weights_that_it_has_when_it_draws() -> None:
    model, other = model_of(1), model_of(2)
    drawer, labels = drawer_of(model), torch.arange(6) % CLASSES
    model.generator_ema.load_state_dict(other.generator_ema.state_dict())
    expected = drawer_of(other).generate(labels, 6, torch_stream(4, "test"))
    assert torch.equal(drawer.generate(labels, 6, torch_stream(4, "test")), expected)


def test_drawing_leaves_the_components_and_the_trained_generator_alone() -> None:
    host = model_of(0)
    mixture = mixture_in(host, [1, 1, 1], [1, 1, 1])
    trained = {name: value.clone() for name, value in host.networks["generator"].state_dict().items()}
    labels = torch.arange(12) % CLASSES
    images = [mixture.generate(labels, 12, torch_stream(1, "test")) for _ in range(2)]
    assert torch.equal(images[0], images[1])
    for name, value in host.networks["generator"].state_dict().items():
        assert torch.equal(value, trained[name])


# ---------------------------------------------------------------- a folder of it

WEIGHTS = ([30, 0, 5], [10, 50, 5], [0, 50, 90])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mixture")
    save_final(path, mixture_of(*WEIGHTS), small())
    return path


@pytest.fixture(scope="module")
def final(folder: Path) -> FinalGenerator:
    return load_final(folder)


def test_a_mixture_is_a_file_for_each_hospital_and_its_weights(folder: Path, final: FinalGenerator) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "generator-0000.safetensors", "generator-0001.safetensors", "generator-0002.safetensors", "model.json",
    ]  # fmt: skip
    assert json.loads((folder / "model.json").read_text())["mixture"] == [
        {"hospital": "hospital-1", "file": "generator-0000.safetensors", "weights": [30.0, 0.0, 5.0]},
        {"hospital": "hospital-2", "file": "generator-0001.safetensors", "weights": [10.0, 50.0, 5.0]},
        {"hospital": "hospital-3", "file": "generator-0002.safetensors", "weights": [0.0, 50.0, 90.0]},
    ]
    assert final.classes == ("a", "b", "c")
    assert [component.name for component in final.components] == ["hospital-1", "hospital-2", "hospital-3"]
    assert final.is_mixture
    assert final.network is final.components[0].use()
    for seed, component in enumerate(final.components, start=1):
        for name, value in model_of(seed).generator_ema.state_dict().items():
            assert torch.equal(network_of(component).state_dict()[name], value), name


def test_a_mixture_read_back_draws_the_same_images_with_any_number_of_threads(
    folder: Path, final: FinalGenerator
) -> None:
    images = final.generate(70, seed=1, threads=1)
    assert (images.dtype, tuple(images.shape)) == (torch.uint8, (70, 32, 32, 3))
    for threads in (2, 3):
        assert torch.equal(final.generate(70, seed=1, threads=threads), images)
    assert torch.equal(load_final(folder).generate(70, seed=1), images)
    assert not torch.equal(final.generate(70, seed=2), images)
    assert len({image.numpy().tobytes() for image in images}) == 70


def test_a_mixture_read_back_draws_what_it_drew_while_the_run_went_on(final: FinalGenerator) -> None:
    """One road: the judge's images are those of the exported files, with the same stream."""
    stream = torch_stream(1, "generate", server_round=0)
    running = mixture_of(*WEIGHTS).generate(torch.arange(32) % CLASSES, 32, stream)
    assert torch.equal(final.generate(32, seed=1), running)


def test_an_image_of_a_mixture_depends_on_its_number_and_not_on_the_count(final: FinalGenerator) -> None:
    images = final.generate(70, seed=1)
    for count in (1, 31, 32, 33, 64):
        assert torch.equal(final.generate(count, seed=1), images[:count])
    assert [len(batch) for batch in final.batches(70, seed=1)] == [32, 32, 6]


def test_an_image_of_a_folder_is_drawn_by_one_of_the_hospitals_that_have_its_class(final: FinalGenerator) -> None:
    """All noise off: an image is then that of its latent and of one generator."""
    with torch.no_grad():
        for component in final.components:
            for layer in network_of(component).layers:  # type: ignore[union-attr]
                layer.noise_strength.zero_()  # type: ignore[operator, union-attr]
    try:
        images = final.generate(60, seed=3)
        alone = [final.only(component).generate(60, seed=3) for component in final.components]
    finally:
        with torch.no_grad():
            for component in final.components:
                for layer in network_of(component).layers:  # type: ignore[union-attr]
                    layer.noise_strength.fill_(0.3)  # type: ignore[operator, union-attr]
    drawn_by: list[set[int]] = [set(), set(), set()]
    for number, image in enumerate(images):
        # Rows of a batch can differ in the last bit from the same rows of another batch.
        near = [(image.int() - other[number].int()).abs().max().item() <= 1 for other in alone]
        assert sum(near) == 1
        drawn_by[number % CLASSES].add(near.index(True))
    assert drawn_by[:2] == [{0, 1}, {1, 2}]  # of class c, hospital-1 draws one image in twenty


def test_one_component_alone_is_an_ordinary_generator(final: FinalGenerator, tmp_path: Path) -> None:
    save_final(tmp_path, drawer_of(model_of(2)), small())
    expected = load_final(tmp_path)
    assert [component.name for component in expected.components] == [""]
    assert not expected.is_mixture
    assert not final.only(final.components[1]).is_mixture
    assert torch.equal(final.only(final.components[1]).generate(5, seed=4), expected.generate(5, seed=4))


def test_an_unconditional_mixture_is_read_back(tmp_path: Path) -> None:
    unconditional = "model.conditional=false"
    host = model_of(0, unconditional)
    components = [component_of(host, seed, [weight], unconditional) for seed, weight in ((1, 10.0), (2, 30.0))]
    save_final(tmp_path, Drawer(components, 0), small(unconditional))
    final = load_final(tmp_path)
    assert [component.weights for component in final.components] == [(10.0,), (30.0,)]
    assert torch.equal(final.generate(40, threads=2)[:7], final.generate(7))


# ---------------------------------------------------------------- damage

FORM = (
    "mixture: allowed is a list of tables with the name of a hospital, a file beside this one, and a weight from 0 on "
    "for each class"
)


def problems(folder: Path) -> tuple[str, ...]:
    with pytest.raises(DataError) as caught:
        load_final(folder)
    return caught.value.problems


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy of the mixture, to be damaged."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def damage(folder: Path, **changes: Any) -> None:
    """Change entries of the second component; None removes one."""
    file = folder / "model.json"
    description = json.loads(file.read_text())
    for key, value in changes.items():
        if value is None:
            del description["mixture"][1][key]
        else:
            description["mixture"][1][key] = value
    file.write_text(json.dumps(description))


@pytest.mark.parametrize(
    "changes",
    [
        {"file": "../generator-0001.safetensors"},
        {"file": "/etc/passwd"},
        {"file": "./generator-0001.safetensors"},
        {"file": "weights/generator-0001.safetensors"},
        {"file": "."},
        {"file": 3},
        {"file": None},
        {"weights": [1.0, 2.0]},
        {"weights": [1.0, 2.0, 3.0, 4.0]},
        {"weights": []},
        {"weights": 1.0},
        {"weights": [1.0, -2.0, 3.0]},
        {"weights": [1.0, float("nan"), 3.0]},
        {"weights": [1.0, float("inf"), 3.0]},
        {"weights": [1.0, "2", 3.0]},
        {"weights": None},
        {"hospital": 7},
        {"hospital": None},
    ],
    ids=str,
)
def test_a_damaged_description_of_a_mixture_is_refused(copy: Path, changes: dict[str, Any]) -> None:
    damage(copy, **changes)
    (problem,) = problems(copy)
    assert problem.startswith(f"{copy / 'model.json'}: {FORM}")


@pytest.mark.parametrize("file", ["..", "", "model.json"])
def test_what_is_no_file_of_weights_is_not_read(copy: Path, file: str) -> None:
    damage(copy, file=file)
    (problem,) = problems(copy)
    assert problem.startswith(f"{copy / file}: ")


@pytest.mark.parametrize("mixture", [{}, "generator-0000.safetensors", [3], None])
def test_a_mixture_that_is_no_list_of_tables_is_refused(copy: Path, mixture: object) -> None:
    file = copy / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"mixture": mixture}))
    assert problems(copy)[0].startswith(f"{file}: {FORM}")


def test_a_missing_generator_of_a_mixture_is_named(copy: Path) -> None:
    (copy / "generator-0002.safetensors").unlink()
    (problem,) = problems(copy)
    assert problem.startswith(f"{copy / 'generator-0002.safetensors'}: is missing; ")


def test_a_generator_of_another_network_in_a_mixture_is_named(copy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    wider = small("stylegan2.latent-size=16")
    save_final(other, drawer_of(build_model(wider)), wider)
    (copy / "generator-0001.safetensors").write_bytes((other / "generator.safetensors").read_bytes())
    found = problems(copy)
    assert f"{copy / 'generator-0001.safetensors'}: mapping.w_mean: found shape (16,), expected (8,)" in found
    assert found[0].startswith(f"{copy}: its files do not belong together")
