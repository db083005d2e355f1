"""Which uploads are audited: the smallest hospital's, which is most at risk, and the largest's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from flwr.app import ArrayRecord

from federation.config import Configuration, parse_assignments
from federation.models import build_model
from federation.run_directory import RunDirectory
from federation.settings.participation import ParticipationSettings
from federation.sharing import named_tensors
from federation.site import Site
from server.evaluation.attacks import read_membership
from server.evaluation.judge import images_to_search
from server.evaluation.membership import Attacked, load_attacked, save_uploads
from server.training_round import TrainingRound
from strategies.configuration import resolve

SMALL = {
    "stylegan2": ("stylegan2.channel-max=8", "stylegan2.channel-base=64", "stylegan2.latent-size=8"),
    "vae": ("model.name=vae", "vae.channel-max=8", "vae.channel-base=64", "vae.latent-size=4"),
}
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
LABELS = np.array([0, 1, 0])


def of_family(family: str) -> Configuration:
    return resolve([parse_assignments(["rounds=2", "data.classes=mel,nv", *SMALL[family]])])


def uploaded(configuration: Configuration, size: float) -> dict[str, np.ndarray]:
    networks = named_tensors(build_model(configuration).networks)
    return {name: np.asarray(value.detach().numpy() * size, order="C") for name, value in networks.items()}


def audited(path: Path, configuration: Configuration) -> Attacked:
    return load_attacked(RunDirectory(path), configuration, torch.device("cpu"))


def test_the_round_keeps_what_the_smallest_and_the_largest_sent() -> None:
    last = TrainingRound(
        grid=None,  # type: ignore[arg-type]
        server_round=1,
        sites=(),
        expected={},
        settings=ParticipationSettings(),
        last_rounds={},
    )
    for name, num_images in (("a", 30), ("b", 20), ("c", 40), ("d", 20), ("e", 40)):
        last._keep_upload(Site(name=name, node_id=1, num_images=num_images), ArrayRecord())
    # Of several of a size, the first by name.
    assert {which: site.name for which, (site, _) in last.uploads.items()} == {"smallest": "b", "largest": "c"}


@pytest.mark.parametrize("family", list(SMALL))
def test_both_uploads_are_attacked_by_what_the_family_scores_with(family: str, tmp_path: Path) -> None:
    configuration = of_family(family)
    sent = {"smallest": ("village", uploaded(configuration, 1.0)), "largest": ("city", uploaded(configuration, 0.5))}
    save_uploads(RunDirectory(tmp_path), configuration.anatomy, 2, sent)
    found = audited(tmp_path, configuration).uploads
    assert {name: upload.site for name, upload in found.items()} == {
        "upload_smallest": "village",
        "upload_largest": "city",
    }
    scores = []
    for upload in found.values():
        assert upload.scores is not None, upload.reason
        scores.append(upload.scores(IMAGES, LABELS))
    assert all(np.isfinite(values).all() and values.shape == (3,) for values in scores)
    assert not np.allclose(*scores)  # each by its own networks
    # Networks that draw alone are not kept.
    kept = safetensors.numpy.load_file(tmp_path / "upload" / "smallest.safetensors")
    assert {name.partition(".")[0] for name in kept} == set(configuration.anatomy.scoring)


def test_one_hospital_is_audited_once_and_old_rounds_not_at_all(tmp_path: Path) -> None:
    configuration = of_family("vae")
    sent = ("alone", uploaded(configuration, 1.0))
    save_uploads(RunDirectory(tmp_path), configuration.anatomy, 2, {"smallest": sent, "largest": sent})
    found = audited(tmp_path, configuration).uploads
    assert found["upload_largest"].site == "alone"
    assert found["upload_smallest"].reason == "there is one hospital: its upload is the largest's"
    save_uploads(RunDirectory(tmp_path), configuration.anatomy, 1, {"smallest": sent, "largest": sent})
    assert "of round 1, not of the last" in audited(tmp_path, configuration).uploads["upload_largest"].reason


@pytest.mark.parametrize("file", ["networks.safetensors", "discriminator.safetensors"])
def test_the_one_upload_of_an_earlier_version_is_read(file: str, tmp_path: Path) -> None:
    configuration = of_family("stylegan2")
    (tmp_path / "upload").mkdir()
    safetensors.numpy.save_file(uploaded(configuration, 1.0), tmp_path / "upload" / file)
    (tmp_path / "upload" / "upload.json").write_text(json.dumps({"site": "city", "round": 2}))
    found = audited(tmp_path, configuration).uploads
    assert found["upload_largest"].site == "city"
    assert found["upload_largest"].scores is not None
    assert found["upload_smallest"].reason == "the run's version kept the largest hospital's alone"


def test_an_earlier_judgement_of_one_upload_is_read_as_the_largests() -> None:
    membership = read_membership({"membership": {"upload": {"auc": 0.6, "site": "city"}}})
    assert membership == {"upload_largest": {"auc": 0.6, "site": "city"}}


@pytest.mark.parametrize(
    ("num_train", "asked", "resolution", "count", "words"),
    [
        (5921, 0, 32, 20_000, "the most at 32 px"),
        (2400, 0, 32, 9600, "4 for each of 2,400 training images"),
        (5921, 0, 64, 5000, "the most at 64 px"),
        (5921, 0, 256, 2000, "the most at 256 px"),
        (2, 0, 32, 16, "4 for each"),
        (5921, 700, 64, 700, "evaluation.searched-images = 700"),
    ],
)
def test_how_many_are_searched(num_train: int, asked: int, resolution: int, count: int, words: str) -> None:
    found, why = images_to_search(num_train, asked, resolution)
    assert found == count
    assert words in why
