"""What a hospital answers: who it is, what it has learned in a round, what a training step costs."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial

import torch
from flwr.app import ArrayRecord
from torch import Tensor

from clients.attack import falsify_update, is_attacker, poison_images
from clients.hospital import Hospital, Identity, load_hospital
from clients.local_training import LocalResult, train_locally
from clients.outbox import Answer, Outbox
from federation.allocation import keep_freed_memory
from federation.config import Configuration
from federation.errors import PolicyError, WireError
from federation.exchange import ARRAYS, CLASS_COUNTS, DEPLOYED, NUM_EXAMPLES, SITE, check_arrays
from federation.models import GenerativeModel, build_model
from federation.models.initial import build_initial_model
from federation.models.training import Clock
from federation.seeding import torch_stream
from federation.settings.participation import AttackSettings
from federation.sharing import OWN, load_tensors, named_tensors, own_drawing, private_tensors, shared_tensors
from strategies.building import build_local_rule
from strategies.configuration import asks_class_counts, numbers_in_use, reads_class_counts
from strategies.local_rule import LocalRule
from strategies.sharing import sharing_policy

_NETWORK, _STRATEGY = "network.", "strategy."
_OURS = (_NETWORK, _STRATEGY)
# Steps that a preflight times, and seconds after which it begins no other: with lazy regularisation one step in
# several costs more than the rest.
_PREFLIGHT_STEPS, _PREFLIGHT_SECONDS = 16, 3.0


@dataclass(frozen=True)
class Asked:
    """What a message says."""

    configuration: Configuration
    server_round: int = 0
    last_round: int = 0
    """The last round in which this hospital's reply was taken."""
    images_shown: float | None = None
    """Images that the federation has shown at one hospital before this round; None: as many as this one."""
    class_totals: list[int] = field(default_factory=list)
    """Training images of each class in the whole federation; empty where nobody balances over it."""
    site_number: int | None = None
    """This hospital's place among all: its row where the generator is told hospitals."""
    checkpoint_rounds: list[int] = field(default_factory=list)
    """Rounds that the server can go back to."""
    send_own: bool = False
    """Whether the server judges the round, and needs what is this hospital's own of the parts that draw for it."""
    arrays: ArrayRecord | None = None
    """The global entries."""


def describe(asked: Asked, identity: Identity, outbox: Outbox) -> Answer:
    """Say who this node is and how many training images it holds.

    Raises
    ------
    PolicyError
        If the run would ask this hospital for something that may not leave it.
    """
    configuration = asked.configuration
    if outbox.is_site:
        _check_run(configuration, outbox)
    hospital = load_cached_hospital(configuration, identity, outbox.policy.cache_dir)
    facts: dict[str, bool | int | str | list[int]] = {
        SITE: hospital.site,
        NUM_EXAMPLES: len(hospital.dataset),
        DEPLOYED: outbox.is_site,
    }
    if asks_class_counts(configuration):
        counts = torch.bincount(hospital.dataset.labels.cpu(), minlength=len(configuration.class_names))
        facts[CLASS_COUNTS] = counts.tolist()
    return Answer(facts=facts)


def _check_run(configuration: Configuration, outbox: Outbox) -> None:
    """Refuse a run before its first round, not in it."""
    model, _ = load_cached_model(configuration)
    policy = sharing_policy(configuration, 0)
    rule = build_local_rule(configuration)
    entries = [
        *rule.up(shared_tensors(model.networks, policy), model.networks),
        *(own_drawing(model.networks, policy) if policy.keeps_drawing() else ()),
    ]
    problems = outbox.problems(
        entries, model.anatomy, numbers_in_use(configuration), classes=reads_class_counts(configuration.strategy)
    )
    if problems:
        raise PolicyError("\n".join(problems))


def preflight(asked: Asked, identity: Identity, outbox: Outbox) -> Answer:
    """Take training steps on this hospital's images; say what they cost. Nothing of them stays."""
    configuration = asked.configuration
    _use_processor(configuration)
    hospital = load_cached_hospital(configuration, identity, outbox.policy.cache_dir)
    # The model is the one that training will use, already warm: a round overwrites every entry of it.
    model, _ = load_cached_model(configuration)
    model.load_private_state({})
    stream = torch_stream(configuration.seed, "preflight", site=hospital.site, device=_device())
    batch_size = configuration.training.batch_size
    # The first step also regularises, which takes the most memory, and prepares kernels: it is not timed.
    model.train_step(hospital.dataset.sample_batch(stream, batch_size), stream)
    num_steps, start = 0, time.perf_counter()
    while num_steps < _PREFLIGHT_STEPS and time.perf_counter() - start < _PREFLIGHT_SECONDS:
        losses = model.train_step(hospital.dataset.sample_batch(stream, batch_size), stream)
        for value in losses.values():
            value.item()  # a GPU is done when its numbers are here
        num_steps += 1
    seconds = time.perf_counter() - start
    on_gpu = _device().type == "cuda"
    return Answer(
        facts={
            "step-seconds": seconds / num_steps,
            "peak-memory-bytes": _peak_memory_bytes(),
            "gpu-peak-bytes": torch.cuda.max_memory_reserved() if on_gpu else 0,
            "gpu-total-bytes": torch.cuda.get_device_properties(0).total_memory if on_gpu else 0,
        }
    )


def train(asked: Asked, identity: Identity, outbox: Outbox) -> Answer:
    """Train the global networks on this hospital's images for a round."""
    start = time.perf_counter()
    configuration = asked.configuration
    _use_processor(configuration)
    hospital = load_cached_hospital(configuration, identity, outbox.policy.cache_dir)
    rounds = _LocalRound(asked, hospital, is_site=outbox.is_site)
    is_hostile = not outbox.is_site and is_attacker(configuration, identity.partition_id)
    before = rounds.begin(remember=is_hostile)
    result, said = rounds.train()
    rounds.keep()
    own = rounds.own_to_be_judged() if asked.send_own else {}
    falsify = partial(_falsified, start=before, attack=configuration.attack, stream=rounds.stream)
    return Answer(
        arrays=rounds.upload() | own,
        numbers={
            NUM_EXAMPLES: len(hospital.dataset),
            "num-steps": result.num_steps,
            "num-images": result.num_images,
            "num-evaluations": result.num_evaluations,
            "train-seconds": result.seconds,
            "seconds": time.perf_counter() - start,
            "worker-pid": os.getpid(),
            "peak-memory-bytes": _peak_memory_bytes(),
            # What comes only every so many steps is left out: a reply says what the settings say that it does.
            **{name: value for name, value in result.losses.items() if name in rounds.model.anatomy.losses},
            **said,
        },
        filters=[falsify] if is_hostile else [],
    )


class _LocalRound:
    """A round at one hospital: what comes, training, what is kept, what goes.

    Parameters
    ----------
    asked
        What the server wants.
    hospital
        Whose images and state they are.
    is_site
        Whether it is a real one.
    """

    def __init__(self, asked: Asked, hospital: Hospital, *, is_site: bool) -> None:
        configuration = asked.configuration
        self.asked = asked
        self.hospital = hospital
        if configuration.balanced_over == "federation":
            hospital.dataset.balance(asked.class_totals)
        # A real site reads no file of a server's; a simulated one begins with what its run began with.
        self.model, self.initial = load_cached_model(configuration, begun=not is_site)
        if configuration.num_sites:
            if asked.site_number is None or not 0 <= asked.site_number < configuration.num_sites:
                raise WireError(
                    f"this hospital's number is {asked.site_number}, and the generator is told hospitals: allowed is 0 "
                    f"to {configuration.num_sites - 1}"
                )
            self.model.site = asked.site_number
        self.policy = sharing_policy(configuration, asked.server_round)
        self.rule: LocalRule = build_local_rule(configuration)
        # On a GPU numbers are drawn there: a step then never waits for the processor.
        self.stream = torch_stream(
            configuration.seed,
            "local training",
            server_round=asked.server_round,
            site=hospital.site,
            device=_device(),
        )

    def begin(self, *, remember: bool) -> dict[str, Tensor]:
        """Take the global entries, what the strategy sends beside them, and what this hospital kept for itself.

        Returns
        -------
        The entries as they came, if they are to be remembered.
        """
        asked, model, networks = self.asked, self.model, self.model.networks
        entries = named_tensors(networks)
        self.shared = shared_tensors(networks, self.policy)
        everywhere = shared_tensors(networks, sharing_policy(asked.configuration, 0))
        sent = self.rule.down(everywhere, networks)
        if asked.arrays is None:
            raise WireError(f"a round without networks to train: the record {ARRAYS!r} is missing")
        arrived = check_arrays(asked.arrays, sent)
        state = self.hospital.private_state.load(asked.last_round, asked.server_round)
        load_tensors(networks, {name: value for name, value in self.initial.items() if name not in arrived})
        load_tensors(networks, {name: value for name, value in arrived.items() if name in entries})
        # What a strategy carries to the server and back, though it is this hospital's own, is as it arrived.
        carried = sent.keys() - everywhere.keys()
        private = private_tensors(networks, self.policy)
        self.own = {name: value for name, value in private.items() if name not in carried}
        kept = _with_prefix(state, _NETWORK)
        load_tensors(networks, {name: value for name, value in kept.items() if name in self.own})
        model.load_private_state({name: value for name, value in state.items() if not name.startswith(_OURS)})
        self._set_clock(arrived.keys())
        extra = {name: torch.from_numpy(value.copy()) for name, value in arrived.items() if name not in entries}
        self.rule.begin(model, self.shared, extra, _with_prefix(state, _STRATEGY))
        # What a strategy sends beside the networks goes up as a change already, e.g. SCAFFOLD's control variates.
        remembered = {name: value for name, value in arrived.items() if name in entries and remember}
        return {name: torch.from_numpy(value.copy()) for name, value in remembered.items()}

    def _set_clock(self, arrived: Collection[str]) -> None:
        """Let what came from the federation go by its count of images, and what is this hospital's alone by its own."""
        shown = self.model.num_steps * self.asked.configuration.training.batch_size
        federation = shown if self.asked.images_shown is None else self.asked.images_shown
        self.model.clock = Clock(ahead=federation - shown, own=frozenset(self.own.keys() - arrived))

    def train(self) -> tuple[LocalResult, dict[str, float]]:
        """Take the steps; return what they say, and what the strategy says of them."""
        model, rule = self.model, self.rule
        model.correct_gradients = rule.correct if rule.corrects else None
        result = train_locally(
            model,
            self.hospital.dataset,
            self.asked.configuration.training,
            self.stream,
            critic_only=rule.critic_only,
            rounds_done=(self.asked.server_round - 1, self.asked.configuration.rounds),
        )
        model.correct_gradients = None
        return result, rule.end(model, self.hospital.dataset, self.stream)

    def keep(self) -> None:
        """Write what is private to this hospital's own folder."""
        kept = {
            **self.model.private_state(),
            **{_NETWORK + name: value for name, value in self.own.items()},
            **{_STRATEGY + name: value for name, value in self.rule.state().items()},
        }
        self.hospital.private_state.save(self.asked.server_round, kept, self.asked.checkpoint_rounds)

    def upload(self) -> dict[str, Tensor]:
        """Return what the strategy has sent."""
        return self.rule.up(self.shared, self.model.networks)

    def own_to_be_judged(self) -> dict[str, Tensor]:
        """Return what is this hospital's own of what draws: for the judge alone, no other hospital learns from it."""
        return own_drawing(self.model.networks, self.policy)


def _falsified(
    sent: Mapping[str, Tensor], *, start: Mapping[str, Tensor], attack: AttackSettings, stream: torch.Generator
) -> dict[str, Tensor]:
    """Return what a hostile hospital sends; what is handed over to be judged stays honest."""
    update = {name: value for name, value in sent.items() if not name.startswith(OWN)}
    return dict(sent) | falsify_update(update, start, attack, stream)


def _with_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the entries with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _use_processor(configuration: Configuration) -> None:
    """Set what training takes of its processor: here, for every launcher."""
    # The number of threads changes the last bits.
    torch.set_num_threads(configuration.training.threads)
    keep_freed_memory()


def _peak_memory_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


# A long-lived worker keeps the images of its hospitals and one model, whose every entry a round overwrites.
@lru_cache(maxsize=64)
def load_cached_hospital(configuration: Configuration, identity: Identity, cache_dir: str) -> Hospital:
    """Return a node's images and state, found once."""
    hospital = load_hospital(configuration, identity, _device(), cache_dir)
    if not identity.site and is_attacker(configuration, identity.partition_id):
        poison_images(hospital.dataset, configuration, hospital.site)
    return hospital


@lru_cache(maxsize=1)
def load_cached_model(
    configuration: Configuration, *, begun: bool = False
) -> tuple[GenerativeModel, dict[str, Tensor]]:
    """Return the model and the initial values of all its entries: random, or those that its run has `begun` with."""
    build = build_initial_model if begun and configuration.model.initial else build_model
    model = build(configuration, device=_device())
    return model, {name: value.clone() for name, value in named_tensors(model.networks).items()}
