"""Real rounds on the Ray engine: how near to the bound, and what many hospitals cost.

``bound``: six hospitals of Fed-ISIC2019's sizes train a GAN for local epochs on two workers. No engine can be faster
than max(max_i t_i, Σ_i t_i / W), the longest hospital or the work shared evenly; the share of it that the rounds reach
is printed, and where the rest went::

    python benchmarks/engine_rounds.py bound --root ISIC2019

``many``: 1,000 hospitals, 50 of them in each of 20 rounds; seconds a round, and resident memory of the server and of
the workers from the first round to the last::

    python benchmarks/engine_rounds.py many
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from clients.app import app as client_app
from federation.config import Configuration, parse_assignments
from federation.engine import build_engine
from federation.run_directory import read_lines
from server.app import run_federation
from server.callbacks import RoundReport
from server.inputs import prepare_inputs
from strategies.configuration import resolve


class Memory:
    """Notes the server's resident memory and the time after each round."""

    def __init__(self) -> None:
        self.resident_bytes: list[int] = []
        self.own_bytes: list[int] = []
        self.times = [time.perf_counter()]

    def after_round(self, report: RoundReport) -> str | None:
        """Read this process's status."""
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
        self.resident_bytes.append(int(status["VmRSS"].split()[0]) * 1024)
        self.own_bytes.append(int(status["RssAnon"].split()[0]) * 1024)
        self.times.append(time.perf_counter())
        return None


def run(assignments: Sequence[str], run_dir: Path) -> tuple[Configuration, Memory]:
    """Run a federation; return its complete configuration, and what its callback saw."""
    inputs = prepare_inputs(resolve([parse_assignments([*assignments, f"run-dir={run_dir}"])]))
    memory = Memory()
    engine = build_engine(inputs.configuration, client_app)
    try:
        run_federation(engine, inputs, callbacks=[memory])
    finally:
        engine.close()
    return inputs.configuration, memory


def measure_bound(arguments: argparse.Namespace, run_dir: Path) -> dict[str, object]:
    """Run six hospitals with sizes of Fed-ISIC2019."""
    run(
        [
            "data.source=isic2019",
            f"data.root={arguments.root}",
            "partition.scheme=natural",
            "partition.hospitals=6",
            f"training.local-epochs={arguments.local_epochs}",
            f"rounds={arguments.rounds}",
            f"simulation.workers={arguments.workers}",
            f"evaluation.every={arguments.rounds}",
            "evaluation.images=200",
            "evaluation.utility=false",
            "evaluation.authenticity=false",
            *arguments.set,
        ],
        run_dir,
    )
    summary = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    use, work = summary["engine"], summary["seconds_by_work"]
    lines = read_lines(run_dir / "hospitals.jsonl")
    print("\n| hospital | training images | seconds a round |\n|---|---|---|")
    for site in sorted({line["site"] for line in lines}):
        mine = [line for line in lines if line["site"] == site]
        seconds = statistics.mean(line["seconds"] for line in mine)
        print(f"| {site} | {mine[0]['num_training_images']:,} | {seconds:.1f} |")
    rest = use["round_seconds"] - use["bound_seconds"]
    print(
        f"\nrounds {use['round_seconds']:.1f} s, bound {use['bound_seconds']:.1f} s: {use['share_of_bound']:.1%} of "
        f"it; the rest, {rest:.1f} s: aggregation {work['aggregation']:.2f} s, otherwise sending and receiving"
    )
    return {"engine": use, "seconds_by_work": work}


def measure_many(arguments: argparse.Namespace, run_dir: Path) -> dict[str, object]:
    """Run very many hospitals, a few in each round."""
    _, memory = run(
        [
            f"data.phantom-images={arguments.images}",
            "partition.scheme=iid",
            f"partition.hospitals={arguments.hospitals}",
            "partition.min-images=1",
            f"participation.fraction={arguments.fraction}",
            f"rounds={arguments.rounds}",
            f"simulation.workers={arguments.workers}",
            "training.local-steps=2",
            "training.batch-size=8",
            f"evaluation.every={arguments.rounds}",
            "evaluation.images=200",
            "evaluation.utility=false",
            "evaluation.authenticity=false",
            *arguments.set,
        ],
        run_dir,
    )
    lines = read_lines(run_dir / "hospitals.jsonl")
    summary = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    workers = {
        number: max(line["peak_memory_bytes"] for line in lines if line["round"] == number)
        for number in (1, arguments.rounds // 2, arguments.rounds)
    }
    seconds = [after - before for before, after in zip(memory.times[1:], memory.times[2:], strict=False)]
    middle = arguments.rounds // 2 - 1
    print(
        f"\n{len({line['site'] for line in lines})} of {arguments.hospitals:,} hospitals took part, "
        f"{len(lines) // arguments.rounds} a round, {arguments.rounds} rounds\n"
        f"seconds a round: {statistics.median(seconds):.2f} (median; {min(seconds):.2f} to {max(seconds[:-1]):.2f}), "
        f"{summary['engine']['share_of_bound']:.1%} of the bound"
    )
    print("| memory, MiB | round 1 | half way | last |\n|---|---|---|---|")
    for label, values in (
        ("server, resident", [memory.resident_bytes[index] for index in (0, middle, -1)]),
        ("server, its own", [memory.own_bytes[index] for index in (0, middle, -1)]),
        ("a worker, peak", list(workers.values())),
    ):
        print(f"| {label} | " + " | ".join(f"{value / 2**20:,.0f}" for value in values) + " |")
    return {"seconds": seconds, "resident_bytes": memory.resident_bytes, "worker_peak_bytes": workers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("bound", "many"))
    parser.add_argument("--root", help="bound: folder of ISIC 2019")
    parser.add_argument("--local-epochs", type=float, default=0.2)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--hospitals", type=int, default=1000)
    parser.add_argument("--fraction", type=float, default=0.05)
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.what == "bound" and not arguments.root:
        parser.error("bound needs --root, the folder of ISIC 2019")
    arguments.rounds = arguments.rounds or {"bound": 3, "many": 20}[arguments.what]
    measure = {"bound": measure_bound, "many": measure_many}[arguments.what]
    with tempfile.TemporaryDirectory() as folder:
        found = measure(arguments, Path(folder) / "run")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
