"""Generators that are told hospitals: training, drawing, files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from federation.batch import Batch
from federation.config import Configuration, Layer, parse_assignments
from federation.errors import ConfigurationError, DataError, InputError
from federation.models import build_model
from federation.models.drawing import Looks, drawer_of, looks_at, looks_of
from federation.models.final import load_final, save_final
from federation.models.stylegan2.networks import site_codes
from federation.models.stylegan2.step import StyleGAN2
from federation.seeding import torch_stream
from federation.sharing import named_tensors
from federation.site import Site
from strategies.configuration import asks_class_counts, resolve

ROWS = "mapping.site_embedding"


def small(*assignments: str) -> Configuration:
    fixed = ["data.classes=a,b", "stylegan2.channel-max=8", "stylegan2.latent-size=8", "training.precision=fp32"]
    return resolve([parse_assignments([*fixed, "partition.hospitals=3", *assignments])])


def model_of(*assignments: str) -> StyleGAN2:
    model = build_model(small(*assignments))
    assert isinstance(model, StyleGAN2)
    return model


def batch_of(count: int = 8) -> Batch:
    stream = torch_stream(1, "test")
    return Batch(torch.rand(count, 3, 32, 32, generator=stream) * 2 - 1, torch.arange(count) % 2, {})


# ---------------------------------------------------------------- who is told


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        ((), 3),
        (("model.conditional=false",), 3),
        (("model.site-embedding=off",), 0),
        (("partition.hospitals=1",), 0),
        (("model.name=vae",), 0),
        (("strategy.name=alone",), 0),
        (("strategy.private=generator.mapping",), 0),
        (("strategy.private=discriminator",), 3),
        (("strategy.name=md-gan", "stylegan2.loss=logistic"), 0),
        (("strategy.name=effgan",), 0),
        (("strategy.name=scaffold",), 3),
    ],
)
def test_who_is_told_by_default(assignments: tuple[str, ...], expected: int) -> None:
    names = [each for each in assignments if not each.startswith("model.name")]
    if len(names) < len(assignments):
        configuration = resolve([parse_assignments(["data.classes=a,b", "partition.hospitals=3", *assignments])])
    else:
        configuration = small(*assignments)
    assert configuration.num_sites == expected
    model = build_model(configuration)
    assert model.num_sites == expected
    rows = [name for name, network in model.networks.items() if ROWS in network.state_dict()]
    assert rows == (["generator", "generator_ema"] if expected else [])


@pytest.mark.parametrize(
    ("assignments", "why"),
    [
        (("strategy.name=centralised",), "under strategy centralised all images are in one place"),
        (("strategy.name=alone",), "hospitals have generators, or parts of it, of their own, each with its own look"),
        (
            ("strategy.name=md-gan", "stylegan2.loss=logistic"),
            "the generator is trained at the server, which has no hospital's look",
        ),
    ],
)
def test_asked_for_in_vain(assignments: tuple[str, ...], why: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        small("model.site-embedding=on", *assignments)
    expected = f"model.site-embedding = on: {why}; leave it at auto, or set it to off"
    assert expected in caught.value.problems


def test_a_vae_is_not_told() -> None:
    assignments = ["data.classes=a,b", "model.name=vae", "model.site-embedding=on"]
    with pytest.raises(ConfigurationError) as caught:
        resolve([parse_assignments(assignments)])
    assert caught.value.problems == (
        "model.site-embedding = 'on': a model of the family vae is not told hospitals; leave it at auto, or set it to "
        "off",
    )


def test_one_hospital_is_not_told_apart() -> None:
    with pytest.raises(ConfigurationError) as caught:
        small("model.site-embedding=on", "partition.hospitals=1")
    assert caught.value.problems == (
        "model.site-embedding = 'on': there is one hospital, and no other to tell it from; leave it at auto, or set it "
        "to off",
    )
    # A later layer may make it so: a folder of images has one place.
    layers = [parse_assignments(["model.site-embedding=on"]), Layer("target", {"partition.hospitals": 1})]
    assert resolve(layers).num_sites == 0


def test_hospitals_are_asked_for_counts_of_classes() -> None:
    assert asks_class_counts(small("training.balanced-classes=none"))
    assert not asks_class_counts(small("training.balanced-classes=none", "model.site-embedding=off"))
    assert not asks_class_counts(small("model.conditional=false"))


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("assignments", [(), ("model.conditional=false",), ("stylegan2.path-length-weight=2.0",)])
def test_rows_of_hospitals_are_constants(assignments: tuple[str, ...]) -> None:
    """Whatever the seed and the number of hospitals; no step moves one, so that none tells what a hospital has sent."""
    model = model_of("seed=3", *assignments)
    model.site = 1
    for _ in range(2):
        model.train_step(batch_of(), torch_stream(2, "test"))
    rows = model.generator.mapping.site_embedding
    others = model_of("partition.hospitals=5").generator.mapping.site_embedding
    assert rows is not None
    assert others is not None
    assert torch.equal(rows, others[:3])
    assert not {name for name, _ in model.generator.named_parameters() if "site" in name}
    codes = site_codes(6, 4)
    torch.testing.assert_close(codes[:4] @ codes[:4].T / 4, torch.eye(4))
    torch.testing.assert_close(codes.square().mean(dim=1), torch.ones(6))


def test_what_the_mapping_network_hears() -> None:
    """z, and the sum of the class's and the hospital's row, each of mean square 1, at the variance of one."""
    mapping = model_of().generator.mapping
    z, labels, sites = torch.randn(4, 8, generator=torch_stream(1, "z")), torch.tensor([0, 1, 1, 0]), torch.tensor([2])
    assert mapping.class_embedding is not None
    assert mapping.site_embedding is not None

    def scaled(x: torch.Tensor) -> torch.Tensor:
        return x / x.square().mean(dim=1, keepdim=True).sqrt()

    told = (scaled(mapping.class_embedding[labels]) + scaled(mapping.site_embedding[sites])) / 2**0.5
    expected = mapping.layers(torch.cat([scaled(z), told], dim=1))
    torch.testing.assert_close(mapping(z, labels, sites=sites.expand(4)), expected)


def test_where_a_step_is_taken_decides_what_is_learned() -> None:
    models = [model_of() for _ in range(2)]
    for number, model in enumerate(models):
        model.site = number
        model.train_step(batch_of(), torch_stream(2, "test"))
    first, second = (model.generator.constant.detach() for model in models)
    assert not torch.equal(first, second)


def test_the_rest_begins_as_without() -> None:
    """Who is told classes and hospitals begins with the very weights of who is told classes."""
    told, untold = model_of(), model_of("model.site-embedding=off")
    weights = dict(told.generator.state_dict())
    assert weights.pop(ROWS).shape == (3, 8)
    assert weights.keys() == untold.generator.state_dict().keys()
    assert all(torch.equal(value, weights[name]) for name, value in untold.generator.state_dict().items())
    assert told.site_rows == ("generator." + ROWS,)
    assert untold.site_rows == ()


# ---------------------------------------------------------------- drawing


def test_looks_are_as_frequent_as_images_of_the_class() -> None:
    sites = [Site("x", 0, 10, (9, 1)), Site("y", 1, 30, (0, 30))]
    assert looks_of(sites, conditional=True) == Looks(("x", "y"), ((1.0, 0.032), (0.0, 0.968)))
    assert looks_of(sites, conditional=False) == Looks(("x", "y"), ((0.25,), (0.75,)))


def test_who_tells_no_counts_has_its_share_of_every_class() -> None:
    sites = [Site("x", 0, 10, (9, 1)), Site("y", 1, 20), Site("z", 2, 10, (0, 10))]
    assert looks_of(sites, conditional=True) == Looks(("x", "y", "z"), ((0.5, 0.045), (0.5, 0.5), (0.0, 0.455)))
    untold = [Site("x", 0, 10), Site("y", 1, 30)]
    assert looks_of(untold, conditional=True) == Looks(("x", "y"), ((0.25,), (0.75,)))
    assert looks_of([], conditional=True) is None


def test_a_class_that_nobody_has_and_who_is_asked_of_nobody() -> None:
    sites = [Site("x", 0, 9, (9, 0)), Site("y", 1, 30, (30, 0))]
    assert looks_of(sites, conditional=True) == Looks(("x", "y"), ((0.231, 0.0), (0.769, 0.0)))
    with pytest.raises(ValueError, match="say how often each is asked for"):
        drawer_of(model_of())


def test_the_look_that_is_asked_for_is_drawn() -> None:
    model = model_of()
    labels, stream = torch.arange(6) % 2, torch_stream(3, "latents")
    latents = model.drawing.latents(6, stream)
    state = stream.get_state()
    images = []
    for number in range(3):
        stream.set_state(state)
        images.append(model.drawing(latents, labels, stream, 1.0, torch.full((6,), number)))
    assert not torch.equal(images[0], images[1])
    looks = looks_at(2, 3)
    drawn = drawer_of(model, looks).generate(labels, 6, torch_stream(3, "latents"))
    expected = ((images[2].permute(0, 2, 3, 1) + 1) * 127.5).round().clamp(0, 255)
    # What chooses takes numbers of the stream before noise does; noise has no strength yet.
    assert (drawn.float() - expected).abs().max() <= 1


def test_each_class_has_the_looks_of_those_that_hold_it() -> None:
    model = model_of()
    looks = Looks(("x", "y", "z"), ((1.0, 0.0), (0.0, 1.0), (0.0, 0.0)))
    labels = torch.arange(40) % 2
    drawn = drawer_of(model, looks).generate(labels, 40, torch_stream(3, "latents"))
    for label in (0, 1):
        alone = drawer_of(model, looks_at(label, 3)).generate(labels, 40, torch_stream(3, "latents"))
        assert torch.equal(drawn[labels == label], alone[labels == label])


# ---------------------------------------------------------------- files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    looks = Looks(("north", "south", "west"), ((1.0, 3.0), (2.0, 0.0), (1.0, 1.0)))
    save_final(tmp_path, drawer_of(model_of(), looks), small())
    return tmp_path


def test_what_a_file_says(folder: Path) -> None:
    description = json.loads((folder / "model.json").read_text())
    assert description["format"] == 4
    assert description["looks"] == [
        {"hospital": "north", "weights": [1.0, 3.0]},
        {"hospital": "south", "weights": [2.0, 0.0]},
        {"hospital": "west", "weights": [1.0, 1.0]},
    ]
    assert load_file(folder / "generator.safetensors")[ROWS].shape == (3, 8)


def test_a_generator_read_back_draws_every_look(folder: Path) -> None:
    generator = load_final(folder)
    assert generator.hospitals == ("north", "south", "west")
    assert not generator.is_mixture
    images = generator.generate(64, class_name="b", seed=1)
    assert torch.equal(generator.generate(64, class_name="b", seed=1, threads=2), images)
    of = {name: generator.of_hospital(name).generate(64, class_name="b", seed=1) for name in generator.hospitals}
    same = {name: int((images == each).flatten(1).all(dim=1).sum()) for name, each in of.items()}
    # Weights 3, 0 and 1: of 64 images, within four standard deviations of 48.
    assert same["south"] == 0
    assert abs(same["north"] - 48) <= 14
    assert same["north"] + same["west"] == 64


def test_a_hospital_that_is_not_known(folder: Path) -> None:
    generator = load_final(folder)
    with pytest.raises(InputError) as caught:
        generator.of_hospital("east")
    assert caught.value.problems == (
        "hospital 'east': this generator knows no such hospital; its hospitals are north, south, west",
    )
    assert generator.of_hospital("west").hospitals == generator.hospitals


@pytest.mark.parametrize(
    "looks",
    [
        [{"hospital": "north", "weights": [1.0, -1.0]}],
        [{"hospital": "", "weights": [1.0, 1.0]}],
        [{"hospital": "north", "weights": [1.0, 1.0, 1.0]}],
        [{"hospital": "north", "weights": [1.0]}, {"hospital": "south", "weights": [1.0, 1.0]}],
        [{"hospital": "north", "weights": [1.0]}, {"hospital": "north", "weights": [1.0]}],
        {"hospital": "north"},
        [1],
    ],
)
def test_damaged_looks(folder: Path, looks: object) -> None:
    file = folder / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"looks": looks}))
    with pytest.raises(DataError, match="looks: allowed is a list of tables with the name of a hospital"):
        load_final(folder)


def test_looks_that_are_not_those_of_the_weights(folder: Path) -> None:
    file = folder / "model.json"
    description = json.loads(file.read_text())
    file.write_text(json.dumps(description | {"looks": description["looks"][:2]}))
    with pytest.raises(DataError, match=r"site_embedding: found shape \(3, 8\), expected \(2, 8\)"):
        load_final(folder)
    del description["looks"]
    file.write_text(json.dumps(description))
    with pytest.raises(DataError, match="site_embedding: found a tensor that the network does not have"):
        load_final(folder)


def test_a_federation_learns_whose_look_is_whose() -> None:
    """A dark and a bright hospital, ten steps each and averaged: either look can be asked for."""
    # What rows mean is learned by the mapping network, which is slow where latents are short.
    assignments = ["stylegan2.latent-size=128", "stylegan2.gamma=0.2", "training.learning-rate=0.01"]
    assignments += ["training.ema-half-life-images=100", "partition.hospitals=2"]
    models, streams = [model_of(*assignments) for _ in range(2)], [torch_stream(each, "test") for each in range(2)]
    for _ in range(60):
        for number, (model, stream) in enumerate(zip(models, streams, strict=True)):
            model.site = number
            for _ in range(10):
                shades = torch.randn(4, 3, 1, 1, generator=stream) * 0.05 + (number - 0.5)
                images = shades.expand(-1, -1, 32, 32).contiguous()
                model.train_step(Batch(images, torch.arange(4) % 2, {}), stream)
        with torch.no_grad():
            for values in zip(*(named_tensors(model.networks).values() for model in models), strict=True):
                if values[0].is_floating_point():
                    mean = torch.stack(values).mean(dim=0)
                    for value in values:
                        value.copy_(mean)
    labels = torch.arange(32) % 2
    means = [
        drawer_of(models[0], looks_at(number, 2)).generate(labels, 32, torch_stream(6, "test")).float().mean().item()
        for number in range(2)
    ]
    assert means[1] - means[0] > 60  # of the 127 between the two
