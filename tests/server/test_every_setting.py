"""Every setting acts, or is refused by name: each is changed to another value, alone and beside what it belongs to.

A setting acts where its change is seen: in the images and hospitals that are found, in what a hospital learns, in what
a strategy makes of replies, in who is asked, in what is sent. What only a whole run shows is tried with ``--whole``, as
are some that are like others; those that need circumstances that are not here (a GPU, a cluster, files of a user's own)
name the test that has them. ``docs/settings.md`` holds :func:`docs_table`.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from rich.console import Console

from clients.app import app as client_app
from clients.attack import falsify_update, is_attacker, poison_images
from clients.hospital import Identity, load_hospital
from clients.local_training import train_locally
from data_partitions.holdings import find_holdings
from federation.config import Configuration, Layer, fields_by_key, parse_assignments
from federation.engine import count_workers
from federation.engine.grid import Workload, simulation_nodes
from federation.engine.in_process import InProcessGrid
from federation.errors import ConfigurationError, HospitalError
from federation.exchange import ARRAYS, METRICS, NUM_EXAMPLES, pack_arrays, unpack_arrays
from federation.models import build_model
from federation.run_directory import RunDirectory, default_path
from federation.seeding import numpy_stream, torch_stream
from federation.sharing import named_tensors
from federation.site import Site
from server.app import FederatedRun, describe_federation, run_federation
from server.callbacks import EarlyStopping
from server.inputs import prepare_inputs
from server.messaging import ChosenNodes, choose_sites, describe_sites
from server.progress import RunProgress
from strategies.building import build_local_rule, build_strategy
from strategies.configuration import least_replies, resolve
from strategies.sharing import sharing_policy

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs" / "settings.md"

# Small, and nothing in it is without effect.
TINY = (
    "simulation.engine=in-process",
    "data.phantom-images=400",
    "data.classes=akiec,bcc,bkl,df,mel,nv,vasc",
    "partition.min-images=1",
    "rounds=3",
    "training.local-steps=2",
    "training.batch-size=4",
    "training.precision=fp32",
    "training.learning-rate=0.01",
    "stylegan2.channel-max=8",
    "stylegan2.channel-base=64",
    "stylegan2.latent-size=8",
    "stylegan2.mapping-layers=1",
)
OF_VAE = (
    *(one for one in TINY if not one.startswith("stylegan2.")),
    "model.name=vae",
    "vae.channel-max=8",
    "vae.channel-base=64",
    "vae.latent-size=4",
)


# ---------------------------------------------------------------- where a change is seen


def found(configuration: Configuration) -> object:
    """Which images there are, in which part, at which hospital."""
    held = find_holdings(configuration.data, configuration.partition, configuration.model.resolution)
    return held.partition.digest, held.parts.tolist(), held.index.classes


def built(configuration: Configuration) -> object:
    """The networks as they begin: names, shapes and values."""
    tensors = named_tensors(build_model(configuration).networks)
    return {name: tuple(value.shape) for name, value in tensors.items()}, bits(tensors)


def learned(configuration: Configuration) -> object:
    """What the first hospital has learned after a round, and what it drew of its images."""
    hospital = load_hospital(configuration, Identity(0, configuration.partition.hospitals), torch.device("cpu"))
    if is_attacker(configuration, 0):
        poison_images(hospital.dataset, configuration, hospital.site)
    model = build_model(configuration)
    stream = torch_stream(configuration.seed, "local training", server_round=1, site=hospital.site)
    rule = build_local_rule(configuration)
    shared = named_tensors(model.networks)
    arrived = {name: torch.zeros_like(value) for name, value in rule.down(shared, model.networks).items()}
    rule.begin(model, shared, {name: value for name, value in arrived.items() if name not in shared}, {})
    model.correct_gradients = rule.correct if rule.corrects else None
    result = train_locally(model, hospital.dataset, configuration.training, stream, critic_only=rule.critic_only)
    return result.num_steps, result.num_images, result.losses, bits(named_tensors(model.networks))


def combined(configuration: Configuration) -> object:
    """What the server makes of two rounds of replies that are made up."""
    model = build_model(configuration)
    strategy = build_strategy(describe_federation(configuration, model))
    sites = made_up_sites(configuration.partition.hospitals)
    strategy.meet(sites)
    grid = InProcessGrid(lambda message, context: message, simulation_nodes(len(sites)))
    networks = named_tensors(model.networks)
    rule = build_local_rule(configuration)
    policy = sharing_policy(configuration, 1)
    shared = {name: value for name, value in networks.items() if policy.is_shared(name, value)}
    up = {name: value.detach().numpy() for name, value in rule.up(shared, model.networks).items()}
    record = pack_arrays({name: value.detach().numpy().copy() for name, value in shared.items()})
    for server_round in (1, 2):
        messages = list(strategy.configure_train(server_round, record, ConfigRecord(), grid))
        replies = []
        for message, site in zip(messages, sites, strict=True):
            stream = numpy_stream(0, "made-up replies", server_round=server_round, site=site.name)
            moved = {
                name: np.asarray(value + 0.1 * stream.standard_normal(value.shape), dtype=np.float32)
                for name, value in up.items()
            }
            numbers = dict.fromkeys(model.anatomy.losses, 1.0 + site.node_id)
            metrics = MetricRecord(
                {NUM_EXAMPLES: site.num_images, "num-steps": 2, "num-images": 8, "mmd": 1.0 / site.node_id, **numbers}
            )
            content = RecordDict({ARRAYS: pack_arrays(moved), METRICS: metrics})
            replies.append(Message(content, reply_to=message))
        result, _ = strategy.aggregate_train(server_round, replies)
        assert result is not None
        record = result
    report = strategy.report()
    return {name: value.tobytes() for name, value in unpack_arrays(record).items()}, report


def shared(configuration: Configuration) -> object:
    """What stays at hospitals, and what is averaged, in each round."""
    rounds = [sharing_policy(configuration, number) for number in range(1, configuration.rounds + 1)]
    return [(policy.private, sorted(policy.averaged_state)) for policy in rounds]


def asked(configuration: Configuration) -> object:
    """Who takes part in each round."""
    sites = made_up_sites(configuration.partition.hospitals)
    least = max(configuration.participation.min_replies, least_replies(configuration.strategy))
    return [
        [
            site.name
            for site in choose_sites(sites, configuration.participation, configuration.seed, number, least=least)
        ]
        for number in range(1, 9)
    ]


def harmed(configuration: Configuration) -> object:
    """Who does harm, and what becomes of an update there."""
    update = {"generator.w": torch.arange(3.0)}
    stream = torch_stream(configuration.seed, "test")
    sent = falsify_update(update, {"generator.w": torch.ones(3)}, configuration.attack, stream)
    who = [number for number in range(configuration.partition.hospitals) if is_attacker(configuration, number)]
    return who, bits(sent)


def ended(configuration: Configuration) -> object:
    """When a run would end whose KID is best at first."""
    history = [{"round": number, "images": 100 * number, "kid": 1.0 + number} for number in range(8)]
    stopping = EarlyStopping(configuration.early_stopping)
    return [stopping.reason(history[: number + 1]) is not None for number in range(8)]


def launched(configuration: Configuration) -> object:
    """Where the run goes, and with how many workers."""
    return default_path(configuration.name).name.partition("-")[2], count_workers(configuration)


def bits(tensors: Mapping[str, torch.Tensor]) -> str:
    """A digest of tensors."""
    digest = hashlib.blake2b()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def made_up_sites(number: int) -> list[Site]:
    """Hospitals of different sizes and classes."""
    return [
        Site(
            name=f"hospital-{position:02d}",
            node_id=position + 2,
            num_images=10 + 5 * position,
            class_counts=tuple(1 + (position + label) % 3 for label in range(7)),
            is_deployed=False,
        )
        for position in range(number)
    ]


# ---------------------------------------------------------------- the table


@dataclass(frozen=True)
class Acts:
    """It is seen at once."""

    value: str
    """Another value."""
    see: Callable[[Configuration], object]
    beside: tuple[str, ...] = ()
    """What it belongs to. By itself it acts too, or is refused by name."""


@dataclass(frozen=True)
class InARun:
    """It is seen in a whole run, with ``--whole``."""

    value: str
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Elsewhere:
    """It matters in circumstances that a test of its own makes."""

    when: str
    test: str
    """The test's node id."""


@dataclass(frozen=True)
class Refused:
    """No value but the default is allowed."""

    value: str


LOGISTIC = ("stylegan2.loss=logistic",)
ADA = ("stylegan2.augmentation.name=ada", "stylegan2.augmentation.ada-kimg=0.05", "stylegan2.augmentation.ada-every=1")
PREVALENCE = ("partition.scheme=prevalence", "partition.hospitals=3")
PATHS = ("stylegan2.path-length-weight=2.0",)
SOURCES = "tests/data_partitions/test_sources.py"
PARTITION = "tests/data_partitions/test_partition.py"
CLOSED = "tests/strategies/test_strategies_closed_form.py"
FAULTS = "tests/server/test_participation_and_faults.py"
FEATURES = "tests/federation/test_features.py"
HERE = "tests/server/test_every_setting.py"
FILES = "files of a user's own"


def of(name: str, *others: str) -> tuple[str, ...]:
    """A strategy, and what else it needs."""
    return (f"strategy.name={name}", *others)


TABLE: dict[str, Acts | InARun | Elsewhere | Refused] = {
    "name": Acts("other", launched),
    "seed": Acts("7", learned),
    "rounds": Acts("4", shared),
    "run-dir": Elsewhere("where files go", "tests/commands/test_simulate.py::test_what_a_run_leaves"),
    "resume": Elsewhere(
        "a run that was interrupted", "tests/server/test_federated_run.py::test_a_finished_run_can_be_made_longer"
    ),
    "data.source": Elsewhere(FILES, f"{SOURCES}::test_one_sub_folder_per_class"),
    "data.root": Elsewhere(FILES, f"{SOURCES}::test_a_missing_root"),
    "data.classes": Acts("nv,akiec,bcc,bkl,df,mel,vasc", found),
    "data.only": Acts("mel,nv", found),
    "data.split-seed": Acts("2", found),
    "data.phantom-images": Acts("300", found),
    "data.phantom-sites": Elsewhere(
        "as many hospitals as there are sites",
        "tests/data_partitions/test_phantom.py::test_sites_that_differ_in_artefacts_alone",
    ),
    "data.csv": Elsewhere(FILES, f"{SOURCES}::test_several_csv_files"),
    "data.image-column": Elsewhere(FILES, f"{SOURCES}::test_all_missing_columns_are_named"),
    "data.label-column": Elsewhere(FILES, f"{SOURCES}::test_an_empty_label"),
    "data.group-column": Elsewhere(FILES, f"{SOURCES}::test_an_imagefolder_with_patients_and_hospitals"),
    "data.site-column": Elsewhere(FILES, f"{SOURCES}::test_an_imagefolder_with_patients_and_hospitals"),
    "data.dataset": Elsewhere("a data set of the hub", f"{SOURCES}::test_a_dataset_that_cannot_be_had"),
    "data.dataset-split": Elsewhere(FILES, f"{SOURCES}::test_an_unknown_split_of_an_imagefolder"),
    "data.cache-dir": Elsewhere(
        "where decoded images go",
        "tests/data_partitions/test_image_cache.py::test_a_cache_folder_that_cannot_be_written",
    ),
    "partition.scheme": Acts("iid", found),
    "partition.hospitals": Acts("1", found),
    "partition.alpha": Acts("5.0", found, ("partition.scheme=dirichlet",)),
    "partition.classes-per-hospital": Acts("3", found, ("partition.scheme=pathological",)),
    "partition.dominance": Acts("3.0", found, ("partition.scheme=dominant",)),
    "partition.prevalence-of": Acts("nv", found, PREVALENCE),
    "partition.prevalences": Acts("0.2,0.1,0.1", found, PREVALENCE),
    "partition.sizes": Acts("1,1,1", found, PREVALENCE),
    "partition.seed": Acts("1", found, ("partition.scheme=iid",)),
    "partition.min-images": Elsewhere(
        "hospitals with few images", f"{PARTITION}::test_dominant_refuses_hospitals_that_it_makes_too_small"
    ),
    "model.name": Acts("vae", built),
    "model.conditional": Acts("false", built),
    "model.initial": Elsewhere(
        "weights of a user's own, or those that come along",
        "tests/server/test_initial_weights.py::test_a_run_goes_on_from_another_and_keeps_what_it_began_with",
    ),
    "model.site-embedding": Acts("off", built),
    "model.resolution": Acts("64", built),
    "training.local-steps": Acts("3", learned),
    "training.local-epochs": Acts("0.1", learned, ("training.local-steps=10",)),
    "training.batch-size": Acts("6", learned),
    "training.threads": Acts("2", launched, ("simulation.engine=ray", "partition.hospitals=64")),
    "training.learning-rate": Acts("0.02", learned),
    "training.learning-rate-decay": Acts("none", learned),
    "training.beta1": Acts("0.5", learned),
    "training.beta2": Acts("0.9", learned),
    "training.ema-half-life-images": Acts("0.5", learned),
    "training.ema-ramp": Acts("0.5", learned),
    "training.flips": Acts("false", learned),
    "training.balanced-classes": Acts("none", learned),
    "training.precision": Acts("bf16", learned),
    "strategy.name": Acts("fedmedian", combined),
    "strategy.generator": Acts("fedmedian", combined),
    "strategy.discriminator": Acts("fedmedian", combined),
    "strategy.private": Acts("discriminator", shared),
    "strategy.averaged-state": Acts("ada-p", shared, ADA),
    "strategy.server-learning-rate": Acts("0.5", combined, of("fedadam")),
    "strategy.server-momentum": Acts("0.5", combined, of("fedavgm")),
    "strategy.server-beta1": Acts("0.5", combined, of("fedadam")),
    "strategy.server-beta2": Acts("0.5", combined, of("fedyogi")),
    "strategy.server-tau": Acts("0.1", combined, of("fedadagrad")),
    "strategy.proximal-mu": Acts("5.0", learned, of("fedprox")),
    "strategy.trim": Acts("0.4", combined, of("fedtrimmedavg", "partition.hospitals=5")),
    "strategy.malicious": Acts("2", combined, of("multikrum", "partition.hospitals=7")),
    "strategy.selected": Acts("2", combined, of("multikrum", "partition.hospitals=5")),
    "strategy.fairness-q": Acts("2.0", combined, of("qfedavg")),
    "strategy.fairness-lipschitz": Acts("1.0", combined, of("qfedavg")),
    "strategy.fairness-loss": Elsewhere(
        "losses that differ",
        "tests/strategies/test_strategy_settings.py::"
        "test_the_loss_that_hospitals_are_weighed_by_is_asked_of_every_reply",
    ),
    "strategy.dynamic-alpha": Acts("0.5", combined, of("feddyn")),
    "strategy.synchronise": Acts("discriminator", shared, of("partial-sync")),
    "strategy.divergence-weight": Acts("less", combined, of("fegan", "participation.fraction=0.5")),
    "strategy.weighted-networks": Acts("discriminator", combined, of("fed-tgan")),
    "strategy.temperature": Acts("0.1", combined, of("ifl-gan")),
    "strategy.samples": Acts("64", combined, of("fedcar", "strategy.samples=32")),
    "strategy.personal-part": Acts("styles", shared, of("cap-gan")),
    "strategy.fine-tune-rounds": Acts("2", shared, of("effgan", "strategy.fine-tune-rounds=1")),
    "strategy.generator-steps": Acts("1", combined, of("dp-fedavg-gan", *LOGISTIC)),
    "strategy.swap-rounds": Elsewhere(
        "rounds enough for an exchange", f"{CLOSED}::test_md_gan_exchanges_every_so_many_rounds"
    ),
    "strategy.clip-norm": Acts("0.1", combined, of("dp-fedavg-gan", *LOGISTIC)),
    "strategy.noise-multiplier": Acts("2.0", combined, of("dp-fedavg-gan", *LOGISTIC)),
    "strategy.delta": Acts("0.01", combined, of("dp-fedavg-gan", "strategy.noise-multiplier=1.0", *LOGISTIC)),
    "attack.name": Acts("random", harmed),
    "attack.hospitals": Acts("2", harmed, ("attack.name=random",)),
    "attack.scale": Acts("2.0", harmed, ("attack.name=sign-flipped",)),
    "participation.fraction": Acts("0.5", asked),
    "participation.min-replies": Elsewhere(
        "hospitals that fail", f"{FAULTS}::test_too_few_replies_end_the_run_with_its_last_good_state"
    ),
    "participation.retries": Elsewhere(
        "a hospital that fails", f"{FAULTS}::test_a_hospital_that_answers_at_the_second_attempt_changes_nothing"
    ),
    "participation.dropout": Acts("0.5", asked),
    "participation.train-seconds": Elsewhere(
        "a hospital that is late", f"{FAULTS}::test_chaos_ends_like_a_run_in_which_those_replies_were_absent"
    ),
    "participation.describe-seconds": Elsewhere(
        "hospitals that do not answer", f"{HERE}::test_a_hospital_that_does_not_say_who_it_is_is_waited_for_so_long"
    ),
    "early-stopping.patience": Acts("2", ended, ("evaluation.every=1",)),
    "early-stopping.min-images": Acts("400", ended, ("early-stopping.patience=2", "evaluation.every=1")),
    "evaluation.every": InARun("1"),
    "evaluation.images": InARun("32"),
    "evaluation.extractor": Elsewhere("weights that are there", f"{FEATURES}::test_auto_falls_back_and_says_why"),
    "evaluation.extractor-weights": Elsewhere(
        "weights that are there", f"{FEATURES}::test_auto_tells_by_its_content_which_network_a_file_is_of"
    ),
    "evaluation.allow-downloads": Elsewhere("a network", f"{FEATURES}::test_a_download_that_fails_is_an_error"),
    "evaluation.draws": InARun("2"),
    "evaluation.utility": InARun("false"),
    "evaluation.utility-arms": InARun("synthetic"),
    "evaluation.utility-yardsticks": InARun("gaussian"),
    "evaluation.utility-ratio": InARun("0.5"),
    "evaluation.utility-classifier": Elsewhere(
        "a GPU, or patience",
        "tests/server/test_utility.py::test_weights_that_are_not_there_are_refused_before_anything_is_drawn",
    ),
    "evaluation.utility-weights": Elsewhere(
        "weights that are there",
        "tests/server/test_utility.py::test_weights_that_are_not_there_are_refused_before_anything_is_drawn",
    ),
    "evaluation.utility-seeds": InARun("2"),
    "evaluation.utility-steps": InARun("12"),
    "evaluation.gain": InARun("true"),
    "evaluation.part": InARun("validation"),
    "evaluation.authenticity": InARun("false"),
    "evaluation.searched-images": InARun("64"),
    "evaluation.threads": Elsewhere(
        "more cores than one",
        "tests/server/test_utility.py::test_one_worker_or_two_same_figures_and_each_seed_has_images_of_its_own",
    ),
    "evaluation.overlap": Elsewhere(
        "the order of work, never the scores", f"{FAULTS}::test_judging_beside_the_next_round_gives_the_same_scores"
    ),
    "checkpoint.every": InARun("1"),
    "checkpoint.keep": InARun("5", ("rounds=6", "checkpoint.every=1")),
    "simulation.engine": Elsewhere("the same bytes", "tests/commands/test_simulate.py::test_ray_gives_the_same_bytes"),
    "simulation.workers": Acts("3", launched, ("simulation.engine=ray", "partition.hospitals=64")),
    "simulation.gpus-per-hospital": Elsewhere(
        "a GPU", "tests/federation/test_engine.py::test_a_share_of_a_gpu_that_is_not_there_is_refused"
    ),
    "simulation.address": Elsewhere(
        "a cluster", "tests/commands/test_crashes.py::test_a_ray_cluster_of_two_machines_computes_the_same"
    ),
    "simulation.preflight": Elsewhere("workers", f"{HERE}::test_a_preflight_is_taken_unless_it_is_switched_off"),
    "simulation.fail-fast": Elsewhere(
        "a hospital that fails",
        "tests/server/test_federated_run.py::test_fail_fast_shows_the_hospitals_traceback_and_saves",
    ),
    "report.show-real-images": Elsewhere(
        "real images", "tests/server/test_report.py::test_no_real_image_unless_it_may_be_seen"
    ),
    "stylegan2.latent-size": Acts("16", built),
    "stylegan2.mapping-layers": Acts("2", built),
    "stylegan2.channel-base": Acts("128", built),
    "stylegan2.channel-max": Acts("16", built),
    "stylegan2.resampling": Acts("fir", learned),
    "stylegan2.minibatch-std": Acts("2", learned),
    "stylegan2.heads": Refused("class"),
    "stylegan2.loss": Acts("logistic", learned),
    "stylegan2.gamma": Acts("1.0", learned),
    "stylegan2.penalty-every": Acts("1", learned),
    "stylegan2.style-mixing": Acts("0.9", learned),
    "stylegan2.path-length-weight": Acts("2.0", learned),
    "stylegan2.path-length-every": Acts("1", learned, PATHS),
    "stylegan2.path-length-decay": Acts("0.5", learned, PATHS),
    "stylegan2.fake-labels": Acts("uniform", learned),
    "stylegan2.label-dropout": Acts("0.5", learned),
    "stylegan2.transition-start-images": Acts("8.0", learned),
    "stylegan2.transition-images": Acts("8.0", learned),
    "stylegan2.augmentation.name": Acts("diffaugment", learned),
    "stylegan2.augmentation.transforms": Acts(
        "rotation", learned, ("stylegan2.augmentation.name=fixed", "stylegan2.augmentation.p=0.5")
    ),
    "stylegan2.augmentation.p": Acts(
        "0.9", learned, ("stylegan2.augmentation.name=fixed", "stylegan2.augmentation.p=0.5")
    ),
    "stylegan2.augmentation.ada-target": Acts("-0.9", learned, (*ADA, "stylegan2.augmentation.ada-target=0.9")),
    "stylegan2.augmentation.ada-every": Acts("2", learned, (*ADA, "stylegan2.augmentation.ada-target=-0.9")),
    "stylegan2.augmentation.ada-kimg": Acts("0.02", learned, (*ADA, "stylegan2.augmentation.ada-target=-0.9")),
    "vae.latent-size": Acts("8", built),
    "vae.channel-base": Acts("128", built),
    "vae.channel-max": Acts("16", built),
    "vae.beta": Acts("5.0", learned),
    "vae.variance": Acts("fixed", learned),
    "vae.pixel-deviation": Acts("0.5", learned, ("vae.variance=fixed",)),
}


# ---------------------------------------------------------------- the walk


def layers_of(key: str, beside: tuple[str, ...], cache_dir: str, run_dir: Path | None = None) -> list[Layer]:
    """What a setting is changed in: the tiny run, and what the setting belongs to."""
    if key.startswith("vae."):
        tiny = OF_VAE
    else:
        tiny = tuple(one for one in TINY if key != "model.name" or not one.startswith("stylegan2."))
    folder = run_dir or Path(cache_dir) / "nowhere"
    folder.mkdir(exist_ok=True)  # a strategy that counts what it releases writes there
    place = [f"run-dir={folder}", f"data.cache-dir={cache_dir}"]
    return [parse_assignments([*tiny, *place]), parse_assignments(beside)]


@cache
def seen(see: Callable[[Configuration], object], key: str, beside: tuple[str, ...], cache_dir: str) -> object:
    """What is seen before the change, of the first key that it is looked at for."""
    return see(resolve(layers_of(key, beside, cache_dir)))


def changed(key: str, entry: Acts | InARun | Refused, layers: list[Layer]) -> Configuration | None:
    """The configuration with another value; None where it is refused by name."""
    (value,) = parse_assignments([f"{key}={entry.value}"]).values.values()
    assert value != resolve(layers).to_flat()[key]
    try:
        return resolve([*layers, Layer("--set", {key: value})])
    except ConfigurationError as error:
        if not any(f"{key} = " in problem for problem in error.problems):
            raise
        return None


def family_of(key: str) -> str:
    """Keys of one base look alike before the change."""
    return "vae." if key.startswith("vae.") else "model.name" if key == "model.name" else ""


# Others are like them.
_LIKE_OTHERS = frozenset(
    {
        "partition.classes-per-hospital",
        "partition.dominance",
        "partition.prevalence-of",
        "partition.sizes",
        "strategy.delta",
        "strategy.fairness-lipschitz",
        "strategy.generator-steps",
        "strategy.noise-multiplier",
        "strategy.samples",
        "strategy.selected",
        "strategy.server-beta1",
        "strategy.server-tau",
        "strategy.weighted-networks",
        "stylegan2.augmentation.ada-every",
        "stylegan2.augmentation.ada-kimg",
        "stylegan2.augmentation.p",
        "stylegan2.path-length-every",
        "stylegan2.penalty-every",
        "stylegan2.style-mixing",
        "stylegan2.transition-start-images",
        "training.beta2",
        "training.ema-ramp",
        "training.learning-rate",
        "vae.variance",
    }
)
ACTING = [key for key, entry in TABLE.items() if isinstance(entry, Acts)]
IN_A_RUN = [key for key, entry in TABLE.items() if isinstance(entry, InARun)]


@pytest.mark.parametrize(
    "key", [pytest.param(key, marks=[pytest.mark.whole] if key in _LIKE_OTHERS else []) for key in ACTING]
)
def test_a_setting_acts_beside_what_it_belongs_to(key: str, cache_dir: str, one_thread: None) -> None:
    entry = TABLE[key]
    assert isinstance(entry, Acts)
    configuration = changed(key, entry, layers_of(key, entry.beside, cache_dir))
    assert configuration is not None
    assert entry.see(configuration) != seen(entry.see, family_of(key), entry.beside, cache_dir)


@pytest.mark.parametrize("key", [key for key in (*ACTING, *IN_A_RUN) if TABLE[key].beside])  # type: ignore[union-attr]
def test_a_setting_by_itself_acts_or_is_refused_by_name(key: str, cache_dir: str, one_thread: None) -> None:
    entry = TABLE[key]
    assert isinstance(entry, Acts | InARun)
    configuration = changed(key, entry, layers_of(key, (), cache_dir))
    assert (configuration is None) == (key in REFUSED_ALONE)
    if configuration is not None and isinstance(entry, Acts):
        assert entry.see(configuration) != seen(entry.see, family_of(key), (), cache_dir)


@pytest.mark.parametrize("key", [key for key, entry in TABLE.items() if isinstance(entry, Refused)])
def test_a_setting_that_is_reserved_is_refused(key: str, cache_dir: str) -> None:
    entry = TABLE[key]
    assert isinstance(entry, Refused)
    assert changed(key, entry, layers_of(key, (), cache_dir)) is None


REFUSED_ALONE = frozenset(
    {
        "partition.alpha",
        "partition.classes-per-hospital",
        "partition.dominance",
        "partition.prevalence-of",
        "partition.prevalences",
        "partition.sizes",
        "partition.seed",
        "training.local-epochs",
        "strategy.averaged-state",
        "strategy.server-learning-rate",
        "strategy.server-momentum",
        "strategy.server-beta1",
        "strategy.server-beta2",
        "strategy.server-tau",
        "strategy.proximal-mu",
        "strategy.trim",
        "strategy.malicious",
        "strategy.selected",
        "strategy.fairness-q",
        "strategy.fairness-lipschitz",
        "strategy.dynamic-alpha",
        "strategy.synchronise",
        "strategy.divergence-weight",
        "strategy.weighted-networks",
        "strategy.temperature",
        "strategy.samples",
        "strategy.personal-part",
        "strategy.fine-tune-rounds",
        "strategy.generator-steps",
        "strategy.clip-norm",
        "strategy.noise-multiplier",
        "strategy.delta",
        "attack.hospitals",
        "attack.scale",
        "early-stopping.patience",
        "early-stopping.min-images",
        "simulation.workers",
        "stylegan2.path-length-every",
        "stylegan2.path-length-decay",
        "stylegan2.augmentation.transforms",
        "stylegan2.augmentation.p",
        "stylegan2.augmentation.ada-target",
        "stylegan2.augmentation.ada-every",
        "stylegan2.augmentation.ada-kimg",
        "vae.pixel-deviation",
    }
)
"""What is refused by name where nothing reads it."""


def test_every_setting_is_here() -> None:
    """A new one without an entry fails."""
    assert list(TABLE) == list(fields_by_key())


@pytest.mark.parametrize("key", [key for key, entry in TABLE.items() if isinstance(entry, Elsewhere)])
def test_the_test_that_covers_a_setting_is_there_and_knows_it(key: str) -> None:
    entry = TABLE[key]
    assert isinstance(entry, Elsewhere)
    file, _, name = entry.test.partition("::")
    source = (REPOSITORY / file).read_text(encoding="utf-8")
    names = {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    assert name in names
    leaf = key.rsplit(".", 1)[-1]
    assert any(word in source for word in (key, leaf, leaf.replace("-", "_")))


class Silent(ChosenNodes):
    """Nodes that are there and do not answer."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return []


def test_a_hospital_that_does_not_say_who_it_is_is_waited_for_so_long(cache_dir: str) -> None:
    layers = layers_of("", ("simulation.engine=ray", "participation.describe-seconds=0.01"), cache_dir)
    nodes = simulation_nodes(4)
    with pytest.raises(HospitalError, match=r"no answer within 0.01 s \(participation.describe-seconds\)"):
        describe_sites(Silent(InProcessGrid(client_app, nodes), nodes), resolve(layers))


class OneWorker(InProcessGrid):
    """Hospitals train in this process, as if it were a worker."""

    def workloads(self) -> list[Workload]:
        return [Workload(0.0, 0)]


@pytest.mark.parametrize("preflight", ["true", "false"])
def test_a_preflight_is_taken_unless_it_is_switched_off(
    preflight: str, tmp_path: Path, cache_dir: str, one_thread: None
) -> None:
    layers = layers_of("", ("simulation.engine=ray", f"simulation.preflight={preflight}"), cache_dir, tmp_path)
    inputs = prepare_inputs(resolve(layers))
    printed = io.StringIO()
    console = Console(file=printed, width=200)
    with RunProgress(1, console) as progress:
        directory = RunDirectory(Path(inputs.configuration.run_dir))
        run = FederatedRun(OneWorker(client_app, simulation_nodes(4)), inputs, progress, directory)
        run.sites = describe_sites(run.grid, run.configuration)
        run._prepare_engine()
        run.close()
    assert ("preflight: " in printed.getvalue()) == (preflight == "true")


# ---------------------------------------------------------------- whole runs

JUDGED = (
    "rounds=2",
    "evaluation.extractor=lesion-cnn",
    "evaluation.every=2",
    "evaluation.images=20",
    "evaluation.draws=1",
    "evaluation.utility-seeds=1",
    "evaluation.utility-steps=10",
    "evaluation.utility-arms=real,real+synthetic",
    "evaluation.utility-yardsticks=",
    "evaluation.threads=1",
    "checkpoint.every=2",
)


def left_by(configuration: Configuration) -> dict[str, Any]:
    """What a whole run leaves behind, without times and sizes."""
    grid = InProcessGrid(client_app, simulation_nodes(configuration.partition.hospitals))
    directory = run_federation(grid, prepare_inputs(configuration), Console(file=io.StringIO()))
    summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    files = [path for path in directory.rglob("*") if path.is_file() and path.suffix in (".safetensors", ".png")]
    timeless = {key: value for key, value in summary.items() if key in ("test", "authenticity", "validation")}
    gain = {key: value for key, value in summary["gain"].items() if key != "seconds"}
    utility = {key: value for key, value in summary["utility"].items() if key != "seconds"}
    return {
        "files": {str(path.relative_to(directory)): path.read_bytes() for path in files},
        "summary": timeless,
        "utility": utility,
        "gain": gain,
    }


@pytest.mark.whole
@pytest.mark.parametrize("key", IN_A_RUN)
@pytest.mark.usefixtures("without_pictures")
def test_a_whole_run_differs(key: str, tmp_path: Path, cache_dir: str, one_thread: None) -> None:
    entry = TABLE[key]
    assert isinstance(entry, InARun)
    before = layers_of(key, (*JUDGED, *entry.beside), cache_dir, tmp_path / "before")
    after = changed(key, entry, layers_of(key, (*JUDGED, *entry.beside), cache_dir, tmp_path / "after"))
    assert after is not None
    assert left_by(after) != left_by(resolve(before))


@pytest.mark.whole
@pytest.mark.parametrize("key", [key for key in ACTING if TABLE[key].see in (learned, found)])  # type: ignore[union-attr]
@pytest.mark.usefixtures("without_pictures")
def test_what_acts_is_seen_in_a_whole_run_too(key: str, tmp_path: Path, cache_dir: str, one_thread: None) -> None:
    entry = TABLE[key]
    assert isinstance(entry, Acts)
    judged = ("evaluation.utility=false", "evaluation.authenticity=false", "evaluation.images=20", "evaluation.draws=1")
    before = layers_of(key, (*judged, *entry.beside), cache_dir, tmp_path / "before")
    after = changed(key, entry, layers_of(key, (*judged, *entry.beside), cache_dir, tmp_path / "after"))
    assert after is not None
    assert left_by(after)["files"] != left_by(resolve(before))["files"]


# ---------------------------------------------------------------- the documentation


def docs_table() -> Iterator[str]:
    """Yield the lines of the table in ``docs/settings.md``, and the counts above it."""
    kinds = {
        "act whatever else is set": sum(
            isinstance(TABLE[key], Acts | InARun) and key not in REFUSED_ALONE for key in TABLE
        ),
        "act beside what they belong to, and are refused by name without it": len(REFUSED_ALONE),
        "matter in circumstances that a test of their own makes": sum(isinstance(e, Elsewhere) for e in TABLE.values()),
        "is reserved, and refused": sum(isinstance(entry, Refused) for entry in TABLE.values()),
    }
    yield f"Of {len(TABLE)} settings " + "; ".join(f"{number} {words}" for words, number in kinds.items()) + "."
    yield ""
    yield "| setting | how it is known to act |"
    yield "|---|---|"
    for key, entry in TABLE.items():
        yield f"| `{key}` | {words_of(key, entry)} |"


def words_of(key: str, entry: Acts | InARun | Elsewhere | Refused) -> str:
    """Say how a setting is known to act."""
    if isinstance(entry, Refused):
        return "reserved: no value but the default is allowed"
    if isinstance(entry, Elsewhere):
        return f"{entry.when}: `{entry.test}`"
    belongs = ", ".join(f"`{one}`" for one in entry.beside if one not in OF_VAE) or (
        "`model.name=vae`" if key.startswith("vae.") else ""
    )
    beside = f", beside {belongs}" if belongs else ""
    alone = "; refused without" if key in REFUSED_ALONE else ""
    if isinstance(entry, InARun):
        return f"a whole run{beside}{alone}"
    return f"{SEEN[entry.see]}{beside}{alone}"


SEEN: dict[Callable[[Configuration], object], str] = {
    built: "the networks",
    found: "the images that are found, and who holds them",
    learned: "what a hospital learns",
    combined: "what the server makes of replies",
    shared: "what stays at hospitals",
    asked: "who takes part",
    harmed: "what hostile hospitals send",
    ended: "when a run ends",
    launched: "how a run starts",
}


def test_the_documentation_holds_the_table() -> None:
    assert "\n".join(docs_table()) in DOCS.read_text(encoding="utf-8")
