"""Who a node is, and what a hospital keeps for itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from clients.hospital import Identity, PrivateState, folder_name, load_hospital
from clients.local_training import train_locally
from data_partitions.dataset import ImageDataset
from federation.batch import Batch
from federation.config import Configuration, parse_assignments
from federation.errors import ConfigurationError, DataError, NotFiniteError, StorageError
from federation.seeding import torch_stream
from federation.settings.training import TrainingSettings
from server.inputs import prepare_inputs
from strategies.configuration import resolve


def configuration(cache_dir: str, tmp_path: Path, *assignments: str) -> Configuration:
    return resolve(
        [
            parse_assignments(
                [
                    f"data.cache-dir={cache_dir}",
                    f"run-dir={tmp_path}",
                    # Read where images are generated: elsewhere it would be refused.
                    *([] if any("data.source=" in one for one in assignments) else ["data.phantom-images=400"]),
                    "partition.min-images=1",
                    *assignments,
                ]
            )
        ]
    )


def test_identity_of_a_simulated_and_of_a_deployed_node() -> None:
    assert Identity.from_node_config({"partition-id": 2, "num-partitions": 4}) == Identity(2, 4)
    deployed = {"partition-id": 0, "num-partitions": 3, "site": "a", "data-dir": "/images"}
    assert Identity.from_node_config(deployed) == Identity(0, 3, "a", "/images", "")
    with pytest.raises(ConfigurationError, match="partition-id and num-partitions missing"):
        Identity.from_node_config({})
    with pytest.raises(ConfigurationError, match="data-dir missing or empty; a site is started with"):
        Identity.from_node_config({"partition-id": 0, "num-partitions": 3, "site": "a"})


def test_a_site_s_own_paths_may_begin_at_its_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    node = {"partition-id": 0, "num-partitions": 3, "site": "a"}
    paths = {"data-dir": "~/images", "state-dir": "~/state", "policy": "~/policy.toml"}
    expected = [str(tmp_path / name) for name in ("images", "state", "policy.toml")]
    identity = Identity.from_node_config({**node, **paths})
    assert [identity.data_dir, identity.state_dir, identity.policy] == expected
    with pytest.raises(DataError, match=r"state-dir = '~no-such-user/state': there is no home folder"):
        Identity.from_node_config({**node, **paths, "state-dir": "~no-such-user/state"})


def test_simulated_hospitals_hold_disjoint_images(cache_dir: str, tmp_path: Path) -> None:
    settings = configuration(cache_dir, tmp_path)
    hospitals = [load_hospital(settings, Identity(number, 4), torch.device("cpu")) for number in range(4)]
    assert [hospital.site for hospital in hospitals] == [
        "coast-practice",
        "north-clinic",
        "slide-archive",
        "university-hospital",
    ]
    images = [bytes(image.numpy().tobytes()) for hospital in hospitals for image in hospital.dataset.images]
    assert len(set(images)) == len(images)
    # All count sites, and whatever else has a name, alike; each knows of its own images where they come from.
    vocabularies = [hospital.dataset.vocabularies for hospital in hospitals]
    assert vocabularies == [vocabularies[0]] * 4
    for hospital in hospitals:
        sites = {vocabularies[0]["site"][code] for code in hospital.dataset.attributes["site"].tolist()}
        assert sites == {hospital.site}


def test_a_site_holds_the_training_images_of_its_own_folder(cache_dir: str, tmp_path: Path, ham10000: Path) -> None:
    """A deployed site computes the split that the pooled simulation computes."""
    common = ["data.source=ham10000", f"data.root={ham10000}", "data.classes=akiec,bcc,bkl,df,mel,nv,vasc"]
    pooled = load_hospital(
        configuration(cache_dir, tmp_path, *common, "partition.hospitals=1"), Identity(0, 1), torch.device("cpu")
    )
    alone = load_hospital(
        configuration(cache_dir, tmp_path, *common, "data.root=/elsewhere"),
        Identity(0, 3, "vienna", str(ham10000), str(tmp_path / "state")),
        torch.device("cpu"),
    )
    assert alone.site == "vienna"
    assert torch.equal(alone.dataset.images, pooled.dataset.images)
    assert alone.private_state.folder == tmp_path / "state" / tmp_path.name / "vienna"


@pytest.mark.parametrize("names", [["Melanoma, NOS", "Nevus"], ["Melanoma, NOS", "Carcinoma, NOS"], ["a\\, b", "a "]])
def test_hospitals_know_the_classes_whose_names_hold_a_comma(names: list[str], cache_dir: str, tmp_path: Path) -> None:
    for number in range(40):
        path = tmp_path / "images" / names[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (number, 0, 0)).save(path)
    common = ["data.source=folder", f"data.root={tmp_path / 'images'}", "partition.hospitals=1"]
    configuration_in_force = prepare_inputs(configuration(cache_dir, tmp_path, *common)).configuration
    assert configuration_in_force.class_names == tuple(sorted(name.strip() for name in names))
    for identity in (Identity(0, 1), Identity(0, 1, "clinic", str(tmp_path / "images"), str(tmp_path / "state"))):
        hospital = load_hospital(configuration_in_force, identity, torch.device("cpu"))
        assert set(hospital.dataset.labels.tolist()) == {0, 1}


def test_a_sites_own_log_says_what_is_left_out_and_what_is_enlarged(
    cache_dir: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(40):
        path = tmp_path / "images" / "nv" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (31, 31), (number, 0, 0)).save(path)
    (path.parent / "40.dcm").touch()
    common = ["data.source=folder", "data.root=/elsewhere", "data.classes=mel,nv", "partition.hospitals=1"]
    site = Identity(0, 1, "clinic", str(tmp_path / "images"), str(tmp_path / "state"))
    load_hospital(configuration(cache_dir, tmp_path, *common), site, torch.device("cpu"))
    assert [record.getMessage() for record in caplog.records if record.name == "dermafed"] == [
        "data: 1 .dcm file is not read; allowed are .jpg, .jpeg, .png, .tif, .tiff, .bmp, .webp; convert them",
        "data: 40 images are smaller than 32 px and are enlarged (nv/00.png of 31 px, nv/01.png of 31 px, nv/02.png of "
        "31 px and 37 more)",
    ]


def test_a_site_is_told_the_classes(cache_dir: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="data.classes is empty: sites must be told the classes"):
        load_hospital(configuration(cache_dir, tmp_path), Identity(0, 3, "a", "/images"), torch.device("cpu"))


def test_a_node_count_other_than_the_hospitals_is_an_error(cache_dir: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="partition.hospitals = 4, but there are 7 nodes"):
        load_hospital(configuration(cache_dir, tmp_path), Identity(0, 7), torch.device("cpu"))


def test_private_state_goes_back_to_every_kept_checkpoint(tmp_path: Path) -> None:
    state = PrivateState(tmp_path)
    assert state.load(0, 1) == {}
    for number in range(1, 36):
        assert state.load(number - 1, number).get("round", torch.tensor(0)).item() == number - 1
        checkpoints = [kept for kept in (7, 20, 33) if kept < number][-2:]
        state.save(number, {"round": torch.tensor(number)}, checkpoints)
    assert state.rounds() == [20, 33, 34, 35]
    # A run resumed after its checkpoint of round 20 trains round 21 from there.
    assert state.load(20, 21)["round"].item() == 20
    state.save(21, {"round": torch.tensor(210)}, [20])
    assert state.rounds() == [20, 21]


def test_private_state_of_a_hospital_that_missed_rounds(tmp_path: Path) -> None:
    state = PrivateState(tmp_path)
    for number in (7, 13, 19, 25):
        state.save(number, {"round": torch.tensor(number)}, [20] if number > 20 else [])
    assert state.rounds() == [19, 25]
    # Round 20's checkpoint needs what the hospital had then: its state of round 19.
    assert state.load(19, 21)["round"].item() == 19


def test_private_state_of_a_reply_that_was_not_taken_is_forgotten(tmp_path: Path) -> None:
    state = PrivateState(tmp_path)
    for number in (1, 2, 3):
        state.save(number, {"round": torch.tensor(number)}, [2])
    # The server refused the reply of round 3: round 4 goes on from round 2, and round 3 never was.
    assert state.load(2, 4)["round"].item() == 2
    assert state.rounds() == [2]
    # Asked again within a round, the hospital begins where it began before.
    state.save(4, {"round": torch.tensor(4)}, [2])
    assert state.load(2, 4)["round"].item() == 2
    # A run that starts anew has no state.
    assert state.load(0, 1) == {}


def test_private_state_that_is_damaged_is_named(tmp_path: Path) -> None:
    state = PrivateState(tmp_path)
    state.save(1, {"w": torch.ones(100)}, [])
    os.truncate(tmp_path / "round-0001.safetensors", 100)
    with pytest.raises(StorageError, match=r"round-0001\.safetensors: .* after round 1 is damaged .*put the file back"):
        state.load(1, 2)


def test_private_state_that_is_gone_is_missed(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="private state after round 3 is gone"):
        PrivateState(tmp_path).load(3, 4)


def test_folder_names() -> None:
    assert folder_name("vienna_dias") == "vienna_dias"
    names = [folder_name(site) for site in ("a b", "a_b", "a/b", "皮膚科", "整形科", "..", ".")]
    assert len(set(names)) == len(names)
    assert all(name.strip("._") and "/" not in name for name in names)


def test_steps_of_a_round() -> None:
    assert TrainingSettings(local_steps=20).count_steps(1000) == 20
    epochs = TrainingSettings(local_epochs=0.5, local_steps=0, batch_size=16)
    assert [epochs.count_steps(size) for size in (1, 32, 33, 1000)] == [1, 1, 2, 32]


class FailingModel:
    """Gives a loss that is not finite at one step."""

    anatomy = resolve([]).anatomy

    def __init__(self, step: int) -> None:
        self.remaining = step

    def train_step(self, batch: Batch, stream: torch.Generator) -> dict[str, torch.Tensor]:
        self.remaining -= 1
        return {"loss-generator": torch.tensor(1.0), "penalty-real": torch.tensor(1.0 if self.remaining else torch.inf)}


class SpoiledModel:
    """A regulariser's term is infinite at step 2; from step 3 on everything is."""

    anatomy = resolve([]).anatomy
    step = 0

    def train_step(self, batch: Batch, stream: torch.Generator) -> dict[str, torch.Tensor]:
        self.step += 1
        terms = {"loss-generator": torch.tensor(1.0 if self.step < 3 else torch.nan)}
        return terms | ({"penalty-path-length": torch.tensor(torch.inf)} if self.step == 2 else {})


def test_the_first_term_that_is_not_finite_is_the_one_that_is_named() -> None:
    images = torch.zeros(4, 8, 8, 3, dtype=torch.uint8).numpy()
    data = ImageDataset(images, torch.zeros(4, dtype=torch.int64).numpy(), torch.arange(4).numpy())
    with pytest.raises(NotFiniteError, match=r"^penalty-path-length is inf at local step 2 of 5; lower"):
        train_locally(SpoiledModel(), data, TrainingSettings(local_steps=5), torch_stream(0, "test"))  # type: ignore[arg-type]


def test_a_loss_that_is_not_finite_is_named_with_its_step() -> None:
    images = torch.zeros(4, 8, 8, 3, dtype=torch.uint8).numpy()
    data = ImageDataset(images, torch.zeros(4, dtype=torch.int64).numpy(), torch.arange(4).numpy())
    with pytest.raises(NotFiniteError) as caught:
        train_locally(FailingModel(3), data, TrainingSettings(local_steps=20), torch_stream(0, "test"))  # type: ignore[arg-type]
    assert str(caught.value) == (
        "penalty-real is inf at local step 3 of 20; lower training.learning-rate, raise stylegan2.gamma, or set "
        "training.precision=fp32"
    )
