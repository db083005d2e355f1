"""Hostile hospitals: who they are, what they do to images and updates by hand, and that no real site is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, RecordDict
from PIL import Image

from clients.app import app as client_app
from clients.attack import falsify_update, is_attacker, poison_images
from clients.hospital import Identity
from clients.questions import load_cached_hospital
from data_partitions.dataset import ImageDataset
from federation.config import Configuration, parse_assignments
from federation.engine.in_process import InProcessGrid
from federation.exchange import ARRAYS, CONFIG, SERVER_ROUND, pack_arrays, unpack_arrays
from federation.models import GenerativeModel, build_model
from federation.seeding import torch_stream
from federation.settings.participation import AttackSettings
from federation.sharing import SharingPolicy, shared_tensors
from strategies.building import build_local_rule
from strategies.configuration import resolve


def configured(*assignments: str) -> Configuration:
    return resolve([parse_assignments(assignments)])


# ---------------------------------------------------------------- who


def attackers(number: int, *assignments: str, hospitals: int = 20) -> list[int]:
    configuration = configured(
        "attack.name=random", f"attack.hospitals={number}", f"partition.hospitals={hospitals}", *assignments
    )
    return [number for number in range(hospitals) if is_attacker(configuration, number)]


@pytest.mark.parametrize("number", [1, 5, 19, 20])
def test_as_many_hospitals_attack_as_are_asked_for(number: int) -> None:
    assert [len(attackers(number, f"partition.seed={seed}")) for seed in range(5)] == [number] * 5


def test_the_attackers_are_the_same_for_every_seed_and_attack() -> None:
    chosen = attackers(5)
    for assignment in ("seed=1", "seed=99", "data.split-seed=3", "rounds=2", "attack.scale=7.0"):
        assert attackers(5, assignment) == chosen
    for name in ("sign-flipped", "free-rider", "flipped-labels", "noisy-camera"):
        assert attackers(5, f"attack.name={name}") == chosen


def test_another_partition_has_other_attackers() -> None:
    assert len({tuple(attackers(5, f"partition.seed={seed}")) for seed in range(10)}) >= 9
    # Each hospital is one of them about as often: 400 draws of 5 of 20.
    counts = np.bincount(
        [hospital for seed in range(400) for hospital in attackers(5, f"partition.seed={seed}")], minlength=20
    )
    assert counts.sum() == 2000
    assert np.abs(counts - 100).max() < 5 * np.sqrt(400 * 0.25 * 0.75)


def test_without_an_attack_nobody_attacks() -> None:
    assert not any(is_attacker(configured(), number) for number in range(4))


# ---------------------------------------------------------------- what it does to an update

START = {"w": torch.tensor([1.0, 2.0, -3.0]), "b": torch.tensor(0.5)}
SENT = {"w": torch.tensor([1.5, 2.0, -4.0]), "b": torch.tensor(0.25), "extra": torch.tensor([2.0])}


@pytest.mark.parametrize(
    ("name", "scale", "w", "b", "extra"),
    [
        # Updates are 0.5, 0, -1; -0.25; and 2 where nothing came.
        ("sign-flipped", 1.0, [0.5, 2.0, -2.0], 0.75, [-2.0]),
        ("sign-flipped", 4.0, [-1.0, 2.0, 1.0], 1.5, [-8.0]),
        ("scaled", 10.0, [6.0, 2.0, -13.0], -2.0, [20.0]),
        ("scaled", 1.0, [1.5, 2.0, -4.0], 0.25, [2.0]),
        ("free-rider", 3.0, [1.0, 2.0, -3.0], 0.5, [0.0]),
        # These harm images alone.
        ("flipped-labels", 3.0, [1.5, 2.0, -4.0], 0.25, [2.0]),
        ("noisy-camera", 3.0, [1.5, 2.0, -4.0], 0.25, [2.0]),
    ],
)
def test_what_is_sent_by_hand(name: str, scale: float, w: list[float], b: float, extra: list[float]) -> None:
    attack = AttackSettings(name=name, scale=scale)  # type: ignore[arg-type]
    found = falsify_update(SENT, START, attack, torch_stream(0, "test"))
    assert {key: value.tolist() for key, value in found.items()} == {"w": w, "b": b, "extra": extra}


def test_the_networks_of_the_hospital_stay_as_they_are() -> None:
    """The state that a hospital keeps, and what it was sent, are not falsified."""
    sent, start = ({key: value.clone() for key, value in entries.items()} for entries in (SENT, START))
    for name in ("sign-flipped", "scaled", "free-rider", "random"):
        falsify_update(sent, start, AttackSettings(name=name, scale=3.0), torch_stream(0, "test"))  # type: ignore[arg-type]
    assert all(torch.equal(sent[key], value) for key, value in SENT.items())
    assert all(torch.equal(start[key], value) for key, value in START.items())


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_noise_is_as_large_as_the_update_and_has_another_direction(scale: float) -> None:
    stream = torch_stream(1, "test")
    start = {"w": torch.randn(100, 200, generator=stream), "still": torch.ones(5)}
    update = 0.03 * torch.randn(100, 200, generator=stream) + 0.04
    sent = {"w": start["w"] + update, "still": torch.ones(5)}
    attack = AttackSettings(name="random", scale=scale)

    found = falsify_update(sent, start, attack, torch_stream(0, "test"))
    noise = found["w"] - start["w"]
    # The update's root mean square is sqrt(0.03² + 0.04²) = 0.05; of 20,000 draws it is known to half a percent.
    assert noise.square().mean().sqrt().item() == pytest.approx(0.05 * scale, rel=0.03)
    assert abs(torch.cosine_similarity(noise.flatten(), update.flatten(), dim=0).item()) < 0.04
    assert abs(noise.mean().item()) < 0.002 * scale
    assert torch.equal(found["still"], torch.ones(5))  # what has not moved has no size

    again = falsify_update(sent, start, attack, torch_stream(0, "test"))
    other = falsify_update(sent, start, attack, torch_stream(2, "test"))
    assert torch.equal(again["w"], found["w"])
    assert not torch.equal(other["w"], found["w"])


# ---------------------------------------------------------------- what it does to images


def dataset(labels: list[int], grey: int = 128, side: int = 16) -> ImageDataset:
    images = np.full((len(labels), side, side, 3), grey, dtype=np.uint8)
    return ImageDataset(images, np.array(labels), np.arange(len(labels)))


def test_flipped_labels_are_in_reverse_and_twice_as_they_were() -> None:
    configuration = configured("attack.name=flipped-labels", "data.classes=a,b,c,d")
    data = dataset([0, 1, 2, 3, 3, 1])
    poison_images(data, configuration, "hospital-01")
    assert data.labels.tolist() == [3, 2, 1, 0, 0, 2]
    assert data.labels.dtype == torch.int64
    assert bool((data.images == 128).all())
    poison_images(data, configuration, "hospital-01")
    assert data.labels.tolist() == [0, 1, 2, 3, 3, 1]


@pytest.mark.parametrize("scale", [0.05, 0.2])
def test_grain_has_the_asked_standard_deviation(scale: float) -> None:
    """Pixels from -1 to 1 are 255 grey levels: 127.5 for each unit."""
    configuration = configured("attack.name=noisy-camera", f"attack.scale={scale}")
    data = dataset([0, 1, 2, 0])
    poison_images(data, configuration, "hospital-01")
    assert (data.images.dtype, tuple(data.images.shape)) == (torch.uint8, (4, 16, 16, 3))
    assert data.labels.tolist() == [0, 1, 2, 0]
    change = data.images.double() - 128
    assert change.std().item() == pytest.approx(127.5 * scale, rel=0.05)
    assert abs(change.mean().item()) < 5 * 127.5 * scale / np.sqrt(4 * 16 * 16 * 3)
    assert len({image.numpy().tobytes() for image in data.images}) == 4  # each has a grain of its own


def test_grain_ends_at_black_and_white() -> None:
    configuration = configured("attack.name=noisy-camera", "attack.scale=0.5")
    for grey in (0, 255):
        data = dataset([0, 1], grey=grey)
        poison_images(data, configuration, "a")
        # Half of the grain goes beyond what there is; nothing comes out at the other end.
        assert (data.images == grey).float().mean().item() == pytest.approx(0.5, abs=0.08)
        assert (data.images.double() - grey).abs().mean().item() == pytest.approx(63.75 * 0.3989, rel=0.15)


def test_grain_is_the_hospitals_own_and_the_same_for_every_seed() -> None:
    def grain(site: str, *assignments: str) -> torch.Tensor:
        data = dataset([0, 1])
        poison_images(data, configured("attack.name=noisy-camera", "attack.scale=0.1", *assignments), site)
        return data.images

    assert torch.equal(grain("a"), grain("a", "seed=5", "rounds=3"))
    assert not torch.equal(grain("a"), grain("b"))
    assert not torch.equal(grain("a"), grain("a", "partition.seed=1"))


@pytest.mark.parametrize("name", ["none", "random", "scaled", "sign-flipped", "free-rider"])
def test_attacks_on_updates_leave_images_alone(name: str) -> None:
    data = dataset([0, 1, 2])
    scale = [] if name in ("none", "free-rider") else ["attack.scale=2.0"]
    poison_images(data, configured(f"attack.name={name}", *scale), "a")
    assert data.labels.tolist() == [0, 1, 2]
    assert bool((data.images == 128).all())


# ---------------------------------------------------------------- in the app


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty images of two classes, a patient each."""
    root = tmp_path_factory.mktemp("images")
    rows = ["image,label,patient"]
    for number in range(40):
        pixels = np.random.default_rng(number).integers(60, 200, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"i{number}.png")
        rows.append(f"i{number}.png,{'nv' if number % 2 else 'mel'},p{number}")
    (root / "list.csv").write_text("\n".join(rows) + "\n")
    return root


SIMULATED = {"partition-id": 0, "num-partitions": 1}


def deployed(folder: Path, tmp_path: Path) -> dict[str, int | str]:
    """A real site, called as the one hospital of the simulation is: streams are equal, images are the same."""
    return {**SIMULATED, "site": "all", "data-dir": str(folder), "state-dir": str(tmp_path / "state")}


def of_folder(folder: Path, tmp_path: Path, cache_dir: str, *assignments: str) -> Configuration:
    return configured(
        "data.source=folder", f"data.root={folder}", "data.group-column=patient", "data.classes=mel,nv",
        f"data.cache-dir={cache_dir}", f"run-dir={tmp_path / 'run'}", "partition.hospitals=1", "partition.min-images=1",
        "stylegan2.channel-max=8", "stylegan2.latent-size=8", "training.local-steps=2", "training.batch-size=4",
        "training.precision=fp32", *assignments,
    )  # fmt: skip


def everything(model: GenerativeModel) -> dict[str, torch.Tensor]:
    """What is shared where nothing is private."""
    return shared_tensors(model.networks, SharingPolicy(model.anatomy))


def trained(configuration: Configuration, node: dict[str, int | str]) -> dict[str, np.ndarray]:
    """What a node sends after the first round."""
    grid = InProcessGrid(client_app, {2: node})  # type: ignore[dict-item]
    arrays = pack_arrays(everything(build_model(configuration)))
    settings = ConfigRecord({**configuration.to_flat(), SERVER_ROUND: 1})
    message = grid.create_message(RecordDict({ARRAYS: arrays, CONFIG: settings}), "train", 2, "1")
    (reply,) = grid.send_and_receive([message])
    assert not reply.has_error(), reply.error.reason
    return unpack_arrays(reply.content.array_records[ARRAYS])


def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(one[name].tobytes() == value.tobytes() for name, value in other.items())


@pytest.mark.parametrize("name", ["sign-flipped", "flipped-labels", "noisy-camera"])
def test_a_simulated_hospital_attacks_and_a_deployed_one_never_does(
    name: str, folder: Path, tmp_path: Path, cache_dir: str
) -> None:
    honest = of_folder(folder, tmp_path / "honest", cache_dir)
    scale = [] if name == "flipped-labels" else ["attack.scale=2.0"]
    hostile = of_folder(folder, tmp_path / "hostile", cache_dir, f"attack.name={name}", *scale)
    assert is_attacker(hostile, 0)
    expected = trained(honest, dict(SIMULATED))
    assert not equal(trained(hostile, dict(SIMULATED)), expected)
    assert equal(trained(hostile, deployed(folder, tmp_path)), expected)


def test_a_sign_flipping_hospital_sends_the_update_of_an_honest_one_turned_round(
    folder: Path, tmp_path: Path, cache_dir: str
) -> None:
    honest = of_folder(folder, tmp_path / "honest", cache_dir)
    hostile = of_folder(folder, tmp_path / "hostile", cache_dir, "attack.name=sign-flipped", "attack.scale=2.0")
    start = everything(build_model(honest))
    update = trained(honest, dict(SIMULATED))
    for name, sent in trained(hostile, dict(SIMULATED)).items():
        before = start[name].detach().numpy()
        np.testing.assert_allclose(sent - before, -2 * (update[name] - before), rtol=1e-3, atol=1e-6)
    # It keeps what it has learned, not what it has sent.
    states = [
        next((tmp_path / name / "run" / "hospitals" / "all").glob("*.safetensors")).read_bytes()
        for name in ("honest", "hostile")
    ]
    assert states[0] == states[1]


def scaffolded(configuration: Configuration, control: float) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What a hospital under SCAFFOLD is sent, its control variate being `control`, and what it sends back."""
    model = build_model(configuration)
    down = build_local_rule(configuration).down(everything(model), model.networks)
    arrays = {name: value.detach().numpy().copy() for name, value in down.items()}
    for name in arrays:
        if name.startswith("control."):
            arrays[name][...] = control
    grid = InProcessGrid(client_app, {2: dict(SIMULATED)})  # type: ignore[dict-item]
    settings = ConfigRecord({**configuration.to_flat(), SERVER_ROUND: 1})
    message = grid.create_message(RecordDict({ARRAYS: pack_arrays(arrays), CONFIG: settings}), "train", 2, "1")
    (reply,) = grid.send_and_receive([message])
    assert not reply.has_error(), reply.error.reason
    return arrays, unpack_arrays(reply.content.array_records[ARRAYS])


def test_a_change_of_a_control_variate_is_falsified_as_the_change_that_it_is(
    folder: Path, tmp_path: Path, cache_dir: str
) -> None:
    """What comes down under this name is the variate itself, and what goes up its change."""
    scaffold = "strategy.name=scaffold"
    lazy = of_folder(folder, tmp_path / "lazy", cache_dir, scaffold, "attack.name=free-rider")
    sent, back = scaffolded(lazy, 5.0)
    controls = [name for name in back if name.startswith("control.")]
    assert controls
    for name in back:
        np.testing.assert_array_equal(back[name], np.zeros_like(sent[name]) if name in controls else sent[name])

    _, honest = scaffolded(of_folder(folder, tmp_path / "honest", cache_dir, scaffold), 5.0)
    turned = of_folder(folder, tmp_path / "turned", cache_dir, scaffold, "attack.name=sign-flipped", "attack.scale=4.0")
    _, hostile = scaffolded(turned, 5.0)
    for name in controls:
        np.testing.assert_array_equal(hostile[name], -4 * honest[name])


def test_images_of_a_deployed_site_are_not_poisoned(folder: Path, tmp_path: Path, cache_dir: str) -> None:
    site = Identity.from_node_config(deployed(folder, tmp_path))
    clean = load_cached_hospital(of_folder(folder, tmp_path, cache_dir), Identity(0, 1), "").dataset
    noisy = of_folder(folder, tmp_path, cache_dir, "attack.name=noisy-camera", "attack.scale=0.2")
    assert torch.equal(load_cached_hospital(noisy, site, "").dataset.images, clean.images)
    assert not torch.equal(load_cached_hospital(noisy, Identity(0, 1), "").dataset.images, clean.images)
    flipped = of_folder(folder, tmp_path, cache_dir, "attack.name=flipped-labels")
    assert torch.equal(load_cached_hospital(flipped, site, "").dataset.labels, clean.labels)
    assert torch.equal(load_cached_hospital(flipped, Identity(0, 1), "").dataset.labels, 1 - clean.labels)
    # The cache of decoded images, which others read, is as it was.
    assert torch.equal(
        load_cached_hospital.__wrapped__(of_folder(folder, tmp_path, cache_dir), site, "").dataset.images, clean.images
    )
