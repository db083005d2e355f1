"""The ServerApp, which owns the round loop.

A round: send the global networks, let hospitals train, check what comes back, combine it, evaluate,
save. Flower's own loop (``Strategy.start``) can neither stop nor resume.
"""

from __future__ import annotations

import logging
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from rich.console import Console

from data_partitions.heterogeneity import plot_partition
from data_partitions.partition import write_split_csv
from federation.allocation import keep_freed_memory
from federation.balance import balance_over
from federation.config import Configuration, Layer
from federation.engine.grid import SimulationGrid
from federation.errors import ConfigurationError, RunDirectoryError, StorageError
from federation.exchange import (
    CHECKPOINT_ROUNDS,
    IMAGES_SHOWN,
    SEND_OWN_GENERATOR,
    own_record,
    pack_arrays,
    unpack_arrays,
)
from federation.interruption import undisturbed
from federation.machine import count_cores
from federation.models import GenerativeModel, build_model
from federation.models.drawing import Drawer, Looks, drawer_of, lent_component, looks_of
from federation.models.final import save_final
from federation.run_directory import RunDirectory, read_lines, taken_directory, to_json, write_text, writing
from federation.sharing import drawing_tensors, load_tensors, named_tensors, own_drawing, shared_tensors, trained_names
from federation.site import Site
from federation.toml_files import with_end
from server.background import BackgroundWork
from server.callbacks import EarlyStopping, RoundCallback, RoundReport
from server.engine_use import EngineUse, count_left_out
from server.environment import describe_environment
from server.evaluation.evaluator import Evaluator
from server.evaluation.membership import save_uploads
from server.evaluation.summary_text import describe_judgement
from server.evaluation.threads import use_threads
from server.evaluation.training_speed import measure_training_speed
from server.initial_state import InitialState
from server.inputs import RunInputs, prepare_inputs
from server.messaging import choose_sites, describe_sites, fewest_replies, list_shares, list_sites
from server.preflight import check_workers
from server.progress import RunProgress, Stopwatch
from server.report import write_report
from server.resuming import check_directory, check_extractor, check_images
from server.run_state import RunState, newest_whole, read_state, write_state
from server.run_summary import how_to_go_on, say_summary
from server.training_round import TrainingRound
from strategies.aggregation import Federation
from strategies.building import build_local_rule, build_strategy
from strategies.catalogue import STRATEGIES
from strategies.configuration import names_in_use, numbers_in_use, resolve
from strategies.sharing import sharing_policy

app = ServerApp()

_LOGGERS = ("flwr", "dermafed")


def describe_federation(configuration: Configuration, model: GenerativeModel) -> Federation:
    """Return what a strategy must know of a run and its model."""
    rows, anatomy = model.class_rows, model.anatomy
    averages = [follower for name in rows for follower in anatomy.follower_of(name).values()]
    return Federation(
        configuration=configuration,
        trainable=frozenset(trained_names(model.networks, anatomy)),
        class_rows=(*rows, *averages),
        device=model.device,
    )


def check_deployment(sites: Sequence[Site], configuration: Configuration) -> None:
    """Refuse at real sites what is for simulations alone.

    Raises
    ------
    ConfigurationError
        Naming the strategy or the attack, and the reason.
    """
    if not any(site.is_deployed for site in sites):
        return
    problems = [
        f"strategy {name}: is for simulations alone, since {STRATEGIES[name].simulation_only}; choose another "
        "strategy.name for real sites"
        for name in names_in_use(configuration.strategy)
        if STRATEGIES[name].simulation_only
    ]
    if not problems and sharing_policy(configuration, 0).keeps_drawing():
        problems.append(
            "a generator, or a part of it, stays at its hospital: such a federation is for simulations alone, since "
            "every hospital would have to hand over its own to be judged; share the generator "
            "(strategy.private, strategy.generator, strategy.synchronise)"
        )
    hospitals = configuration.partition.hospitals
    if hospitals > 1 and configuration.asked_hospitals() == 1:
        problems.append(
            f"participation.fraction = {configuration.participation.fraction:g}: of {hospitals} hospitals one is asked "
            "in a round, and what it has learned would go to all others as it is; ask two at least"
        )
    if configuration.attack.name != "none":
        problems.append(f"attack.name = {configuration.attack.name!r}: is for simulations alone; set attack.name=none")
    if problems:
        raise ConfigurationError(problems)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation that the run configuration describes."""
    configuration = resolve([Layer("run configuration", dict(context.run_config))]).with_absolute_paths()
    with taken_directory(configuration.run_dir, configuration.name, resume=configuration.resume) as directory:
        run_federation(grid, prepare_inputs(configuration), directory=directory)


def run_federation(
    grid: Grid,
    inputs: RunInputs,
    console: Console | None = None,
    callbacks: Sequence[RoundCallback] = (),
    directory: RunDirectory | None = None,
) -> Path:
    """Run a federation from data to summary; return the run directory.

    Parameters
    ----------
    grid
        The nodes. A simulation's grid is closed when the rounds are over.
    inputs
        Data, partition and configuration.
    console
        Where progress is shown.
    callbacks
        Called after each round; each may end the run. While there are any, a round is judged before the next begins.
    directory
        Of the run, taken by the caller; None: ``run-dir`` is taken here.

    Raises
    ------
    InputError
        If nodes, extractor or run directory are not as they should be; nothing was written then.
    RunError
        If the run failed; the last good state is saved and can be resumed.
    """
    configuration = inputs.configuration
    if directory is None:
        with taken_directory(configuration.run_dir, configuration.name, resume=configuration.resume) as directory:
            return run_federation(grid, inputs, console, callbacks, directory)
    configuration = configuration.with_values({"run-dir": str(directory.path)})
    inputs = replace(inputs, configuration=configuration)
    columns = configuration.anatomy.columns
    with RunProgress(configuration.rounds, console or Console(), columns) as progress:
        run = FederatedRun(grid, inputs, progress, directory, callbacks)
        try:
            run.execute()
        except BaseException as error:
            with undisturbed():
                try:
                    run.stop_early(error)
                finally:
                    run.close()
            raise
        run.close()
    return run.directory.path


class _LogFile(logging.FileHandler):
    """A log file that a full disk silences: the run says by itself why it ends."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # the library's name
        """Let a record go where the disk does not take it."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        """Close the file, with what it has."""
        with suppress(OSError):
            super().close()


def _log_thread(failure: threading.ExceptHookArgs) -> None:
    """Log what ended a thread of a library, e.g. of TensorBoard, whose caller hears of it too."""
    assert failure.exc_value is not None
    logging.getLogger("dermafed").error("a thread ended", exc_info=failure.exc_value)


class FederatedRun:
    """One run: its state, and the steps that change it.

    Parameters
    ----------
    grid
        The nodes.
    inputs
        Data, partition and the complete configuration.
    progress
        Where a person looks.
    directory
        Taken for this run.
    callbacks
        Called after each round, in this order.
    """

    def __init__(
        self,
        grid: Grid,
        inputs: RunInputs,
        progress: RunProgress,
        directory: RunDirectory,
        callbacks: Sequence[RoundCallback] = (),
    ) -> None:
        self.started = time.perf_counter()
        self.grid = grid
        self.inputs = inputs
        self.configuration = inputs.configuration
        self.progress = progress
        self.callbacks = tuple(callbacks)
        self.early_stopping = EarlyStopping(self.configuration.early_stopping)
        self.stop_reason: str | None = None
        self.watch = Stopwatch()
        self.use = EngineUse()
        self.background = BackgroundWork()
        # Rounds whose judgement has not ended.
        self.unjudged: dict[int, tuple[RunState, TrainingRound]] = {}
        self.directory = directory
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # What is judged. Its weights are those of the state that is judged, not always of the newest one.
        self.model = build_model(self.configuration, device=self.device)
        self.anatomy = self.model.anatomy
        self.policy = sharing_policy(self.configuration, 0)
        self.policy.check(named_tensors(self.model.networks))
        self.initial = InitialState.of(self.configuration, self.model, directory)
        self.strategy = build_strategy(describe_federation(self.configuration, self.model))
        self.local_rule = build_local_rule(self.configuration)
        # What draws as every hospital begins with it: of what is a hospital's own the server has no other.
        self.initial_drawing = {
            name: value.detach().clone() for name, value in drawing_tensors(self.model.networks, self.anatomy).items()
        }
        self.state = RunState(
            completed_rounds=0,
            record=pack_arrays(shared_tensors(self.model.networks, self.policy)),
            num_images=0,
            num_evaluations=0,
            images_shown=0.0,
            last_rounds={},
            strategy=self.strategy.state_dict(),
        )
        self.peak_worker_bytes: dict[int, int] = {}
        self.seconds_before = 0.0
        self.sites: list[Site] = []
        self.class_totals: tuple[int, ...] = ()
        self.looks: Looks | None = None
        self.started_writing = False
        self.finished = False
        self.log_handler: logging.Handler | None = None
        self.thread_hook = threading.excepthook

    # ------------------------------------------------------------------ the recipe

    def execute(self) -> None:
        """Run from the first round, or from the last checkpoint, to the summary."""
        configuration = self.configuration
        self.progress.say(f"run directory: {self.directory.path}")
        if self.directory.note:
            self.progress.say(self.directory.note)
        for note in self.inputs.notes:
            self.progress.say(f"data: {note}")
        # All that may be wrong with the input shows here, before anything is written.
        check_directory(self.directory, self.configuration, self.state)
        if configuration.resume:
            check_images(self.directory, self.inputs)
        self.progress.step("asking hospitals", 0, configuration.partition.hospitals)
        self.sites = describe_sites(self.grid, configuration)
        self.progress.say(f"hospitals: {list_sites(self.sites)}")
        for note in self.initial.notes(self.policy, deployed=any(site.is_deployed for site in self.sites)):
            self.progress.say(note)
        self._agree()
        check_deployment(self.sites, configuration)
        if any(site.is_deployed for site in self.sites):
            for name in names_in_use(configuration.strategy):
                self.progress.say(f"strategy {name}: hospitals are sent, of one another, {STRATEGIES[name].shown}")
        self.strategy.meet(self.sites)
        self._prepare_engine()
        use_threads(configuration.evaluation.threads)
        keep_freed_memory()
        with self.watch.measure("evaluation"):
            self.evaluator = Evaluator(
                self.inputs, self.directory, self.device, self.progress, knows_members=self._is_simulation()
            )
        self._open_directory()

        self.progress.start_rounds(self.state.completed_rounds + 1)
        # Round 0; or, resumed, an evaluation that an interruption cut short.
        if self._is_evaluated(self.state.completed_rounds) and not self._was_evaluated(self.state.completed_rounds):
            self._judge(self.state, None, 0.0)
        self.stop_reason = self.early_stopping.reason(self._history())

        while self.state.completed_rounds < configuration.rounds and not self.stop_reason:
            start = time.perf_counter()
            server_round = self.state.completed_rounds + 1
            # Send the global networks, let hospitals train, combine what comes back.
            training = self._train(server_round)
            seconds = time.perf_counter() - start
            # Judge the new generator and save, while the next round trains where that changes nothing.
            self.unjudged[server_round] = self.state, training
            judge = partial(self._judge, self.state, training, seconds)
            if self._overlaps_evaluation():
                self.background.submit(partial(self._judge_and_keep, judge, self.state, training))
            else:
                judge()
                is_last, best = self._is_last(self.state), self._best_round()
                self.background.submit(partial(self._keep, self.state, training, is_last=is_last, best=best))
            del training, judge
        self.background.drain()
        if isinstance(self.grid, SimulationGrid):
            self.grid.close()  # its cores and memory are the judge's now, and nothing that dies there matters any more
        self._finish()

    def _agree(self) -> None:
        """Settle what hospitals' counts decide: whose look is drawn, and shares where classes are balanced over all."""
        if self.configuration.num_sites:
            self.looks = looks_of(self.sites, conditional=self.configuration.model.conditional)
            self.progress.say(
                "the generator is told hospitals: an image has a hospital's look as often as its class does"
            )
        if self.configuration.balanced_over != "federation" or len(self.sites) == 1:
            return
        balance = balance_over(self.sites)
        self.sites, self.class_totals = list(balance.sites), balance.totals
        self.progress.say(f"classes balanced over the federation: {list_shares(self.sites)}")
        if balance.by_themselves:
            self.progress.say(
                f"balanced by themselves, as their policy tells no images of each class: "
                f"{', '.join(balance.by_themselves)}"
            )

    def _prepare_engine(self) -> None:
        """Tell a simulation what to expect of each hospital; see if its workers fit."""
        if not isinstance(self.grid, SimulationGrid):
            return
        training = self.configuration.training
        self.grid.expect({site.node_id: float(training.count_steps(site.num_images)) for site in self.sites})
        if self.configuration.simulation.preflight and self.grid.workloads():
            self.progress.activity("preflight: a training step is timed")
            self.progress.say(check_workers(self.grid, self.sites, self.configuration))

    # ------------------------------------------------------------------ a round

    def _train(self, server_round: int) -> TrainingRound:
        """Let the hospitals train; replace the global networks by what the strategy makes of their replies."""
        configuration, state = self.configuration, self.state
        least = fewest_replies(self.sites, configuration)
        training = TrainingRound(
            grid=self.grid,
            server_round=server_round,
            sites=choose_sites(
                self.sites,
                configuration.participation,
                configuration.seed,
                server_round,
                self.strategy.choose_sites,
                least[0],
            ),
            expected=self._expected(server_round),
            settings=configuration.participation,
            last_rounds=state.last_rounds,
            fail_fast=configuration.simulation.fail_fast,
            say=self.progress.say,
            show=partial(self.progress.show_round, server_round) if self.progress.console.is_terminal else None,
            keep_uploads=self._is_simulation() and (server_round == configuration.rounds or self._may_stop()),
            least=least,
            sends_own=self._needs_own_generators(server_round),
            losses=self.anatomy.losses,
            required=numbers_in_use(configuration),
            training=configuration.training,
            class_totals=self.class_totals,
        )
        start = time.perf_counter()
        try:
            replies = training.replies(self.strategy, state.record, self._question(server_round))
            record, _ = self.strategy.aggregate_train(server_round, replies)
        finally:
            self.directory.append(self.directory.hospitals, training.lines)
        assert isinstance(record, ArrayRecord)
        record = own_record(record)
        seconds = time.perf_counter() - start
        self.watch.add("training", training.waiting_seconds)
        self.watch.add("aggregation", seconds - training.waiting_seconds)
        self.use.add_round(training, seconds, self.grid)
        for metrics in training.metrics:
            if "worker-pid" in metrics and "peak-memory-bytes" in metrics:
                self.peak_worker_bytes[int(metrics["worker-pid"])] = int(metrics["peak-memory-bytes"])
        # Together, so that an interruption finds the state before this round or the one after it.
        self.state = RunState(
            completed_rounds=server_round,
            record=record,
            num_images=state.num_images + sum(int(metrics["num-images"]) for metrics in training.metrics),
            num_evaluations=state.num_evaluations
            + sum(int(metrics["num-evaluations"]) for metrics in training.metrics),
            images_shown=state.images_shown + training.mean_images(),
            last_rounds={**state.last_rounds, **{site.name: server_round for site in training.accepted}},
            strategy=self.strategy.state_dict(),
            own={**state.own, **self.strategy.own},
        )
        return training

    def _question(self, server_round: int) -> ConfigRecord:
        """Return what all hospitals are told beside the networks."""
        config = ConfigRecord(dict(self.configuration.to_flat()))
        config[CHECKPOINT_ROUNDS] = self.directory.checkpoint_rounds()
        config[IMAGES_SHOWN] = self.state.images_shown
        config[SEND_OWN_GENERATOR] = self._needs_own_generators(server_round)
        return config

    def _needs_own_generators(self, server_round: int) -> bool:
        """Return whether hospitals have generators of their own and the round may be judged.

        Where hospitals may be away in the round that is judged, they hand theirs over in each that they are in.
        """
        keeps = sharing_policy(self.configuration, server_round).keeps_drawing()
        participation = self.configuration.participation
        may_be_away = participation.fraction < 1 or participation.dropout > 0
        return keeps and (self._is_evaluated(server_round) or self._may_stop() or may_be_away)

    def _expected(self, server_round: int) -> dict[str, torch.Tensor]:
        """Return entries with the names, shapes and types of what a hospital sends in a round."""
        policy = sharing_policy(self.configuration, server_round)
        expected = self.local_rule.up(shared_tensors(self.model.networks, policy), self.model.networks)
        if self._needs_own_generators(server_round):
            expected |= own_drawing(self.model.networks, policy)
        return expected

    def _judged(self, state: RunState) -> Drawer:
        """Return what draws the images that are judged: the global generator, or the mixture of the hospitals' own."""
        load_tensors(self.model.networks, self.initial_drawing)
        load_tensors(self.model.networks, state.arrays)
        if not state.own:
            return drawer_of(self.model, self.looks)
        shared = {name: value for name, value in state.arrays.items() if name in self.initial_drawing}
        return Drawer(
            [
                lent_component(
                    self.model, site.name, shared | dict(state.own[site.name]), self._mixture_weights(site).tolist()
                )
                for site in self.sites
                if site.name in state.own
            ],
            self.model.num_classes,
        )

    def _mixture_weights(self, site: Site) -> np.ndarray:
        """Return how much a hospital's generator is asked for, for each class."""
        if not self.model.num_classes:
            return np.array([site.num_images], dtype=float)
        partition = self.inputs.partition  # a simulation's: nothing else has generators of hospitals' own
        # Of a class that no training image has, all alike.
        counts = partition.counts[partition.hospitals.index(site.name)].astype(float)
        return np.where(partition.counts.sum(axis=0) > 0, counts, 1.0)

    def _may_stop(self) -> bool:
        """Return whether a round may turn out to be the last one."""
        return bool(self.callbacks) or self.configuration.early_stopping.patience > 0

    def _overlaps_evaluation(self) -> bool:
        """Return whether hospitals may train on while a round is judged."""
        wanted = self.configuration.evaluation.overlap
        if wanted != "auto":
            return wanted == "always" and not self._may_stop()
        busy = 0
        if isinstance(self.grid, SimulationGrid) and not self.configuration.simulation.address:
            workers = len(self.grid.workloads())
            if not workers:  # hospitals train in this very process
                return False
            busy = workers * self.configuration.training.threads
        free = count_cores() - busy
        return not self._may_stop() and free >= self.configuration.evaluation.threads

    def _judge(self, state: RunState, training: TrainingRound | None, round_seconds: float) -> None:
        """Judge the round's generator on validation images, where it is its turn; say what the round was."""
        scores: dict[str, Any] = {}
        server_round = state.completed_rounds
        losses = training.mean_losses() if training else {}
        if self._is_evaluated(server_round):
            scores = self._evaluate(state, losses)
        self.progress.round_line(
            server_round,
            losses=losses,
            scores=scores,
            num_images=state.num_images,
            seconds=round_seconds,
            replies=(len(training.accepted), len(training.sites)) if training else None,
        )
        if training and self._may_stop():
            self._call_back(state, training, losses, scores)
            if self.stop_reason and not scores:
                self._evaluate(state, losses)  # what a run ends with is judged
        self.unjudged.pop(server_round, None)

    def _evaluate(self, state: RunState, losses: Mapping[str, float]) -> dict[str, Any]:
        """Judge the global generator; write the scores."""
        use_threads(self.configuration.evaluation.threads)
        with self.watch.measure("evaluation") as lap:
            model = self._judged(state)
            scores = self.evaluator.evaluate(model, state.completed_rounds)
            self.evaluator.write_sample_sheet(model, state.completed_rounds)
        line = {
            "round": state.completed_rounds,
            "images": state.num_images,
            "evaluations": state.num_evaluations,
            **{name.replace("-", "_"): value for name, value in losses.items()},
            **scores,
            "evaluation_seconds": lap.seconds,
            "seconds": self.seconds(),
        }
        self.directory.append(self.directory.metrics, [line])
        self.evaluator.log_scalars(line)
        return scores

    def _call_back(
        self, state: RunState, training: TrainingRound, losses: Mapping[str, float], scores: Mapping[str, Any]
    ) -> None:
        """Let callbacks look at the round; note why it should be the last, if one of them says so."""
        report = RoundReport(
            server_round=state.completed_rounds,
            num_rounds=self.configuration.rounds,
            num_images=state.num_images,
            seconds=self.seconds(),
            losses=losses,
            scores=scores,
            accepted=[site.name for site in training.accepted],
            left_out=training.left_out(),
            history=self._history(),
        )
        for callback in (self.early_stopping, *self.callbacks):
            self.stop_reason = self.stop_reason or callback.after_round(report)

    def _judge_and_keep(self, judge: Callable[[], None], state: RunState, training: TrainingRound) -> None:
        judge()
        self._keep(state, training, is_last=self._is_last(state), best=self._best_round())

    def _is_last(self, state: RunState) -> bool:
        return state.completed_rounds == self.configuration.rounds or bool(self.stop_reason)

    def _keep(self, state: RunState, training: TrainingRound, *, is_last: bool, best: int | None) -> None:
        """Save a round where it is its turn, or where it is the best so far; of the last round uploads too."""
        if is_last and training.uploads:
            # The judge asks what an upload gives away.
            uploads = {which: (site.name, unpack_arrays(record)) for which, (site, record) in training.uploads.items()}
            save_uploads(self.directory, self.anatomy, state.completed_rounds, uploads)
        training.uploads.clear()
        if (
            is_last
            or state.completed_rounds % self.configuration.checkpoint.every == 0
            or best == state.completed_rounds
        ):
            self._save_checkpoint(state, best)

    def _best_round(self) -> int | None:
        """Return the round after training with the best KID on validation images; None before there is one."""
        judged = [line for line in self._history() if line.get("kid") is not None and line["round"] > 0]
        return min(judged, key=lambda line: line["kid"])["round"] if judged else None

    def _history(self) -> list[dict[str, Any]]:
        return read_lines(self.directory.metrics) if self.directory.metrics.exists() else []

    def _is_simulation(self) -> bool:
        """Return whether the hospitals are those of the server's own partition. Of real sites it has no images."""
        return tuple(site.name for site in self.sites) == self.inputs.partition.hospitals

    def _is_evaluated(self, server_round: int) -> bool:
        return server_round % self.configuration.evaluation.every == 0 or server_round == self.configuration.rounds

    def _was_evaluated(self, server_round: int) -> bool:
        return any(line["round"] == server_round for line in self._history())

    def seconds(self) -> float:
        """Return the run's duration so far, in all its pieces."""
        return self.seconds_before + time.perf_counter() - self.started

    # ------------------------------------------------------------------ files

    def _open_directory(self) -> None:
        """Begin to fill the run directory, or take up what it holds."""
        directory, configuration = self.directory, self.configuration
        if configuration.resume:
            check_extractor(directory, self.evaluator.extractor.name)
        self.started_writing = True
        # First of all: with it, and without anything else, a run can be resumed. Written again in a resumed run, which
        # may go on for more rounds than it was started for.
        write_text(directory.config, with_end(configuration.with_values({"resume": False}).to_toml()))
        self._log_to_file()
        self.initial.keep(directory)
        if not directory.partition.exists():
            self._write_description()
        if configuration.resume:
            self._load_checkpoint()
        self.evaluator.first_round = self.state.completed_rounds
        self.evaluator.save_extractor()

    def _write_description(self) -> None:
        """Write what the run is made of."""
        directory, inputs = self.directory, self.inputs
        write_text(directory.environment, to_json(describe_environment(self.device), indent=2) + "\n")
        plot_partition(inputs.partition, directory.partition_picture)
        if self._is_simulation():
            write_split_csv(inputs.index, inputs.parts, inputs.partition, directory.split)
        # Last: where it is, all of them are.
        write_text(directory.partition, to_json(inputs.manifest(), indent=2) + "\n")

    def _save_checkpoint(self, state: RunState, best: int | None) -> None:
        """Write all that is needed to go on after a round."""
        write = partial(write_state, state=state, seconds=self.seconds(), seconds_by_work=self.watch.seconds)
        self.directory.write_checkpoint(state.completed_rounds, self.configuration.checkpoint.keep, write, best=best)

    def _load_checkpoint(self) -> None:
        """Go back to the newest checkpoint that is whole, or to the beginning where there is none."""
        newest, damaged = newest_whole(self.directory)
        for server_round, problem in damaged.items():
            aside = self.directory.set_aside(server_round)
            self.progress.say(f"{problem}: that checkpoint is left out, and is {aside} now")
        if newest:
            saved = read_state(self.directory.checkpoint(newest), self.state, self.anatomy.evaluations, len(self.sites))
            self._check_hospitals(saved.state)
            self.state = saved.state
            self.strategy.load_state_dict(self.state.strategy)
            self.seconds_before = saved.seconds
            for work, seconds in saved.seconds_by_work.items():
                self.watch.add(work, seconds)
        self.directory.keep_rounds(self.state.completed_rounds if newest else -1)
        for note in self._missing_lines() if newest else ():
            self.progress.say(note)
        self.progress.say(f"resumed after round {self.state.completed_rounds}")

    def _check_hospitals(self, state: RunState) -> None:
        """Refuse to go on with other hospitals where the generator is told them: rows would be those of others.

        Raises
        ------
        RunDirectoryError
            Naming those that are not there.
        """
        gone = sorted(set(state.last_rounds) - {site.name for site in self.sites})
        if self.configuration.num_sites and gone:
            raise RunDirectoryError(
                f"{', '.join(gone)}: took part in this run and {'is' if len(gone) == 1 else 'are'} not there now; the "
                "generator is told hospitals, by the order of their names: go on with those that the run began with"
            )

    def _missing_lines(self) -> Iterator[str]:
        """Say which rounds before this one the line files lack, as after copying a part of them."""
        completed = self.state.completed_rounds
        for path, expected in (
            (self.directory.metrics, range(0, completed + 1, self.configuration.evaluation.every)),
            (self.directory.hospitals, range(1, completed + 1)),
        ):
            found = {line["round"] for line in read_lines(path)} if path.exists() else set()
            if missing := sorted(set(expected) - found - {completed}):
                yield (
                    f"{path}: has no line of round {missing[0]}"
                    + (f" and {len(missing) - 1} others" if missing[1:] else "")
                    + "; what is added up over rounds lacks them"
                )

    def _finish(self) -> None:
        """Export the generator, judge it once, on test images unless recipes are being chosen, sum up."""
        save_final(self.directory.final, self._judged(self.state), self.configuration)
        self.progress.activity(f"final evaluation on {self.configuration.evaluation.part} images")
        use_threads(self.configuration.evaluation.threads)
        with self.watch.measure("evaluation"):
            final = self.evaluator.final_evaluation()
        summary = self._summary("done") | final
        write_text(self.directory.summary, to_json(summary, indent=2) + "\n")
        self.finished = True
        self._write_report()
        say_summary(
            self.progress.say,
            summary,
            judgement=describe_judgement(summary),
            use=self.use.sentence(),
            directory=self.directory,
        )

    def _write_report(self) -> None:
        """Write the report. A fault in it must not turn a finished run into a failed one."""
        try:
            write_report(self.directory)
        except Exception as error:
            logging.getLogger("dermafed").exception("the report could not be written")
            self.progress.say(
                f"the report could not be written ({type(error).__name__}: {error}); all it shows stands in "
                f"{self.directory.summary}; try again with dermafed report {self.directory.path}"
            )

    def stop_early(self, error: BaseException) -> None:
        """Leave a readable run directory that can be resumed, whatever ended the run."""
        interrupted = isinstance(error, KeyboardInterrupt)
        if not self.started_writing and interrupted:
            self.progress.say(f"interrupted before the first round; {how_to_go_on(self.directory)}")
        if self.finished and interrupted:
            self.progress.say(f"the run is done; its report is made with dermafed report {self.directory.path}")
        if not self.started_writing or self.finished:
            return
        if interrupted:
            self.progress.say("interrupted; what was done is being saved")
        if (problem := self.background.end()) is not None and problem is not error:
            logging.getLogger("dermafed").error("work beside the rounds failed", exc_info=problem)
        # What was trained is saved, but no round beyond one that was not judged: the resumed run makes up for that.
        state, training = self.unjudged[min(self.unjudged)] if self.unjudged else (self.state, None)
        completed = state.completed_rounds
        if completed and completed not in self.directory.checkpoint_rounds():
            try:
                if training is not None:
                    self._keep(state, training, is_last=True, best=self._best_round())
                else:
                    self._save_checkpoint(state, self._best_round())
            except StorageError as full:  # the checkpoint before this one is there still
                completed = max(self.directory.checkpoint_rounds(), default=0)
                self.progress.say(f"the last round could not be saved: {full}")
        status = "interrupted" if interrupted else "failed"
        summary = self._summary(status) | {"reason": str(error) or type(error).__name__}
        try:
            write_text(self.directory.summary, to_json(summary, indent=2) + "\n")
        except StorageError as full:
            with suppress(OSError):
                self.directory.summary.unlink(missing_ok=True)  # of a run that was made longer: it is not done
            self.progress.say(f"there is no summary: {full}")
        logging.getLogger("dermafed").error("run %s after round %d", status, completed, exc_info=error)
        self.progress.say(f"{status} after round {completed}; {how_to_go_on(self.directory)}")
        if not isinstance(error, StorageError):  # what room is left is not for pictures
            self._write_report()  # takes seconds, which whoever ends this process may not give it

    def _summary(self, status: str) -> dict[str, Any]:
        lines = self._history()
        hospitals = read_lines(self.directory.hospitals) if self.directory.hospitals.exists() else []
        seconds = self.seconds()
        training = self.watch.seconds.get("training", 0.0)
        driver = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        workers = {pid: size for pid, size in self.peak_worker_bytes.items() if pid != os.getpid()}
        summary: dict[str, Any] = {
            "status": status,
            "rounds": self.state.completed_rounds,
            "images": self.state.num_images,
            "evaluations": self.state.num_evaluations,
            "seconds": seconds,
            "seconds_by_work": self.watch.seconds,
            "images_per_second": self.state.num_images / training if training else None,
            "stopped_early": self.stop_reason,
            "left_out": count_left_out(hospitals),
            "engine": self.use.summary(),
            "strategy": {"name": self.configuration.strategy.name, **self.strategy.report()},
            "initial": self.initial.summary(),
            "peak_memory_bytes": {"server": driver, "workers": sorted(workers.values(), reverse=True)},
        }
        if lines:
            judged = [line for line in lines if line.get("kid") is not None]
            best = min(judged, key=lambda line: line["kid"], default=None)
            best_trained = self._best_round()
            summary |= {
                "kid_round_0": lines[0].get("kid"),
                "kid": lines[-1].get("kid"),
                "kid_sd": lines[-1].get("kid_sd"),
                "fid": lines[-1].get("fid"),
                "best_round": best["round"] if best else None,
                "best_kid": best["kid"] if best else None,
                "best_checkpoint": best_trained if best_trained in self.directory.checkpoint_rounds() else None,
            }
        if hasattr(self, "evaluator"):
            summary |= {
                "extractor": self.evaluator.extractor.name,
                **self.evaluator.yardsticks,
                "speed": measure_training_speed(
                    lines,
                    hospitals,
                    seconds_by_work=self.watch.seconds,
                    seconds=seconds,
                    one_machine=self._is_simulation(),
                    yardsticks=self.evaluator.yardsticks,
                ),
            }
        return summary

    def _log_to_file(self) -> None:
        """Send what libraries and the run log to a file; the screen shows progress alone."""
        with writing(self.directory.log):
            self.log_handler = handler = _LogFile(self.directory.log, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
        for name in _LOGGERS:
            logger = logging.getLogger(name)
            for old in list(logger.handlers):
                logger.removeHandler(old)
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)
            logger.propagate = False
        if self.progress.failure:  # before there was a log
            logging.getLogger("dermafed").warning(self.progress.failure)
        threading.excepthook = _log_thread

    def close(self) -> None:
        """End what goes on beside; close the log file and the event files."""
        self.background.end()
        if self.log_handler is not None:
            threading.excepthook = self.thread_hook
            for name in _LOGGERS:
                logging.getLogger(name).removeHandler(self.log_handler)
            self.log_handler.close()
        if hasattr(self, "evaluator"):
            try:
                self.evaluator.close()
            except StorageError as full:  # what they show stands in metrics.jsonl
                self.progress.say(f"the last events for TensorBoard are missing: {full}")
