"""The ServerApp, which owns the round loop.

A round: send the global networks, let hospitals train, check what comes back, combine it, evaluate,
save. Flower's own loop (``Strategy.start``) can neither stop nor resume.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.serverapp import Grid, ServerApp
from rich.console import Console

from data_partitions.heterogeneity import plot_partition
from data_partitions.partition import write_split_csv
from federation.config import Layer, load_toml, resolve
from federation.errors import HospitalError, RunDirectoryError, RunError, WireError
from federation.exchange import (
    ARRAYS,
    CHECKPOINT_ROUNDS,
    METRICS,
    NUM_EXAMPLES,
    SharingPolicy,
    check_reply,
    count_bytes,
    load_tensors,
    named_tensors,
    pack_arrays,
    shared_tensors,
    unpack_arrays,
)
from federation.models import build_model
from federation.models.final import save_final
from federation.run_directory import RunDirectory, check_free, default_path, read_lines, to_json, write_text
from server.evaluation.discriminators import save_upload
from server.evaluation.evaluator import Evaluator
from server.evaluation.summary_text import describe_judgement
from server.evaluation.threads import use_threads
from server.evaluation.training_speed import measure_training_speed
from server.inputs import RunInputs, prepare_inputs
from server.messaging import Site, collect_replies, describe_sites, replies_by_node
from server.progress import RunProgress, Stopwatch
from server.report import write_report
from strategies import build_strategy

app = ServerApp()

_LOGGERS = ("flwr", "dermafed")
# What a resumed run may change: how long it goes on and how it is run, not what is computed.
_RESUMABLE = ("rounds", "run-dir", "resume", "simulation.", "checkpoint.")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation that the run configuration describes."""
    configuration = resolve([Layer("run configuration", dict(context.run_config))]).with_absolute_paths()
    run_federation(grid, prepare_inputs(configuration))


def run_federation(grid: Grid, inputs: RunInputs, console: Console | None = None) -> Path:
    """Run a federation from data to summary; return the run directory.

    Parameters
    ----------
    grid
        The nodes.
    inputs
        Data, partition and configuration; an empty ``run-dir`` is filled in.
    console
        Where progress is shown.

    Raises
    ------
    InputError
        If nodes, extractor or run directory are not as they should be; nothing was written then.
    RunError
        If the run failed; the last good state is saved and can be resumed.
    """
    configuration = inputs.configuration
    if not configuration.run_dir:
        path = default_path(configuration.name).absolute()
        inputs = replace(inputs, configuration=configuration.with_values({"run-dir": str(path)}))
    with RunProgress(configuration.rounds, configuration.partition.hospitals, console or Console()) as progress:
        run = FederatedRun(grid, inputs, progress)
        try:
            run.execute()
        except BaseException as error:
            run.stop_early(error)
            raise
        finally:
            run.close()
    return run.directory.path


@dataclass
class RoundOutcome:
    """What came of asking the hospitals in a round."""

    accepted: list[Message] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)
    """For hospitals.jsonl, in the order of site names."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why a hospital's reply is not among the accepted, by site."""


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
    """

    def __init__(self, grid: Grid, inputs: RunInputs, progress: RunProgress) -> None:
        self.started = time.perf_counter()
        self.grid = grid
        self.inputs = inputs
        self.configuration = inputs.configuration
        self.progress = progress
        self.watch = Stopwatch()
        self.directory = RunDirectory(Path(self.configuration.run_dir))
        self.strategy = build_strategy(self.configuration.strategy)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = build_model(self.configuration, device=self.device)
        self.policy = SharingPolicy(self.configuration.private_prefixes, self.configuration.averaged_state)
        self.policy.check(named_tensors(self.model.networks))
        # The global networks. Entries that are private to hospitals stay as they began.
        self.arrays: dict[str, np.ndarray] = {
            name: value.detach().cpu().numpy().copy()
            for name, value in shared_tensors(self.model.networks, self.policy).items()
        }
        self.completed_rounds = 0
        self.num_images = 0
        self.peak_worker_bytes: dict[int, int] = {}
        self.seconds_before = 0.0
        self.sites: list[Site] = []
        self.started_writing = False
        self.finished = False
        self.log_handler: logging.Handler | None = None

    # ------------------------------------------------------------------ the recipe

    def execute(self) -> None:
        """Run from the first round, or from the last checkpoint, to the summary."""
        configuration = self.configuration
        self.progress.say(f"run directory: {self.directory.path}")
        for note in self.inputs.notes:
            self.progress.say(f"data: {note}")
        # All that may be wrong with the input shows here, before anything is written.
        self._check_directory()
        self.progress.step("asking hospitals", 0, configuration.partition.hospitals)
        self.sites = describe_sites(self.grid, configuration)
        self.progress.say("hospitals: " + ", ".join(f"{site.name} ({site.num_images:,} images)" for site in self.sites))
        use_threads(configuration.evaluation.threads)
        with self.watch.measure("evaluation"):
            self.evaluator = Evaluator(
                self.inputs, self.directory, self.device, self.progress, knows_members=self._is_simulation()
            )
        self._open_directory()

        self.progress.start_rounds(self.completed_rounds + 1)
        # Round 0; or, resumed, an evaluation that an interruption cut short.
        if self._is_evaluated(self.completed_rounds) and not self._was_evaluated(self.completed_rounds):
            self._evaluate(self.completed_rounds, RoundOutcome(), 0.0)

        for server_round in range(self.completed_rounds + 1, configuration.rounds + 1):
            start = time.perf_counter()
            # Send the global networks, let hospitals train.
            outcome = self._ask_hospitals(server_round)
            # Combine what came back.
            self._combine(server_round, outcome)
            # Keep what one hospital sent last: the judge asks what it gives away.
            if server_round == configuration.rounds:
                self._save_upload(outcome)
            # Judge the new generator, or just say what the round was.
            if self._is_evaluated(server_round):
                self._evaluate(server_round, outcome, time.perf_counter() - start)
            else:
                self._show_round(server_round, outcome, {}, time.perf_counter() - start)
            # Save.
            if server_round % configuration.checkpoint.every == 0 or server_round == configuration.rounds:
                self._save_checkpoint()
        self._finish()

    # ------------------------------------------------------------------ a round

    def _ask_hospitals(self, server_round: int) -> RoundOutcome:
        """Send the global networks to every hospital; check and describe the replies."""
        record = pack_arrays(self.arrays)
        config = ConfigRecord(dict(self.configuration.to_flat()))
        config[CHECKPOINT_ROUNDS] = self.directory.checkpoint_rounds()
        known = {site.node_id for site in self.sites}
        messages = [
            message
            for message in self.strategy.configure_train(server_round, record, config, self.grid)
            if message.metadata.dst_node_id in known
        ]
        down = count_bytes(record)
        arrived = 0

        def on_reply(reply: Message) -> None:
            nonlocal arrived
            arrived += 1
            self.progress.reply_arrived(server_round, arrived)

        with self.watch.measure("training"):
            replies = replies_by_node(messages, collect_replies(self.grid, messages, on_reply))

        outcome = RoundOutcome()
        # In the order of names, so that sums do not depend on who was fastest.
        for site in self.sites:
            reply = replies.get(site.node_id)
            line: dict[str, Any] = {"round": server_round, "site": site.name, "bytes-down": down}
            reason = self._refusal(site, reply, outcome.accepted)
            if reason is None:
                assert reply is not None
                metrics = dict(reply.content.metric_records[METRICS])
                metrics["num-training-images"] = metrics.pop(NUM_EXAMPLES)
                line |= {"status": "ok", "bytes-up": count_bytes(reply.content.array_records[ARRAYS]), **metrics}
                pid = int(str(metrics["worker-pid"]))
                self.peak_worker_bytes[pid] = int(str(metrics["peak-memory-bytes"]))
                outcome.accepted.append(reply)
            else:
                failed = reply is None or reply.has_error()
                line |= {"status": "failed" if failed else "refused", "reason": reason}
                outcome.reasons[site.name] = reason
            outcome.lines.append({key.replace("-", "_"): value for key, value in line.items()})
        self.directory.append(self.directory.hospitals, outcome.lines)
        return outcome

    def _refusal(self, site: Site, reply: Message | None, accepted: list[Message]) -> str | None:
        """Say why a reply cannot be used beside those accepted before it; None if it can."""
        if reply is None:
            return "the hospital is not connected"
        if reply.has_error():
            return str(reply.error.reason)
        try:
            check_reply(reply, self.arrays, site.num_images)
        except WireError as error:
            return str(error)
        if accepted:
            names, first = (set(message.content.metric_records[METRICS]) for message in (reply, accepted[0]))
            if names != first:
                return f"metrics {', '.join(sorted(names ^ first))}: not in every reply"
        return None

    def _combine(self, server_round: int, outcome: RoundOutcome) -> None:
        """Replace the global networks by what the strategy makes of the accepted replies."""
        for site, reason in outcome.reasons.items():
            if self.configuration.simulation.fail_fast:
                raise HospitalError(site, reason)
            self.progress.say(f"round {server_round}: left out hospital {site!r}: {reason.strip().splitlines()[-1]}")
            logging.getLogger("dermafed").error("round %d: hospital %s: %s", server_round, site, reason)
        if not outcome.accepted:
            raise RunError(
                f"round {server_round}: no hospital's reply could be used; "
                f"the reasons stand in {self.directory.hospitals}"
            )
        with self.watch.measure("aggregation"):
            record, _ = self.strategy.aggregate_train(server_round, outcome.accepted)
            assert isinstance(record, ArrayRecord)
            arrays = unpack_arrays(record)
            load_tensors(self.model.networks, arrays)
        # Together, so that an interruption finds the state before this round or the one after it.
        self.arrays, self.completed_rounds = arrays, server_round
        self.num_images += sum(line["num_images"] for line in outcome.lines if line["status"] == "ok")

    def _save_upload(self, outcome: RoundOutcome) -> None:
        """Keep the upload of the hospital with the most images, where its images are known: in a simulation."""
        if not self._is_simulation():
            return
        largest = max(
            outcome.accepted, key=lambda reply: float(str(reply.content.metric_records[METRICS][NUM_EXAMPLES]))
        )
        names = {site.node_id: site.name for site in self.sites}
        arrays = unpack_arrays(largest.content.array_records[ARRAYS])
        save_upload(self.directory, names[largest.metadata.src_node_id], self.completed_rounds, arrays)

    def _is_simulation(self) -> bool:
        """Return whether the hospitals are those of the server's own partition. Of real sites it has no images."""
        return tuple(site.name for site in self.sites) == self.inputs.partition.hospitals

    def _is_evaluated(self, server_round: int) -> bool:
        return server_round % self.configuration.evaluation.every == 0 or server_round == self.configuration.rounds

    def _evaluate(self, server_round: int, outcome: RoundOutcome, round_seconds: float) -> None:
        """Judge the global generator on validation images; write and print the scores."""
        use_threads(self.configuration.evaluation.threads)
        with self.watch.measure("evaluation") as lap:
            scores = self.evaluator.evaluate(self.model, server_round)
            self.evaluator.write_sample_sheet(self.model, server_round)
        line = {
            "round": server_round,
            "images": self.num_images,
            **{name.replace("-", "_"): value for name, value in self._mean_losses(outcome).items()},
            **scores,
            "evaluation_seconds": lap.seconds,
            "seconds": self.seconds(),
        }
        self.directory.append(self.directory.metrics, [line])
        self.evaluator.log_scalars(line)
        self._show_round(server_round, outcome, scores, round_seconds)

    def _show_round(self, server_round: int, outcome: RoundOutcome, scores: dict[str, Any], seconds: float) -> None:
        self.progress.round_line(
            server_round,
            losses=self._mean_losses(outcome),
            scores=scores,
            num_images=self.num_images,
            seconds=seconds,
            num_replies=len(outcome.accepted) if outcome.lines else None,
        )

    def _mean_losses(self, outcome: RoundOutcome) -> dict[str, float]:
        """Mean over the hospitals, each weighted by its number of training images."""
        if not outcome.accepted:
            return {}
        records = [reply.content.metric_records[METRICS] for reply in outcome.accepted]
        weights = np.array([float(str(record[NUM_EXAMPLES])) for record in records])
        return {
            name: float(np.average([float(str(record[name])) for record in records], weights=weights))
            for name in ("loss-generator", "loss-discriminator", "logit-real", "logit-fake", "augmentation-p")
            if all(name in record for record in records)
        }

    def _was_evaluated(self, server_round: int) -> bool:
        path = self.directory.metrics
        return path.exists() and any(line["round"] == server_round for line in read_lines(path))

    def seconds(self) -> float:
        """Return the run's duration so far, in all its pieces."""
        return self.seconds_before + time.perf_counter() - self.started

    # ------------------------------------------------------------------ files

    def _open_directory(self) -> None:
        """Make the run directory or take up the existing one; from here on things are written."""
        directory, configuration = self.directory, self.configuration
        if configuration.resume:
            self._check_extractor()
        else:
            directory.create()
        directory.lock()
        self.started_writing = True
        self._log_to_file()
        if configuration.resume:
            self._load_checkpoint()
        else:
            self._write_description()
        # Resumed too: it may go on for more rounds than it was started for.
        write_text(directory.config, configuration.with_values({"resume": False}).to_toml())
        self.evaluator.first_round = self.completed_rounds
        self.evaluator.save_extractor()

    def _write_description(self) -> None:
        """Write what the run is made of."""
        directory, inputs = self.directory, self.inputs
        write_text(directory.environment, to_json(describe_environment(self.device), indent=2) + "\n")
        write_text(directory.partition, to_json(inputs.partition.manifest(), indent=2) + "\n")
        plot_partition(inputs.partition, directory.partition_picture)
        if self._is_simulation():
            write_split_csv(inputs.index, inputs.parts, inputs.partition, directory.split)

    def _check_directory(self) -> None:
        """Check that the run directory is free, or, to resume, that of this very configuration.

        Raises
        ------
        RunDirectoryError
            Naming what differs.
        """
        directory = self.directory
        if not self.configuration.resume:
            check_free(directory.path)
            return
        if not directory.config.is_file():
            raise RunDirectoryError(
                f"run directory {directory.path}: has no config.toml to resume; leave --resume out to start a run there"
            )
        before = resolve([load_toml(directory.config)]).to_flat()
        now = self.configuration.to_flat()
        problems = [
            f"{key}: the run was started with {before[key]!r} and cannot go on with {value!r}; set {key} back"
            for key, value in now.items()
            if before[key] != value and not key.startswith(_RESUMABLE)
        ]
        problems += self._architecture_problems()
        if problems:
            raise RunDirectoryError(problems)

    def _architecture_problems(self) -> list[str]:
        """Say how the networks of the newest checkpoint differ from ours, as those of another version may."""
        rounds = self.directory.checkpoint_rounds()
        if not rounds:
            return []
        path = self.directory.checkpoint(rounds[-1]) / "global.safetensors"
        with safetensors.safe_open(path, framework="np") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        expected = {name: value.shape for name, value in self.arrays.items()}
        differing = [name for name in sorted(found.keys() | expected.keys()) if found.get(name) != expected.get(name)]
        return [
            f"{path}: {name}: found {found.get(name, 'nothing')}, expected {expected.get(name, 'nothing')}; "
            "resume with the version of dermafed that wrote it"
            for name in differing[:8]
        ]

    def _check_extractor(self) -> None:
        """Refuse to go on with another extractor than that of the scores written so far.

        Raises
        ------
        RunDirectoryError
            Naming both.
        """
        path = self.directory.metrics
        names = [line["extractor"] for line in read_lines(path)] if path.exists() else []
        if names and names[-1] != self.evaluator.extractor.name:
            raise RunDirectoryError(
                f"run directory {self.directory.path}: its scores are of {names[-1]}, and here the extractor is "
                f"{self.evaluator.extractor.name}: they could not be compared; resume where the run was started, "
                "with the same evaluation.extractor, evaluation.threads and data.cache-dir"
            )

    def _save_checkpoint(self) -> None:
        """Write all that is needed to go on after the last completed round."""
        state = {
            "round": self.completed_rounds,
            "num_images": self.num_images,
            "seconds": self.seconds(),
            "seconds_by_work": self.watch.seconds,
            "strategy": self.strategy.state_dict(),
        }

        def write(folder: Path) -> None:
            safetensors.numpy.save_file(self.arrays, folder / "global.safetensors")
            (folder / "state.json").write_text(to_json(state, indent=2) + "\n", encoding="utf-8")

        self.directory.write_checkpoint(self.completed_rounds, self.configuration.checkpoint.keep, write)

    def _load_checkpoint(self) -> None:
        """Go back to the newest checkpoint, or to the beginning where there is none."""
        rounds = self.directory.checkpoint_rounds()
        if rounds:
            folder = self.directory.checkpoint(rounds[-1])
            state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            self.arrays = safetensors.numpy.load_file(folder / "global.safetensors")
            load_tensors(self.model.networks, self.arrays)
            self.strategy.load_state_dict(state["strategy"])
            self.completed_rounds = state["round"]
            self.num_images = state["num_images"]
            self.seconds_before = state["seconds"]
            for work, seconds in state["seconds_by_work"].items():
                self.watch.add(work, seconds)
        self.directory.keep_rounds(self.completed_rounds if rounds else -1)
        self.progress.say(f"resumed after round {self.completed_rounds}")

    def _finish(self) -> None:
        """Export the generator, judge it once on test images, sum up."""
        save_final(self.directory.final, self.model, self.configuration)
        self.progress.activity("final evaluation on test images")
        use_threads(self.configuration.evaluation.threads)
        with self.watch.measure("evaluation"):
            final = self.evaluator.final_evaluation()
        summary = self._summary("done") | final
        write_text(self.directory.summary, to_json(summary, indent=2) + "\n")
        self.finished = True
        self._write_report()
        self._say_summary(summary)

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
        if not self.started_writing or self.finished:
            return
        if self.completed_rounds and self.completed_rounds not in self.directory.checkpoint_rounds():
            self._save_checkpoint()
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        summary = self._summary(status) | {"reason": str(error) or type(error).__name__}
        write_text(self.directory.summary, to_json(summary, indent=2) + "\n")
        self._write_report()
        logging.getLogger("dermafed").error("run %s after round %d", status, self.completed_rounds, exc_info=error)
        self.progress.say(
            f"{status} after round {self.completed_rounds}; go on with --resume --run-dir {self.directory.path}"
        )

    def _summary(self, status: str) -> dict[str, Any]:
        lines = read_lines(self.directory.metrics) if self.directory.metrics.exists() else []
        seconds = self.seconds()
        training = self.watch.seconds.get("training", 0.0)
        driver = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        workers = {pid: size for pid, size in self.peak_worker_bytes.items() if pid != os.getpid()}
        summary: dict[str, Any] = {
            "status": status,
            "rounds": self.completed_rounds,
            "images": self.num_images,
            "seconds": seconds,
            "seconds_by_work": self.watch.seconds,
            "images_per_second": self.num_images / training if training else None,
            "peak_memory_bytes": {"server": driver, "workers": sorted(workers.values(), reverse=True)},
        }
        if lines:
            judged = [line for line in lines if line.get("kid") is not None]
            best = min(judged, key=lambda line: line["kid"], default=None)
            summary |= {
                "kid_round_0": lines[0].get("kid"),
                "kid": lines[-1].get("kid"),
                "kid_sd": lines[-1].get("kid_sd"),
                "fid": lines[-1].get("fid"),
                "best_round": best["round"] if best else None,
                "best_kid": best["kid"] if best else None,
            }
        if hasattr(self, "evaluator"):
            summary |= {
                "extractor": self.evaluator.extractor.name,
                **self.evaluator.yardsticks,
                "speed": measure_training_speed(
                    lines,
                    read_lines(self.directory.hospitals) if self.directory.hospitals.exists() else [],
                    seconds_by_work=self.watch.seconds,
                    seconds=seconds,
                    one_machine=self._is_simulation(),
                    yardsticks=self.evaluator.yardsticks,
                ),
            }
        return summary

    def _say_summary(self, summary: dict[str, Any]) -> None:
        say = self.progress.say
        memory = summary["peak_memory_bytes"]
        say("")
        say(f"done: {summary['rounds']} rounds, {summary['images']:,} images in {summary['seconds']:.0f} s")
        say(
            f"KID on validation images: {summary['kid_round_0']:.4f} at round 0, {summary['kid']:.4f} now "
            f"(real halves {summary['kid_floor']:.4f}, PCA Gaussian {summary['kid_pca_gaussian']:.4f}, "
            f"mean image {summary['kid_mean_image']:.4f}; {summary['extractor']})"
        )
        for line in describe_judgement(summary):
            say(line)
        if summary["images_per_second"]:
            say(
                f"training: {summary['images_per_second']:.0f} images/s; peak memory "
                f"{memory['server'] / 2**20:,.0f} MiB at the server"
                + "".join(f", {size / 2**20:,.0f} MiB at a worker" for size in memory["workers"])
            )
        for label, path in (
            ("samples", self.directory.sample_sheet(summary["rounds"])),
            ("generator", self.directory.final),
            ("report", self.directory.report),
        ):
            say(f"{label}: {path}")

    def _log_to_file(self) -> None:
        """Send what libraries and the run log to a file; the screen shows progress alone."""
        self.log_handler = handler = logging.FileHandler(self.directory.log, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
        for name in _LOGGERS:
            logger = logging.getLogger(name)
            for old in list(logger.handlers):
                logger.removeHandler(old)
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)
            logger.propagate = False

    def close(self) -> None:
        """Close the log file and the event files."""
        if self.log_handler is not None:
            for name in _LOGGERS:
                logging.getLogger(name).removeHandler(self.log_handler)
            self.log_handler.close()
        if hasattr(self, "evaluator"):
            self.evaluator.close()
        self.directory.unlock()


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Return versions, device and git commit: what a reader needs to repeat a run."""
    packages = ("torch", "torchvision", "numpy", "flwr", "flwr-datasets", "torch-fidelity", "torchmetrics", "pillow")
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "dermafed": _version("dermafed"),
        "git_commit": _git_commit(),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": _processor_name(),
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "packages": {name: _version(name) for name in packages},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a checkout or a bundle that is not installed
        return None


def _git_commit() -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        )
    except OSError:  # no git on this machine
        return None
    return answer.stdout.strip() or None


def _processor_name() -> str:
    try:
        lines: Iterable[str] = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
