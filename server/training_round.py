"""One round of training: ask the hospitals, check what comes, ask again where it failed, hand on what is good.

Replies are handed on in the order of site names, so that a sum does not depend on who was fastest, and each as
soon as it is the next: a strategy that sums can let go of it while others still train.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from torch import Tensor

from federation.engine.grid import TOO_LATE, SimulationGrid
from federation.errors import HospitalError, RunError, StorageError, WireError
from federation.exchange import (
    CLASS_TOTALS,
    LAST_ROUND,
    NUM_EXAMPLES,
    REFUSED,
    RUN_DIRECTORY_FAILED,
    SITE_NUMBER,
    arrays_of,
    check_reply,
    config_of,
    count_bytes,
    metrics_of,
)
from federation.models.anatomy import Loss
from federation.settings.participation import ParticipationSettings
from federation.settings.training import TrainingSettings
from federation.sharing import OWN
from federation.site import Site
from server.messaging import POLL_SECONDS, ChosenNodes


@dataclass
class RoundState:
    """Who does what at this moment, for a person to see."""

    training: list[str]
    waiting: list[str]
    done: list[str]
    failed: list[str]


@dataclass
class _Question:
    """A message on its way to a hospital."""

    site: Site
    message: Message
    attempt: int
    sent: float


@dataclass
class _Fate:
    """What came of asking a hospital: a reply, or the reason why there is none."""

    reply: Message | None
    status: str
    reason: str = ""


@dataclass
class TrainingRound:
    """Asks hospitals to train, once.

    Parameters
    ----------
    grid
        The nodes.
    server_round
        The round.
    sites
        Who takes part, in the order of names.
    expected
        Entries with the names, shapes and types that every reply must have.
    settings
        Retries, deadlines, the least number of replies.
    last_rounds
        The last round in which each site's reply was taken; absent for none.
    fail_fast
        Whether a hospital that fails ends the run.
    say
        Tells a person what happened.
    show
        Called whenever somebody's state may have changed, where anybody looks.
    keep_uploads
        Whether to keep what the hospitals with the fewest and with the most images sent.
    least
        Replies without which the round is none, and why.
    sends_own
        Whether hospitals hand over generators of their own beside what they send.
    losses
        What replies say of training, by the family of models.
    required
        Names of the numbers that the strategy reads of every reply.
    training
        What hospitals are told to do; None: their steps are not looked at.
    class_totals
        Training images of each class in the whole federation, for those that told theirs; empty: for nobody.
    """

    grid: Grid
    server_round: int
    sites: Sequence[Site]
    expected: Mapping[str, Tensor | np.ndarray]
    settings: ParticipationSettings
    last_rounds: Mapping[str, int]
    fail_fast: bool = False
    say: Callable[[str], None] = lambda text: None
    show: Callable[[RoundState], None] | None = None
    keep_uploads: bool = False
    least: tuple[int, str] = (1, "")
    sends_own: bool = False
    losses: Mapping[str, Loss] = field(default_factory=dict)
    required: Sequence[str] = ()
    training: TrainingSettings | None = None
    class_totals: Sequence[int] = ()

    accepted: list[Site] = field(default_factory=list)
    """Whose replies were handed on."""
    metrics: list[dict[str, float]] = field(default_factory=list)
    """What each of them said."""
    lines: list[dict[str, Any]] = field(default_factory=list)
    """For hospitals.jsonl, in the order of site names."""
    uploads: dict[str, tuple[Site, ArrayRecord]] = field(default_factory=dict)
    """What the ``smallest`` and the ``largest`` hospital sent, where it is kept; one hospital is both."""
    waiting_seconds: float = 0.0
    """Time in which hospitals were waited for; the rest of a round is the strategy's."""

    def __post_init__(self) -> None:
        self._questions: dict[str, _Question] = {}
        self._fates: dict[str, _Fate] = {}
        self._retried: dict[str, list[str]] = {}
        self._down: dict[str, int] = {}

    # ------------------------------------------------------------------ asking

    def replies(self, strategy: Any, arrays: ArrayRecord, config: ConfigRecord) -> Iterator[Message]:
        """Ask every hospital; yield the replies that can be used, in the order of site names.

        Raises
        ------
        HospitalError
            If a hospital failed, whatever was tried, and `fail_fast` is set.
        RunError
            If there are fewer usable replies than the least.
        StorageError
            If a simulated hospital cannot write to the run directory, or does not find there what it left.
        """
        nodes = {site.node_id: site for site in self.sites}
        messages = {
            message.metadata.dst_node_id: message
            for message in strategy.configure_train(self.server_round, arrays, config, ChosenNodes(self.grid, nodes))
        }
        for site in self.sites:
            if site.node_id in messages:
                message = messages.pop(site.node_id)
                config_of(message)[LAST_ROUND] = self.last_rounds.get(site.name, 0)
                config_of(message)[SITE_NUMBER] = site.number
                if site.class_counts and self.class_totals:
                    config_of(message)[CLASS_TOTALS] = list(self.class_totals)
                self._down[site.name] = count_bytes(arrays_of(message))
                self._send(site, message, attempt=1)
            else:
                self._give_up(site, _Fate(None, "failed", "the hospital is not connected"))
        for site in self.sites:
            start = time.perf_counter()
            while site.name not in self._fates:
                self._receive()
            reply = self._settle(site, self._fates[site.name])
            self.waiting_seconds += time.perf_counter() - start
            if reply is not None:
                yield reply
                del reply  # the strategy has it; while the next is waited for, nobody should
        least, why = self.least
        if len(self.accepted) < least:
            reasons = [f"{line['site']}: {_last_line(line['reason'])}" for line in self.lines if "reason" in line]
            raise RunError(
                f"round {self.server_round}: replies of {len(self.accepted)} of {len(self.sites)} hospitals could be "
                f"used, at least {least} are needed ({why})\n" + "\n".join(reasons[:8])
            )

    def _send(self, site: Site, message: Message, attempt: int) -> None:
        message_ids = list(self.grid.push_messages([message]))
        if not message_ids or not message_ids[0]:  # a node that has just left, or a message that is too large
            self._give_up(site, _Fate(None, "failed", "the message could not be sent"))
            return
        self._questions[message_ids[0]] = _Question(site, message, attempt, time.monotonic())

    def _receive(self) -> None:
        """Wait a moment for replies; decide what becomes of each."""
        self._show()
        arrived = list(self.grid.pull_messages(list(self._questions)))
        for reply in arrived:
            question = self._questions.pop(reply.metadata.reply_to_message_id)
            fate = self._judge(question.site, reply)
            if fate.reply is not None:
                self._fates[question.site.name] = fate
            elif question.attempt > self.settings.retries or _has_refused(reply):
                self._give_up(question.site, fate)
            else:
                self._ask_again(question, fate)
        if not arrived and not isinstance(self.grid, SimulationGrid):
            self._end_late_questions()
            time.sleep(POLL_SECONDS)

    def _ask_again(self, question: _Question, fate: _Fate) -> None:
        site, message = question.site, question.message
        self._retried.setdefault(site.name, []).append(fate.reason)
        self.say(
            f"round {self.server_round}: hospital {site.name!r} {fate.status}, is asked again: "
            f"{_last_line(fate.reason)}"
        )
        _log("round %d: hospital %s, attempt %d: %s", self.server_round, site.name, question.attempt, fate.reason)
        if isinstance(self.grid, SimulationGrid):
            self.grid.distrust_worker(site.node_id)
        metadata = message.metadata
        again = self.grid.create_message(message.content, metadata.message_type, site.node_id, metadata.group_id)
        self._send(site, again, question.attempt + 1)

    def _end_late_questions(self) -> None:
        """Wait no longer for remote hospitals whose time is over; simulations see to it themselves."""
        deadline = self.settings.train_seconds
        for message_id, question in list(self._questions.items()):
            if deadline and time.monotonic() - question.sent > deadline:
                del self._questions[message_id]
                self._give_up(question.site, _Fate(None, "late", f"no answer within {deadline:g} s"))

    # ------------------------------------------------------------------ what came

    def _judge(self, site: Site, reply: Message) -> _Fate:
        """Say whether a reply can be used, whatever the others sent."""
        if reply.has_error():
            if reply.error.code == RUN_DIRECTORY_FAILED and not site.is_deployed:
                # The disk is that of all hospitals, and left out in this round one would be so in the next.
                raise StorageError(str(reply.error.reason))
            status = {TOO_LATE: "late", REFUSED: "refused"}.get(reply.error.code, "failed")
            return _Fate(None, status, str(reply.error.reason))
        try:
            check_reply(reply, self.expected, site.num_images, self.losses, self.required, self.training)
        except WireError as error:
            return _Fate(None, "refused", str(error))
        return _Fate(reply, "ok")

    def _give_up(self, site: Site, fate: _Fate) -> None:
        self._fates[site.name] = fate
        _log("round %d: hospital %s: %s", self.server_round, site.name, fate.reason)
        if self.fail_fast:
            self.lines.append(self._line(site, fate))
            raise HospitalError(site.name, fate.reason)
        self.say(f"round {self.server_round}: left out hospital {site.name!r}: {_last_line(fate.reason)}")

    def _settle(self, site: Site, fate: _Fate) -> Message | None:
        """Write the line of the hospital whose turn it is; return its reply if it can be used."""
        self._fates.pop(site.name)
        if fate.reply is not None:
            self.accepted.append(site)
            self.metrics.append({name: float(str(value)) for name, value in metrics_of(fate.reply).items()})
            if self.keep_uploads:
                self._keep_upload(site, arrays_of(fate.reply))
        self.lines.append(self._line(site, fate))
        return fate.reply

    def _keep_upload(self, site: Site, record: ArrayRecord) -> None:
        """Keep what a hospital sent if it has fewer images than all before it, or more: the smallest is most at risk.

        Of several with as many images, the first by name.
        """
        smallest, largest = self.uploads.get("smallest"), self.uploads.get("largest")
        if smallest is None or site.num_images < smallest[0].num_images:
            self.uploads["smallest"] = (site, record)
        if largest is None or site.num_images > largest[0].num_images:
            self.uploads["largest"] = (site, record)

    def _line(self, site: Site, fate: _Fate) -> dict[str, Any]:
        """Return a line for hospitals.jsonl."""
        line: dict[str, Any] = {"round": self.server_round, "site": site.name}
        line["bytes-down"] = self._down.get(site.name, 0)
        line["status"] = fate.status
        if self._retried.get(site.name):
            line |= {"attempts": 1 + len(self._retried[site.name]), "retried": self._retried[site.name]}
        if fate.reply is None:
            line["reason"] = fate.reason
        else:
            metrics: dict[str, Any] = dict(metrics_of(fate.reply))
            metrics["num-training-images"] = metrics.pop(NUM_EXAMPLES)
            # What is handed over so that it can be judged is no part of the federation.
            record = arrays_of(fate.reply)
            judged = [name for name in record if name.startswith(OWN)] if self.sends_own else []
            if judged:
                whole, record = record, ArrayRecord()
                for name, array in whole.items():
                    if name not in judged:
                        record[name] = array
            line |= {"bytes-up": count_bytes(record), **metrics}
        return {key.replace("-", "_"): value for key, value in line.items()}

    # ------------------------------------------------------------------ what it was

    def mean_losses(self) -> dict[str, float]:
        """Mean over the hospitals, each weighted by its number of training images."""
        if not self.accepted:
            return {}
        weights = np.array([site.num_images for site in self.accepted], dtype=float)
        return {
            name: float(np.average([metrics[name] for metrics in self.metrics], weights=weights))
            for name in self.losses
            if all(name in metrics for metrics in self.metrics)
        }

    def mean_images(self) -> float:
        """Return how many images a hospital was shown in this round: the mean, weighted by their training images."""
        weights = [site.num_images for site in self.accepted]
        return float(np.average([metrics["num-images"] for metrics in self.metrics], weights=weights))

    def left_out(self) -> dict[str, str]:
        """Return the status of each hospital whose reply was not used."""
        return {line["site"]: line["status"] for line in self.lines if line["status"] != "ok"}

    def bound_seconds(self, num_workers: int) -> float:
        """Return the least time in which so many workers could have done it: max(max_i t_i, Σ_i t_i / W)."""
        seconds = [metrics["seconds"] for metrics in self.metrics if "seconds" in metrics]
        return max(max(seconds), sum(seconds) / num_workers) if seconds else 0.0

    def _show(self) -> None:
        if self.show is None:
            return
        by_node = {site.node_id: site.name for site in self.sites}
        asked = [question.site.name for question in self._questions.values()]
        running = (
            [by_node[node] for node in self.grid.running() if node in by_node]
            if isinstance(self.grid, SimulationGrid)
            else asked
        )
        failed = [line["site"] for line in self.lines if line["status"] != "ok"]
        failed += [name for name, fate in self._fates.items() if fate.reply is None]
        done = [site.name for site in self.accepted]
        done += [name for name, fate in self._fates.items() if fate.reply is not None]
        waiting = [name for name in asked if name not in running]
        self.show(RoundState(training=running, waiting=waiting, done=done, failed=failed))


def _has_refused(reply: Message) -> bool:
    """Return whether a hospital's own policy forbids what it was asked: it would the second time too."""
    return reply.has_error() and reply.error.code == REFUSED


def _last_line(reason: str) -> str:
    """Return the line of a traceback that says what happened."""
    return reason.strip().splitlines()[-1] if reason.strip() else "no reason given"


def _log(text: str, *values: object) -> None:
    logging.getLogger("dermafed").error(text, *values)
