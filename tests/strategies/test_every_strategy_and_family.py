"""Every strategy with every family of models: refused by name before a run starts, or right.

Right means: three unequal hospitals really train for two rounds; what the server makes of their replies is what the
strategy's paper says, replayed here in numpy from the recorded replies; it is not the plain average wherever the rule
is not; and every running average moves with the part that it follows.

Some of today's rules are known to be wrong (the comments name the fault's number in the list of faults): the replay
holds what is done today.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from federations import FAMILIES, Arrays, Federation, Reply, Round, all_entries, play, settings
from scipy.spatial.distance import jensenshannon

from federation.errors import ConfigurationError
from federation.images import to_floats
from federation.models import build_model
from federation.models.drawing import drawer_of, looks_at
from federation.seeding import numpy_stream, torch_stream
from federation.sharing import load_tensors
from strategies.catalogue import STRATEGIES
from strategies.ifl_gan import maximum_mean_discrepancy, reduced
from strategies.scaffold import ScaffoldLocally

OPTIONS: dict[str, tuple[str, ...]] = {
    "fedtrimmedavg": ("strategy.trim=0.34",),
    "krum": ("strategy.malicious=0",),
    "multikrum": ("strategy.malicious=0", "strategy.selected=2"),
    "bulyan": ("strategy.malicious=0",),
    "effgan": ("strategy.fine-tune-rounds=1",),
    # As many are asked as are needed here: whom it draws has tests of its own.
    "fegan": ("participation.fraction=0.7",),
    "fedavgm": ("strategy.server-learning-rate=0.5",),
    "scaffold": ("strategy.server-learning-rate=0.5",),
    "fednova": ("training.local-steps=0", "training.local-epochs=0.1"),
    # So far that what hospitals draw is told apart.
    "fedcar": ("strategy.samples=32", "training.local-steps=12", "training.learning-rate=0.05"),
    "dp-fedavg-gan": ("stylegan2.loss=logistic", "strategy.clip-norm=0.01"),
    "ua-gan": ("stylegan2.loss=logistic",),
    "md-gan": ("stylegan2.loss=logistic", "strategy.swap-rounds=1"),
}
REFUSED = {
    ("dp-fedavg-gan", "vae"): "strategy.name = 'dp-fedavg-gan': hospitals train a discriminator",
    ("ua-gan", "vae"): "strategy.name = 'ua-gan': hospitals train a discriminator",
    ("md-gan", "vae"): "strategy.name = 'md-gan': hospitals train a discriminator",
}
# What stays at hospitals, by the beginning of names or a piece of them.
PRIVATE: dict[tuple[str, str], Callable[[str], bool]] = {
    ("alone", "stylegan2"): lambda name: True,
    ("alone", "vae"): lambda name: True,
    ("fedbn", "stylegan2"): lambda name: ".style." in name,
    ("fedbn", "vae"): lambda name: "norm" in name,
    ("cap-gan", "stylegan2"): lambda name: name.startswith(("generator.mapping.", "generator_ema.mapping.")),
    ("cap-gan", "vae"): lambda name: name.startswith(("decoder.mapping.", "decoder_ema.mapping.")),
    ("partial-sync", "stylegan2"): lambda name: name.startswith("discriminator."),
    ("partial-sync", "vae"): lambda name: name.startswith(("encoder.", "encoder_ema.")),
    ("ua-gan", "stylegan2"): lambda name: name.startswith("discriminator."),
    ("md-gan", "stylegan2"): lambda name: name.startswith("discriminator."),
}
CLASS_ROWS = {
    "stylegan2": (
        "generator.mapping.class_embedding",
        "discriminator.class_projection",
        "generator_ema.mapping.class_embedding",
    ),
    "vae": (
        "encoder.class_embedding",
        "decoder.class_embedding",
        "encoder_ema.class_embedding",
        "decoder_ema.class_embedding",
    ),
}
# Of a VAE's losses the one that it minimises can be negative.
FAIRNESS = {"stylegan2": "loss-discriminator", "vae": "loss-divergence"}
DRAWS = {"stylegan2": ("generator", "generator_ema"), "vae": ("decoder", "decoder_ema")}
FOLLOWS = {"stylegan2": {"generator_ema": "generator"}, "vae": {"encoder_ema": "encoder", "decoder_ema": "decoder"}}


def mean(replies: list[Reply], weights: list[float], name: str) -> np.ndarray:
    """Σ_i a_i x_i / Σ_i a_i in float64."""
    total = sum(weight * reply.arrays[name].astype(np.float64) for reply, weight in zip(replies, weights, strict=True))
    return np.asarray(total / sum(weights))


def plain(played: Round, names: set[str]) -> Arrays:
    replies = list(played.replies.values())
    return {name: mean(replies, [reply.images for reply in replies], name) for name in names}


class Replay:
    """A rule in numpy, round by round."""

    def __init__(self, federation: Federation, family: str) -> None:
        self.federation = federation
        self.strategy = federation.configuration.strategy
        self.family = family
        self.shown = 0.0
        self.m: Arrays = {}
        self.v: Arrays = {}

    # ---------------------------------------------------------------- what rules share

    def source(self, name: str) -> str | None:
        part, _, rest = name.partition(".")
        leader = FOLLOWS[self.family].get(part)
        return f"{leader}.{rest}" if leader else None

    def with_server_averages(self, played: Round, trained: Arrays) -> Arrays:
        """Buffers by number of images; running averages towards the server's own weights (half-life and ramp)."""
        replies = list(played.replies.values())
        weights = [reply.images for reply in replies]
        found = {
            name: mean(replies, weights, name)
            for name in played.before
            if name not in trained and self.source(name) is None
        } | trained
        images = sum(reply.images * reply.metrics["num-images"] for reply in replies) / sum(weights)
        self.shown += images
        decay = 0.5 ** (images / min(5000.0, 0.1 * self.shown))
        for name, before in played.before.items():
            source = self.source(name)
            if source is not None:
                is_trained = source in self.federation.trained
                found[name] = decay * before + (1 - decay) * found[source] if is_trained else found[source]
        return found

    def stepped(self, played: Round, step: Callable[[str, np.ndarray, np.ndarray], np.ndarray]) -> Arrays:
        """A server's step of trained weights, given the global ones and the mean of the hospitals'."""
        replies = list(played.replies.values())
        weights = [reply.images for reply in replies]
        names = [name for name in played.before if name in self.federation.trained]
        return self.with_server_averages(
            played,
            {name: step(name, played.before[name].astype(np.float64), mean(replies, weights, name)) for name in names},
        )

    def scored(self, played: Round, weights: list[float], parts: tuple[str, ...] | None = None) -> Arrays:
        """Weights of a strategy's own over some parts, number of images over the others."""
        replies = list(played.replies.values())
        by_images = [reply.images for reply in replies]
        return {
            name: mean(replies, weights if parts is None or name.split(".")[0] in parts else by_images, name)
            for name in played.before
        }

    # ---------------------------------------------------------------- the rules

    def average(self, played: Round) -> Arrays:
        return plain(played, set(played.before))

    def fedavgm(self, played: Round) -> Arrays:
        def step(name: str, w: np.ndarray, average: np.ndarray) -> np.ndarray:
            # Hsu et al. 2019: v ← β v + Δw, w ← w − η v.
            self.v[name] = 0.9 * self.v.get(name, 0.0) + (w - average)
            return w - 0.5 * self.v[name]

        return self.stepped(played, step)

    def adaptive(self, played: Round, kind: str) -> Arrays:
        # Reddi et al. 2021, Algorithm 2. FedAdam corrects the moments' bias as Adam does, counting from 2.
        rate = {"adam": 0.1, "yogi": 0.01, "adagrad": 0.1}[kind]
        if kind == "adam":
            rate *= math.sqrt(1 - 0.99 ** (played.number + 1)) / (1 - 0.9 ** (played.number + 1))

        def step(name: str, w: np.ndarray, average: np.ndarray) -> np.ndarray:
            delta = average - w
            m, v = self.m.get(name, 0.0), self.v.get(name, 0.0)
            self.m[name] = delta if kind == "adagrad" else 0.9 * m + 0.1 * delta
            if kind == "adam":
                self.v[name] = 0.99 * v + 0.01 * delta**2
            elif kind == "yogi":
                self.v[name] = v - 0.01 * delta**2 * np.sign(v - delta**2)
            else:
                self.v[name] = v + delta**2
            return w + rate * self.m[name] / (np.sqrt(self.v[name]) + 1e-3)

        return self.stepped(played, step)

    def fednova(self, played: Round) -> Arrays:
        # Wang et al. 2020, Eq. 9: w ← w − τ_eff Σ p_i (w − w_i) / τ_i.
        replies = list(played.replies.values())
        shares = np.array([reply.images for reply in replies]) / sum(reply.images for reply in replies)
        steps = np.array([reply.metrics["num-steps"] for reply in replies])
        assert len(set(steps.tolist())) > 1  # or it would be FedAvg
        effective = float((shares * steps).sum())

        def step(name: str, w: np.ndarray, average: np.ndarray) -> np.ndarray:
            pulls = zip(replies, shares / steps, strict=True)
            return w - effective * sum(share * (w - reply.arrays[name]) for reply, share in pulls)

        return self.stepped(played, step)

    def feddyn(self, played: Round) -> Arrays:
        # Acar et al. 2021, Algorithm 1: h ← h − α / m Σ (w_i − w), w ← mean of w_i − h / α.
        replies = list(played.replies.values())

        def step(name: str, w: np.ndarray, average: np.ndarray) -> np.ndarray:
            alike = mean(replies, [1.0] * len(replies), name)
            self.m[name] = self.m.get(name, 0.0) - 0.01 * (alike - w)
            return alike - self.m[name] / 0.01

        return self.stepped(played, step)

    def scaffold(self, played: Round) -> Arrays:
        # Karimireddy et al. 2020, Algorithm 1, with η_g = 0.5; c is what was sent, and c_i⁺ − c_i what came.
        replies = list(played.replies.values())
        for sent in played.sent.values():
            for name in self.federation.trained:
                assert np.allclose(sent[f"control.{name}"], self.m.get(name, 0.0), rtol=1e-5, atol=1e-7)

        for reply in replies:  # of every part a mean gradient: none is 0
            moved = {name.split(".")[0] for name in self.federation.trained if reply.arrays[f"control.{name}"].any()}
            assert moved == {name.split(".")[0] for name in self.federation.trained}

        def step(name: str, w: np.ndarray, average: np.ndarray) -> np.ndarray:
            self.m[name] = self.m.get(name, 0.0) + mean(replies, [1.0] * len(replies), f"control.{name}")
            return w + 0.5 * (mean(replies, [1.0] * len(replies), name) - w)

        return self.stepped(played, step)

    def qfedavg(self, played: Round) -> Arrays:
        # Li et al. 2020, Algorithm 2, q = 0.1, L = 0.001.
        replies = list(played.replies.values())
        q, lipschitz = 0.1, 0.001
        numerator = dict.fromkeys(played.before, 0.0)
        denominator = 0.0
        for reply in replies:
            loss = reply.metrics[FAIRNESS[self.family]] + 1e-10
            deltas = {
                name: lipschitz * (played.before[name].astype(np.float64) - reply.arrays[name]) for name in numerator
            }
            norm = sum(float((delta**2).sum()) for delta in deltas.values())
            denominator += q * loss ** (q - 1) * norm + lipschitz * loss**q
            numerator = {name: total + loss**q * deltas[name] for name, total in numerator.items()}
        return {name: played.before[name] - total / denominator for name, total in numerator.items()}

    def flat(self, played: Round) -> np.ndarray:
        """Each reply as one vector, (hospitals, weights), less where they started."""
        return np.stack(
            [
                np.concatenate(
                    [(reply.arrays[name].astype(np.float64) - played.before[name]).ravel() for name in played.before]
                )
                for reply in played.replies.values()
            ]
        )

    def krum_order(self, played: Round) -> list[int]:
        updates = self.flat(played)
        distances = ((updates[:, None] - updates[None]) ** 2).sum(axis=2)
        # n − f − 2 = 1 nearest other.
        return np.argsort(
            [np.sort(np.delete(row, i))[:1].sum() for i, row in enumerate(distances)], kind="stable"
        ).tolist()

    def krum(self, played: Round, number: int = 1) -> Arrays:
        # Blanchard et al. 2017, Section 4; those chosen count alike.
        chosen = sorted(self.krum_order(played)[:number])
        replies = [list(played.replies.values())[position] for position in chosen]
        return {name: mean(replies, [1.0] * number, name) for name in played.before}

    def bulyan(self, played: Round) -> Arrays:
        # f = 0: all are chosen, and all values are among the nearest to the median: the mean, all alike.
        replies = list(played.replies.values())
        return {name: mean(replies, [1.0] * len(replies), name) for name in played.before}

    def median(self, played: Round) -> Arrays:
        replies = list(played.replies.values())
        return {name: np.median([reply.arrays[name] for reply in replies], axis=0) for name in played.before}

    def geometric_median(self, played: Round) -> Arrays:
        # Weiszfeld's iteration itself, on the vectors; all count alike.
        updates = self.flat(played)
        shares = np.full(len(updates), 1 / len(updates))
        weights = shares
        for _ in range(2000):
            median = weights @ updates
            pulls = shares / np.maximum(1e-12, np.linalg.norm(updates - median, axis=1))
            weights = pulls / pulls.sum()
        return self.scored(played, weights.tolist())

    def class_shares(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        counts = np.array([site.class_counts for site in self.federation.sites], dtype=float)
        sizes = np.array([site.num_images for site in self.federation.sites], dtype=float)
        return counts / counts.sum(axis=1, keepdims=True), counts.sum(axis=0) / counts.sum(), sizes / sizes.sum()

    def fegan(self, played: Round) -> Arrays:
        # Guerraoui et al. 2020: exp(KL(p_i ‖ p) n_i / N).
        shares, pooled, sizes = self.class_shares()
        ratio = np.where(shares > 0, shares, 1.0) / pooled
        return self.scored(
            played, np.exp((shares * np.log(ratio * (shares > 0) + (shares == 0))).sum(axis=1) * sizes).tolist()
        )

    def fed_tgan(self, played: Round) -> Arrays:
        # Zhao et al. 2021: softmax((1 − s_i / Σ s) n_i / N), s the Jensen-Shannon distance.
        shares, pooled, sizes = self.class_shares()
        distances = np.array([jensenshannon(share, pooled) for share in shares])
        powers = np.exp((1 - distances / distances.sum()) * sizes)
        return self.scored(played, (powers / powers.sum()).tolist())

    def ifl_gan(self, played: Round) -> Arrays:
        # Li et al. 2022, Algorithm 1: the softmax of normalised scores, for what draws alone.
        scores = np.array([reply.metrics["mmd"] for reply in played.replies.values()])
        powers = np.exp(scores / scores.sum())
        return self.scored(played, (powers / powers.sum()).tolist(), DRAWS[self.family])

    def fedcar(self, played: Round) -> Arrays:
        # n_i softmax(−d_i / d̄), d_i the mean MMD of what each draws from the same latents.
        configuration = self.federation.configuration
        model = build_model(configuration)
        counts = np.sum([site.class_counts for site in self.federation.sites], axis=0)
        stream = numpy_stream(configuration.seed, "FedCAR's classes", server_round=played.number)
        labels = torch.from_numpy(stream.choice(len(counts), size=32, p=counts / counts.sum()))
        drawn = []
        for reply in played.replies.values():
            ours = {name: value for name, value in reply.arrays.items() if name.split(".")[0] == DRAWS[self.family][1]}
            load_tensors(model.networks, ours)
            latents = torch_stream(configuration.seed, "FedCAR's latents", server_round=played.number)
            looks = looks_at(len(drawn), model.num_sites)
            drawn.append(reduced(to_floats(drawer_of(model, looks).generate(labels, 32, latents))))
        apart = np.zeros((3, 3))
        for i, j in combinations(range(3), 2):
            apart[i, j] = apart[j, i] = maximum_mean_discrepancy(drawn[i], drawn[j])
        distance = apart.sum(axis=1) / 2
        powers = np.exp(-distance / distance.mean())
        sizes = np.array([reply.images for reply in played.replies.values()])
        return self.scored(played, (sizes * powers / powers.sum()).tolist())

    def label_aware(self, played: Round) -> Arrays:
        # Row c ← Σ n_ic x_ic / Σ n_ic; all else by number of images.
        counts = np.array([site.class_counts for site in self.federation.sites], dtype=float)
        found = plain(played, set(played.before))
        for name in CLASS_ROWS[self.family]:
            values = np.stack([reply.arrays[name] for reply in played.replies.values()]).astype(np.float64)
            for label in range(counts.shape[1]):
                n = counts[:, label]
                row = (n[:, None] * values[:, label]).sum(axis=0) / n.sum() if n.sum() else played.before[name][label]
                found[name][label] = row
        return found

    def dp_fedavg_gan(self, played: Round) -> Arrays:
        # Augenstein et al. 2020, Algorithm 1, the critic, clipped to 0.01, without noise.
        names = [name for name in played.before if name.startswith("discriminator.")]
        total = dict.fromkeys(names, 0.0)
        for reply in played.replies.values():
            update = {name: reply.arrays[name].astype(np.float64) - played.before[name] for name in names}
            norm = math.sqrt(sum(float((change**2).sum()) for change in update.values()))
            assert norm > 0.01  # or nothing would be clipped
            total = {name: total[name] + update[name] * 0.01 / norm for name in names}
        return {name: played.before[name] + total[name] / len(played.replies) for name in names}

    def effgan(self, played: Round) -> Arrays:
        # FedGAN while hospitals share; in the last round the global entries stay.
        return plain(played, set(played.before)) if played.number == 1 else dict(played.before)

    def nothing(self, played: Round) -> Arrays:
        return {}


RULES: dict[str, Callable[[Replay, Round], Arrays]] = {
    **dict.fromkeys(("fedgan", "fedavg", "fedprox", "fedbn", "partial-sync", "cap-gan", "centralised"), Replay.average),
    "fedavgm": Replay.fedavgm,
    "fedadam": lambda replay, played: replay.adaptive(played, "adam"),
    "fedyogi": lambda replay, played: replay.adaptive(played, "yogi"),
    "fedadagrad": lambda replay, played: replay.adaptive(played, "adagrad"),
    # Of three, one is cut off at either end: what is left is the median.
    "fedmedian": Replay.median,
    "fedtrimmedavg": Replay.median,
    "krum": Replay.krum,
    "multikrum": lambda replay, played: replay.krum(played, 2),
    "bulyan": Replay.bulyan,
    "geometric-median": Replay.geometric_median,
    "qfedavg": Replay.qfedavg,
    "scaffold": Replay.scaffold,
    "fednova": Replay.fednova,
    "feddyn": Replay.feddyn,
    "fegan": Replay.fegan,
    "fed-tgan": Replay.fed_tgan,
    "ifl-gan": Replay.ifl_gan,
    "fedcar": Replay.fedcar,
    "label-aware": Replay.label_aware,
    "dp-fedavg-gan": Replay.dp_fedavg_gan,
    "ua-gan": Replay.nothing,
    "md-gan": Replay.nothing,
    "effgan": Replay.effgan,
    "alone": Replay.nothing,
}
# Whose rule is FedGAN's on what is shared; of FedProx the hospital's half differs, of one hospital nothing is averaged.
PLAIN = ("fedgan", "fedavg", "fedprox", "fedbn", "partial-sync", "cap-gan", "effgan", "centralised", "alone")
# The server takes steps of the generator: which they are is tested elsewhere.
TRAINED_AT_THE_SERVER = ("dp-fedavg-gan", "ua-gan", "md-gan")


def close(first: np.ndarray, second: np.ndarray) -> bool:
    # Three orders below what a round moves a weight by.
    return bool(np.allclose(first, second, rtol=1e-5, atol=2e-6))


def test_every_strategy_has_a_replay() -> None:
    assert set(RULES) == set(STRATEGIES)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_is_refused_by_name_or_right(
    name: str, family: str, tmp_path: Path, cache_dir: str, one_thread: None
) -> None:
    assignments = [f"strategy.name={name}", *OPTIONS.get(name, ())]
    if (name, family) == ("qfedavg", "vae"):
        with pytest.raises(ConfigurationError, match="of model.name = vae loss-negative-elbo can be negative"):
            settings(family, tmp_path, cache_dir, *assignments)
        assignments.append(f"strategy.fairness-loss={FAIRNESS[family]}")
    if (name, family) in REFUSED:
        ours = [one for one in assignments if not one.startswith("stylegan2.")]
        with pytest.raises(ConfigurationError) as caught:
            settings(family, tmp_path, cache_dir, *ours)
        assert REFUSED[name, family] in str(caught.value)
        assert "choose another strategy.name" in str(caught.value)
        return
    federation = play(settings(family, tmp_path, cache_dir, *assignments))
    images = [site.num_images for site in federation.sites]
    assert len(set(images)) == len(images) == (1 if name == "centralised" else 3)
    assert len(federation.rounds) == 2

    names = all_entries(federation.model)
    stays = PRIVATE.get((name, family), lambda entry: False)
    shared = {entry for entry in names if not stays(entry)}
    replay = Replay(federation, family)
    for played in federation.rounds:
        assert set(played.before) == set(played.after) == shared
        check_what_was_sent(name, family, played, names, stays)
        expected = RULES[name](replay, played)
        wrong = [entry for entry, value in expected.items() if not close(played.after[entry], value)]
        assert not wrong, wrong
        if name not in TRAINED_AT_THE_SERVER:
            assert set(expected) == shared
        if name in ("ua-gan", "md-gan"):
            check_critics(name, played, federation)
        elif name not in PLAIN:
            average = plain(played, set(expected))
            assert any(not close(average[entry], value) for entry, value in expected.items())
        check_averages_move(name, family, played, federation)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("name", "number"), [("fedprox", 1), ("feddyn", 1), ("scaffold", 2)])
def test_the_hospitals_half_of_a_rule_changes_what_every_part_learns(
    name: str,
    number: int,
    family: str,
    tmp_path: Path,
    cache_dir: str,
    one_thread: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The replays take replies as they come: a half that does nothing would pass them."""
    common = (cache_dir, "training.local-steps=2")
    found = play(settings(family, tmp_path / "with", *common, f"strategy.name={name}"))
    if name == "scaffold":  # in its first round all variates are 0
        begin = ScaffoldLocally.begin

        def without_correction(rule: ScaffoldLocally, *arguments: Any) -> None:
            begin(rule, *arguments)
            rule._correction = {entry: torch.zeros_like(value) for entry, value in rule._correction.items()}

        monkeypatch.setattr(ScaffoldLocally, "begin", without_correction)
        other = play(settings(family, tmp_path / "without", *common, "strategy.name=scaffold"))
    else:
        other = play(settings(family, tmp_path / "without", *common, "strategy.name=fedgan"))
    for site, reply in found.rounds[number - 1].replies.items():
        without = other.rounds[number - 1].replies[site]
        changed = {
            entry.split(".")[0]
            for entry in found.trained
            if not np.array_equal(reply.arrays[entry], without.arrays[entry])
        }
        assert changed == {entry.split(".")[0] for entry in found.trained}


def check_what_was_sent(name: str, family: str, played: Round, names: set[str], stays: Callable[[str], bool]) -> None:
    """Nothing private is among what is averaged; what is handed over to be judged is marked, and draws."""
    is_alone = name == "effgan" and played.number == 2
    for reply in played.replies.values():
        averaged = {entry for entry in reply.arrays if not entry.startswith(("own.", "control."))}
        if name in TRAINED_AT_THE_SERVER:
            assert averaged == {entry for entry in names if entry.startswith("discriminator.")}
            continue
        assert averaged == (set() if is_alone else {entry for entry in names if not stays(entry)})
        own = {entry.removeprefix("own.") for entry in reply.arrays if entry.startswith("own.")}
        drawing = {entry for entry in names if entry.startswith(DRAWS[family][1] + ".")}
        assert own == {entry for entry in drawing if is_alone or stays(entry)}


def check_critics(name: str, played: Round, federation: Federation) -> None:
    """Every hospital goes on with the critic that it sent, or, after MD-GAN's exchange, with another hospital's."""
    later = federation.rounds[played.number :]
    if not later:
        return
    for site, sent in later[0].sent.items():
        owners = [
            other
            for other, reply in played.replies.items()
            if all(np.array_equal(sent[entry], value) for entry, value in reply.arrays.items())
        ]
        assert len(owners) == 1
        assert (owners == [site]) == (name == "ua-gan")


def check_averages_move(name: str, family: str, played: Round, federation: Federation) -> None:
    """A running average that is shared moves in every round in which its part does."""
    moved = 0
    for entry in played.after:
        part, _, rest = entry.partition(".")
        leader = FOLLOWS[family].get(part)
        source = f"{leader}.{rest}"
        if leader is None or source not in federation.trained or source not in played.after:
            continue
        if not np.array_equal(played.after[source], played.before[source]):
            assert not np.array_equal(played.after[entry], played.before[entry]), entry
            moved += 1
    assert moved or name == "alone" or (name == "effgan" and played.number == 2)
