"""Classes balanced over a federation: what hospitals show together, and what each weighs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data_partitions.dataset import ImageDataset
from federation.balance import WHOLE, balance_over
from federation.config import Layer
from federation.errors import ConfigurationError, WireError
from federation.seeding import torch_stream
from federation.site import Site
from strategies.configuration import asks_class_counts, resolve

# HAM10000's four sites, as its default split leaves them.
COUNTS = {
    "rosendahl": (180, 189, 285, 24, 188, 485, 1),
    "vidir_modern": (23, 136, 264, 30, 412, 1057, 45),
    "vidir_molemax": (0, 2, 66, 17, 7, 2222, 37),
    "vienna_dias": (0, 4, 4, 2, 35, 203, 3),
}


def sites(counts: dict[str, tuple[int, ...]], untold: tuple[str, ...] = ()) -> list[Site]:
    return [
        Site(name, number, sum(held), () if name in untold else held)
        for number, (name, held) in enumerate(counts.items())
    ]


def dataset(held: tuple[int, ...], totals: tuple[int, ...] = ()) -> ImageDataset:
    labels = np.repeat(np.arange(len(held)), held)
    images = np.zeros((len(labels), 2, 2, 3), dtype=np.uint8)
    found = ImageDataset(images, labels, np.arange(len(labels)), balanced=True)
    if totals:
        found.balance(totals)
    return found


def test_hospitals_together_show_every_class_alike_and_every_image_of_a_class_equally_often() -> None:
    balance = balance_over(sites(COUNTS))
    assert balance.totals == tuple(np.sum(list(COUNTS.values()), axis=0).tolist())
    shown = np.zeros(7)
    for site in balance.sites:
        data = dataset(COUNTS[site.name], balance.totals)
        assert data.weights is not None
        odds = (data.weights / data.weights.sum()).double().numpy()
        of_class = np.bincount(data.labels.numpy(), weights=odds, minlength=7)
        shown += site.share / WHOLE * of_class
        # An image of class c is shown 1 / (7 N_c) of the time, wherever it lies.
        expected = 1 / (7 * np.array(balance.totals))[data.labels.numpy()]
        np.testing.assert_allclose(site.share / WHOLE * odds, expected, rtol=1e-4)
    np.testing.assert_allclose(shown, 1 / 7, rtol=1e-4)


def test_shares_are_those_that_are_written_down() -> None:
    """By hand for two hospitals: s = 30/40 + 0/10 + 5/5 and 10/40 + 10/10; a class that nobody holds has no part."""
    balance = balance_over(sites({"a": (30, 0, 5, 0), "b": (10, 10, 0, 0)}))
    assert [site.share for site in balance.sites] == [round(WHOLE * 1.75 / 3), round(WHOLE * 1.25 / 3)]
    assert [site.size for site in balance.sites] == [site.share for site in balance.sites]
    # What is known of HAM10000's sites.
    shares = [site.share / WHOLE for site in balance_over(sites(COUNTS)).sites]
    assert shares == pytest.approx([0.38, 0.40, 0.19, 0.03], abs=0.005)


def test_who_tells_no_counts_weighs_by_its_images_and_balances_itself() -> None:
    balance = balance_over(sites(COUNTS, untold=("vidir_molemax",)))
    assert balance.by_themselves == ["vidir_molemax"]
    assert balance.totals == tuple(np.sum([held for name, held in COUNTS.items() if name != "vidir_molemax"], axis=0))
    images = sum(map(sum, COUNTS.values()))
    shares = {site.name: site.share / WHOLE for site in balance.sites}
    assert shares["vidir_molemax"] == pytest.approx(sum(COUNTS["vidir_molemax"]) / images, abs=1e-5)
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    nobody = balance_over(sites(COUNTS, untold=tuple(COUNTS)))
    assert nobody.totals == ()
    assert [site.share for site in nobody.sites] == [round(WHOLE * sum(held) / images) for held in COUNTS.values()]


def test_a_hospital_by_itself_shows_its_own_classes_alike() -> None:
    data = dataset((90, 0, 9, 1))
    drawn = torch.bincount(data.sample_batch(torch_stream(0, "test"), 6000).labels, minlength=4) / 6000
    assert torch.allclose(drawn, torch.tensor([1 / 3, 0, 1 / 3, 1 / 3]), atol=0.02)
    # Where others hold the rare classes too, it shows more of what it holds most of.
    data.balance((100, 5, 90, 100))
    drawn = torch.bincount(data.sample_batch(torch_stream(0, "test"), 6000).labels, minlength=4) / 6000
    assert torch.allclose(drawn, torch.tensor([0.9, 0, 0.1, 0.01]) / 1.01, atol=0.02)
    data.balance()
    drawn = torch.bincount(data.sample_batch(torch_stream(0, "test"), 6000).labels, minlength=4) / 6000
    assert torch.allclose(drawn, torch.tensor([1 / 3, 0, 1 / 3, 1 / 3]), atol=0.02)


@pytest.mark.parametrize("totals", [(89, 0, 9, 1), (100, 0, 9)])
def test_totals_that_cannot_be_are_refused(totals: tuple[int, ...]) -> None:
    with pytest.raises(WireError, match="fewer than the \\[90, 0, 9, 1\\] here"):
        dataset((90, 0, 9, 1)).balance(totals)


@pytest.mark.parametrize(
    ("values", "over"),
    [
        ({}, "federation"),
        ({"model.conditional": False}, "none"),
        ({"strategy.name": "alone"}, "hospital"),
        ({"strategy.name": "dp-fedavg-gan", "stylegan2.loss": "logistic"}, "hospital"),
        ({"strategy.name": "centralised"}, "federation"),
        # As the setting was called when it was a switch.
        ({"training.balanced-classes": True}, "hospital"),
        ({"training.balanced-classes": False}, "none"),
        ({"training.balanced-classes": "federation", "model.conditional": False}, "federation"),
    ],
)
def test_over_whom_classes_are_balanced(values: dict[str, object], over: str) -> None:
    untold: dict[str, object] = {"model.site-embedding": "off"}  # who is told hospitals is asked for counts too
    configuration = resolve([Layer("test", untold | values)])  # type: ignore[arg-type]
    assert configuration.balanced_over == over
    assert asks_class_counts(configuration) == (over == "federation")
    # What a run has written down is what it was.
    assert resolve([Layer("config.toml", configuration.to_flat(), settled=True)]).balanced_over == over


@pytest.mark.parametrize("name", ["alone", "dp-fedavg-gan"])
def test_what_does_not_weigh_hospitals_is_not_balanced_over_them(name: str) -> None:
    values = {"strategy.name": name, "training.balanced-classes": "federation", "stylegan2.loss": "logistic"}
    with pytest.raises(ConfigurationError, match=f"training.balanced-classes = federation: under strategy {name} "):
        resolve([Layer("test", values)])
