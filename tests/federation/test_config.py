"""The schema, its layers and its error messages."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.config import (
    RENAMED_KEYS,
    Configuration,
    Layer,
    fields_by_key,
    flower_table,
    load_stored_toml,
    load_toml,
    parse_assignments,
    schema,
)
from federation.errors import ConfigurationError, DataError
from federation.models.families import FAMILIES
from federation.models.stylegan2.settings import StyleGAN2Settings, augmentation_transforms
from federation.models.vae.settings import VAESettings
from federation.settings.section import join_names, split_names
from strategies.catalogue import STRATEGIES
from strategies.configuration import resolve

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
    assignments = ["training.batch-size=8", "data.classes=a,b", "partition.scheme=dirichlet", "partition.alpha=1"]
    configuration = resolve([parse_assignments(assignments)])
    assert resolve([Layer("flat", configuration.to_flat())]) == configuration
    path = tmp_path / "config.toml"
    path.write_text(configuration.to_toml(), encoding="utf-8")
    assert resolve([load_toml(path)]) == configuration
    assert configuration.class_names == ("a", "b")
    assert configuration.partition.alpha == 1.0


def test_flat_values_are_what_flower_takes() -> None:
    assert {type(value) for value in schema()().to_flat().values()} <= {int, float, bool, str}


def test_later_layers_win() -> None:
    configuration = resolve([Layer("file", {"rounds": 3, "seed": 5}), Layer("--set", {"rounds": 7})])
    assert (configuration.rounds, configuration.seed) == (7, 5)


def test_all_problems_are_given_at_once_with_remedy() -> None:
    assert problems_of(
        "modle.resolution=3", "seed=-1", "data.source=ham", "rounds=2.5", "training.flips=1", "training.batch-size=x"
    ) == (
        "modle.resolution (--set): unknown key; the nearest known key is model.resolution",
        "seed = -1 (--set): allowed is a whole number >= 0; the default is 0",
        "rounds = 2.5 (--set): allowed is a whole number >= 1; the default is 350",
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
            ["stylegan2.augmentation.transforms=bgc,blur"],
            "stylegan2.augmentation.transforms = 'bgc,blur': 'blur' is no transform; allowed are bgc, dermoscopy, "
            "x-flip, rotate90, integer-translation, scale, rotation, anisotropic-scale, fractional-translation, "
            "brightness, contrast, luma-flip, hue, saturation, each left out with a minus before it",
        ),
        (
            ["stylegan2.augmentation.name=ada", "stylegan2.augmentation.transforms=bgc,-bgc"],
            "stylegan2.augmentation.transforms = 'bgc,-bgc': leaves no transform; name one, e.g. dermoscopy, or set "
            "stylegan2.augmentation.name=none",
        ),
        (
            ["stylegan2.augmentation.name=fixed"],
            "stylegan2.augmentation.p = 0: stylegan2.augmentation.name = fixed would change nothing; set "
            "stylegan2.augmentation.p=0.2, say",
        ),
        (
            ["stylegan2.minibatch-std=3"],
            "stylegan2.minibatch-std = 3: allowed is a divisor of training.batch-size = 8 from 2 on, so that groups "
            "are whole and differ within, or 0",
        ),
        (
            ["model.conditional=false", "stylegan2.label-dropout=0.1"],
            "stylegan2.label-dropout = 0.1: model.conditional = false has no class to hide; set it to 0",
        ),
        (
            ["model.conditional=false", "stylegan2.fake-labels=uniform"],
            "stylegan2.fake-labels = 'uniform': model.conditional = false has no class to draw; leave it out",
        ),
        (
            ["data.source=folder", "data.root=/x", "data.label-column=dx", "data.group-column=dx"],
            "data.group-column = 'dx': is data.label-column too, so that all images of a class would fall into one "
            "part; name the column of patients or lesions, or leave it empty",
        ),
        (
            ["rounds=2", "training.local-steps=10", "stylegan2.transition-images=200.0"],
            "stylegan2.transition-start-images + stylegan2.transition-images = 200: a hospital is shown 160 images in "
            "all (rounds x local-steps x batch-size), so that the class would never be fully heard; lower them, or set "
            "more rounds",
        ),
        (
            ["strategy.averaged-state=ada-p"],
            "strategy.averaged-state = 'ada-p': there is none to average; leave it out, or set "
            "stylegan2.augmentation.name=ada",
        ),
        (
            ["stylegan2.augmentation.p=0.2"],
            "stylegan2.augmentation.p = 0.2: stylegan2.augmentation.name = none has no probability; set "
            "stylegan2.augmentation.p=0, or stylegan2.augmentation.name=fixed",
        ),
        (
            ["strategy.averaged-state=adam"],
            "strategy.averaged-state = 'adam': 'adam' is not known; allowed are ada-p, path-length-mean",
        ),
    ],
)
def test_contradictions_of_a_recipe(assignments: list[str], problem: str) -> None:
    assert problems_of(*assignments) == (problem,)


IN_VAIN = {
    "data.root=/images": "data.source = phantom does not read it; set data.source=ham10000 or isic2019 or isic2020 or "
    "folder or huggingface, or leave it out",
    "data.csv=a.csv": "data.source = phantom does not read it; set data.source=folder, or leave it out",
    "partition.alpha=0.1": "partition.scheme = natural does not read it; set it to dirichlet or quantity, or leave "
    "this out",
    "partition.dominance=2.0": "partition.scheme = natural does not read it; set it to dominant, or leave this out",
    "partition.seed=1": "partition.scheme = natural and attack.name = none draw nothing; leave it out, or set one of "
    "them",
    "participation.fraction=0.9": "of partition.hospitals = 4 that is 4, which is all; lower it, or leave it out",
    "early-stopping.min-images=100": "early-stopping.patience = 0 never ends a run; set early-stopping.patience, or "
    "leave it out",
    "early-stopping.patience=8": "so many evaluations without a better one are over in round 400 at the earliest "
    "(evaluation.every = 50), and rounds = 350 is the end anyway; lower one of the two, or leave it out",
    "report.show-real-images=true": "data.source = phantom has none, and its images are always shown; leave it out",
    "stylegan2.path-length-decay=0.1": "stylegan2.path-length-weight = 0 is no regularisation; leave it out, or set "
    "that to 2.0",
    "stylegan2.augmentation.ada-target=0.5": "stylegan2.augmentation.name = none does not adapt; leave it out, or set "
    "stylegan2.augmentation.name=ada",
    "stylegan2.augmentation.transforms=bgc": "stylegan2.augmentation.name = none does not choose from them; leave it "
    "out, or set stylegan2.augmentation.name=ada or fixed",
}  # fmt: skip


@pytest.mark.parametrize("assignment", IN_VAIN)
def test_what_nothing_reads_beside_the_defaults_is_refused_by_name(assignment: str) -> None:
    (problem,) = problems_of(assignment)
    key, _, value = assignment.partition("=")
    assert problem in (f"{key} = {value}: {IN_VAIN[assignment]}", f"{key} = {value!r}: {IN_VAIN[assignment]}")


def test_a_ratio_is_refused_where_nothing_comes_beside_real_images() -> None:
    resolve([parse_assignments(["evaluation.utility-arms=real", "evaluation.utility-ratio=2.0"])])  # of real+permuted
    (problem,) = problems_of(
        "evaluation.utility-arms=real", "evaluation.utility-yardsticks=gaussian", "evaluation.utility-ratio=2.0"
    )
    assert problem.startswith("evaluation.utility-ratio = 2.0: evaluation.utility-arms = 'real' has no real+synthetic")


def test_yardsticks_that_are_not_known_are_named() -> None:
    (problem,) = problems_of("evaluation.utility-yardsticks=gaussian,rare")
    assert problem == (
        "evaluation.utility-yardsticks = 'gaussian,rare': 'rare' is not known; allowed are gaussian, real+gaussian, "
        "real+permuted"
    )


@pytest.mark.parametrize(
    ("switch", "option"),
    [
        ("stylegan2.gamma=0.0", "stylegan2.penalty-every=4"),
        ("training.ema-half-life-images=0.0", "training.ema-ramp=0.2"),
        ("simulation.engine=in-process", "simulation.workers=2"),
        ("simulation.engine=in-process", "simulation.address=auto"),
        ("simulation.engine=in-process", "participation.train-seconds=5.0"),
        ("evaluation.extractor=lesion-cnn", "evaluation.extractor-weights=a.pt"),
        ("evaluation.extractor=lesion-cnn", "evaluation.allow-downloads=true"),
        ("early-stopping.patience=2", "evaluation.overlap=always"),
        ("participation.min-replies=4", "participation.dropout=0.2"),
        ("partition.hospitals=1", "participation.dropout=0.2"),
    ],
)
def test_an_option_is_refused_beside_the_switch_that_makes_it_idle(switch: str, option: str) -> None:
    key = option.partition("=")[0]
    (problem,) = problems_of(switch, option)
    assert problem.startswith(f"{key} = ")
    before, after = parse_assignments([option]), parse_assignments([switch])
    with pytest.raises(ConfigurationError, match=f"^{key} = "):
        resolve([after, before])
    # What a preset sets goes with what a later layer switches off.
    assert resolve([before, after]).to_flat()[key] == before.values[key]


def test_what_does_nothing_in_the_file_of_a_run_is_left_as_it_is(tmp_path: Path) -> None:
    """An earlier version accepted it."""
    file = tmp_path / "config.toml"
    file.write_text("partition.alpha = 0.1\n", encoding="utf-8")
    stored = resolve([load_stored_toml(file)])
    assert stored.partition.alpha == 0.1
    assert stored.with_values({"seed": 1}).partition.alpha == 0.1
    with pytest.raises(ConfigurationError, match="partition.alpha = 0.1: "):
        resolve([load_toml(file)])
    with pytest.raises(ConfigurationError, match="partition.alpha = 0.2: "):
        resolve([load_stored_toml(file), parse_assignments(["partition.alpha=0.2"])])


def test_contradictions() -> None:
    assert problems_of(
        "model.resolution=48", "training.local-epochs=1", "training.local-steps=3", "data.source=folder"
    ) == (
        "data.root is empty: data.source = folder needs a folder; set data.root=/path/to/the/images",
        "model.resolution = 48: allowed is a power of two: 32, 64, 128, 256 or 512",
        "training.local-steps = 3 and training.local-epochs = 1: give one of them",
    )


def test_a_layer_without_channels_is_refused() -> None:
    assert problems_of("stylegan2.channel-base=32", "model.resolution=64")[0].startswith(
        "stylegan2.channel-base = 32: allowed is at least model.resolution = 64"
    )


def test_paths_become_absolute() -> None:
    configuration = resolve([parse_assignments(["run-dir=runs/x", "data.cache-dir=~/cache"])]).with_absolute_paths()
    assert configuration.run_dir == str(Path.cwd() / "runs" / "x")
    assert configuration.data.cache_dir == str(Path.home() / "cache")
    assert configuration.data.root == ""


def test_a_preset_for_a_folder_becomes_generated_images() -> None:
    preset = Layer("preset", {"data.source": "ham10000", "data.root": "images"})
    configuration = resolve([preset, parse_assignments(["data.source=phantom"])]).with_absolute_paths()
    assert (configuration.data.source, configuration.data.root) == ("phantom", str(Path.cwd() / "images"))


def test_a_home_that_is_not_there_is_named_with_the_key() -> None:
    configuration = resolve([parse_assignments(["data.source=folder", "data.root=~nobody-of-this-name/images"])])
    with pytest.raises(DataError) as caught:
        configuration.with_absolute_paths()
    assert str(caught.value) == (
        "data.root = '~nobody-of-this-name/images': there is no home folder that ~nobody-of-this-name stands for; give "
        "the whole path"
    )


def test_local_epochs_replace_local_steps() -> None:
    training = resolve([parse_assignments(["training.local-epochs=0.5"])]).training
    assert (training.local_epochs, training.local_steps) == (0.5, 0)


def test_an_assignment_without_a_value_is_refused() -> None:
    assert problems_of("rounds")[0] == "--set rounds: is not KEY=VALUE; write for example --set rounds=10"


@given(st.lists(st.text(st.sampled_from("a ,\\\"'é"), min_size=1).filter(lambda name: name == name.strip() != "")))
def test_joined_names_are_split_into_the_same(names: list[str]) -> None:
    assert split_names(join_names(names)) == tuple(names)


def test_a_path_that_is_not_utf_8() -> None:
    assert problems_of("data.source=folder", "data.root=/caf\udce9", "data.cache-dir=/\udcff") == (
        r"data.root = '/caf\xe9': is not UTF-8 text; rename what is not",
        r"data.cache-dir = '/\xff': is not UTF-8 text; rename what is not",
    )


def test_a_comma_in_a_name() -> None:
    assert join_names(["Melanoma, NOS", "Nevus"]) == r"Melanoma\, NOS,Nevus"
    assert split_names(r" Melanoma\, NOS , Nevus,,") == ("Melanoma, NOS", "Nevus")
    configuration = resolve([parse_assignments([r"data.classes=Melanoma\, NOS,Nevus\, NOS"])])
    assert configuration.class_names == ("Melanoma, NOS", "Nevus, NOS")
    assert configuration.with_values({"rounds": 3}).class_names == configuration.class_names


def test_a_text_key_takes_what_looks_like_a_number() -> None:
    configuration = resolve([parse_assignments(["data.classes=1,2", "name=3"])])
    assert (configuration.data.classes, configuration.name) == ("1,2", "3")


@pytest.mark.parametrize("content", [b"rounds = = 3", b"\xff\xfd"])
def test_a_file_that_is_no_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="broken.toml: is not"):
        load_toml(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none.toml: cannot be read \(No such file or directory\)"):
        load_toml(tmp_path / "none.toml")


KNOWN = {*schema()().to_flat(), *RENAMED_KEYS}


@given(st.text(min_size=1).filter(lambda key: key not in KNOWN))
def test_no_unknown_key_passes(key: str) -> None:
    with pytest.raises(ConfigurationError, match="unknown key; the nearest known key is"):
        resolve([Layer("test", {key: 1})])


PRESETS = sorted(
    path for path in (REPOSITORY / "conf").rglob("*.toml") if not path.name.startswith(("benchmark-", "study-"))
)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_every_preset_resolves(preset: Path) -> None:
    preset_layer = load_toml(preset)
    needs_root = "data.source" in preset_layer.values
    resolve([preset_layer, Layer("test", {"data.root": "somewhere"} if needs_root else {})])


# ---------------------------------------------------------------- families of models


def test_every_family_has_a_table_of_its_name_and_the_schema_alone_has_them() -> None:
    configuration = resolve([])
    assert {name: type(getattr(configuration, name)) for name in FAMILIES} == {
        "stylegan2": StyleGAN2Settings,
        "vae": VAESettings,
    }
    assert not hasattr(Configuration(), "stylegan2")
    assert isinstance(configuration, Configuration)
    assert configuration == schema()()


def test_a_configuration_gives_the_table_of_the_family_in_use() -> None:
    gan = resolve([parse_assignments(["stylegan2.gamma=0.5", "stylegan2.augmentation.name=diffaugment"])])
    own = gan.own(StyleGAN2Settings)
    assert (own.gamma, own.augmentation.name, gan.family) == (0.5, "diffaugment", FAMILIES["stylegan2"])
    vae = resolve([parse_assignments(["model.name=vae", "vae.beta=2.0"])])
    assert (vae.own(VAESettings).beta, vae.family, vae.anatomy.trained) == (
        2.0,
        FAMILIES["vae"],
        ("encoder", "decoder"),
    )
    with pytest.raises(AssertionError):
        vae.own(StyleGAN2Settings)


@pytest.mark.parametrize(
    ("name", "other", "assignment", "shown"),
    [
        ("vae", "stylegan2", "stylegan2.gamma=0.2", "stylegan2.gamma = 0.2"),
        ("vae", "stylegan2", "stylegan2.augmentation.name=ada", "stylegan2.augmentation.name = 'ada'"),
        ("stylegan2", "vae", "vae.latent-size=16", "vae.latent-size = 16"),
    ],
)
def test_an_option_of_another_family_is_refused_by_name(name: str, other: str, assignment: str, shown: str) -> None:
    assert problems_of(f"model.name={name}", assignment) == (
        f"{shown}: is an option of model.name = {other}, and here model.name = {name}; leave it out, or set "
        f"model.name={other}",
    )


def test_an_option_of_another_family_at_its_default_is_nobodys_concern() -> None:
    """A run's config.toml has every table."""
    configuration = resolve([parse_assignments(["model.name=vae", "stylegan2.gamma=2.0"])])
    assert resolve([Layer("config.toml", configuration.to_flat())]) == configuration


def test_an_unknown_family_is_refused_with_those_that_there_are() -> None:
    assert problems_of("model.name=gan") == ("model.name = 'gan': allowed is one of stylegan2, vae",)
    # What is wrong beside it is said too, but for what only a family could say.
    assert problems_of(
        "model.name=gan", "rouns=3", "training.local-epochs=1.0", "training.local-steps=3", "strategy.name=fedagv",
        "strategy.averaged-state=adam", "attack.scale=2.0",
    ) == (
        "rouns (--set): unknown key; the nearest known key is rounds",
        "training.local-steps = 3 and training.local-epochs = 1: give one of them",
        "attack.scale = 2.0: attack.name = none attacks nothing; set attack.name",
        "model.name = 'gan': allowed is one of stylegan2, vae",
        "strategy.name = 'fedagv': no such strategy; did you mean fedavg or qfedavg or fedavgm? There are "
        + ", ".join(STRATEGIES),
    )  # fmt: skip
    assert problems_of("model.name=gan", "strategy.proximal-mu=0.5") == (
        "model.name = 'gan': allowed is one of stylegan2, vae",
        "strategy.proximal-mu = 0.5: fedgan has no such option, it is one of fedprox; leave it out, or choose another "
        "strategy.name",
    )


def test_heads_are_reserved() -> None:
    assert problems_of("stylegan2.heads=class") == (
        "stylegan2.heads = 'class': there are no heads yet; leave it empty",
    )


# ---------------------------------------------------------------- keys of earlier versions


def test_every_renamed_key_is_called_what_there_is() -> None:
    known = fields_by_key()
    assert len(RENAMED_KEYS) == 23
    assert len(set(RENAMED_KEYS.values())) == 23
    assert all(new in known and old not in known for old, new in RENAMED_KEYS.items())


@pytest.mark.parametrize("old", RENAMED_KEYS)
def test_an_old_key_is_refused_with_its_new_name(old: str, tmp_path: Path) -> None:
    new = f"is called {RENAMED_KEYS[old]} now; write that in its place"
    assert problems_of(f"{old}=1") == (f"{old} (--set): {new}",)
    file = tmp_path / "mine.toml"
    table, _, key = old.partition(".")
    file.write_text(f"[{table}]\n{key} = 1\n", encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        resolve([load_toml(file)])
    assert caught.value.problems == (f"{old} ({file}): {new}",)


# Of a config.toml that version 2682e7d wrote: the tables whose keys have moved, whole.
STORED = """
rounds = 24

[model]
name = "stylegan2"
conditional = true
resolution = 32
latent-size = 32
mapping-layers = 2
channel-base = 2048
channel-max = 16
resampling = "fir"
minibatch-std = 4

[training]
local-steps = 40
local-epochs = 0.0
batch-size = 8
threads = 1
loss = "logistic"
gamma = 1.5
penalty-every = 8
learning-rate = 0.002
beta1 = 0.0
beta2 = 0.99
ema-half-life-images = 5000.0
ema-ramp = 0.1
style-mixing = 0.9
path-length-weight = 2.0
path-length-every = 4
path-length-decay = 0.01
flips = true
fake-labels = "uniform"
label-dropout = 0.1
transition-start-images = 0.0
transition-images = 500.0
balanced-classes = false
precision = "auto"

[augmentation]
name = "ada"
transforms = "bgc,-hue"
p = 0.0
ada-target = 0.5
ada-every = 4
ada-kimg = 100.0

[strategy]
name = "fedgan"
generator = ""
discriminator = ""
private = ""
averaged-state = "ada-p"
server-learning-rate = 0.0
server-momentum = 0.9
server-beta1 = 0.9
server-beta2 = 0.99
server-tau = 0.001
proximal-mu = 0.01
trim = 0.2
malicious = 1
selected = 0
fairness-q = 0.1
fairness-lipschitz = 0.001
fairness-loss = "loss-discriminator"
dynamic-alpha = 0.01
synchronise = "generator"
divergence-weight = "more"
weighted-networks = "auto"
temperature = 1.0
samples = 256
personal-part = "mapping"
fine-tune-rounds = 4
generator-steps = 0
swap-rounds = 10
clip-norm = 1.0
noise-multiplier = 0.0
delta = 0.001
"""
NOW = [
    "stylegan2.latent-size=32", "stylegan2.channel-base=2048", "stylegan2.channel-max=16",
    "stylegan2.resampling=fir", "stylegan2.minibatch-std=4",
    "stylegan2.loss=logistic", "stylegan2.gamma=1.5", "stylegan2.penalty-every=8", "stylegan2.style-mixing=0.9",
    "stylegan2.path-length-weight=2.0", "stylegan2.fake-labels=uniform", "stylegan2.label-dropout=0.1",
    "stylegan2.transition-images=500.0", "stylegan2.augmentation.name=ada",
    "stylegan2.augmentation.transforms=bgc,-hue", "stylegan2.augmentation.ada-target=0.5",
    "stylegan2.augmentation.ada-kimg=100.0", "strategy.averaged-state=ada-p", "training.balanced-classes=none",
    "training.learning-rate-decay=none", "rounds=24", "training.local-steps=40", "model.site-embedding=off",
]  # fmt: skip


def test_what_an_earlier_version_left_behind_is_what_it_was(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(STORED, encoding="utf-8")
    layer = load_stored_toml(file)
    assert layer.origin == str(file)
    configuration = resolve([layer])
    assert configuration == resolve([parse_assignments(NOW)])
    # The default of qfedavg's loss is called otherwise now, and means the same.
    assert configuration.strategy.fairness_loss == "auto"
    assert resolve([Layer("config.toml", configuration.to_flat())]) == configuration
    # A file of a user is not read so.
    with pytest.raises(ConfigurationError) as caught:
        resolve([load_toml(file)])
    assert len([problem for problem in caught.value.problems if " now; write that in its place" in problem]) == 23


def test_a_stored_file_of_this_version_is_read_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    configuration = resolve([parse_assignments(["model.name=vae", "vae.beta=2.0"])])
    file.write_text(configuration.to_toml(), encoding="utf-8")
    assert load_stored_toml(file).values == load_toml(file).values
    assert resolve([load_stored_toml(file)]) == configuration
