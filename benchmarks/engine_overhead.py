"""What a round costs beside training: clients that send the weights back untouched, on our engine and on Flower's own.

Both run the same ClientApp, the same strategy (FedGAN) and the same rounds, side by side in one command, each in a
process of its own so that its peak memory is its own::

    python benchmarks/engine_overhead.py --hospitals 20 --parameters 50e6
    python benchmarks/engine_overhead.py --hospitals 100 --parameters 1e6
    python benchmarks/engine_overhead.py --hospitals 5,100 --parameters 10e6 --engines ours     # memory

The first round is left out: it warms both. ``stock`` is ``flwr.simulation.run_simulation`` with Flower's own arrays and
aggregation (the sums of FedAvg, all replies at once), as a user of Flower gets them; ``stock, our arrays`` is the same
engine with our arrays and our running sum, which shows what is the engine's and what is the arrays'.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ENGINES = ("ours", "stock", "stock, our arrays")
# Of about the size of a network's layers.
_LAYERS = 50


def make_arrays(num_parameters: int) -> dict[str, Any]:
    """Return fp32 layers of equal size."""
    import numpy as np

    stream = np.random.default_rng(0)
    size = num_parameters // _LAYERS
    return {f"layer-{number:02d}": stream.standard_normal(size, dtype=np.float32) for number in range(_LAYERS)}


def client_app() -> Any:
    """Return a ClientApp that sends back what it gets."""
    from flwr.app import Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp

    from federation.exchange import ARRAYS, METRICS, REQUIRED_METRICS

    app = ClientApp()

    @app.train()
    def train(message: Message, context: Any) -> Message:
        metrics = MetricRecord(dict.fromkeys(REQUIRED_METRICS, 1))
        return Message(RecordDict({ARRAYS: message.content[ARRAYS], METRICS: metrics}), reply_to=message)

    return app


def run_rounds(grid: Any, *, num_parameters: int, num_rounds: int, ours: bool) -> list[float]:
    """Run rounds over a grid; return the seconds of each."""
    from flwr.app import ArrayRecord, ConfigRecord
    from flwr.serverapp.strategy import FedAvg

    from federation.config import resolve
    from federation.exchange import ARRAYS, CONFIG, NUM_EXAMPLES, own_record, pack_arrays
    from federation.settings.participation import ParticipationSettings
    from federation.site import Site
    from server.messaging import collect_replies, wait_for_nodes
    from server.training_round import TrainingRound
    from strategies.aggregation import Federation
    from strategies.building import build_strategy

    arrays = make_arrays(num_parameters)
    configured = int(os.environ["HOSPITALS"])
    sites = [
        Site(f"hospital-{number:04d}", node_id, 1) for number, node_id in enumerate(wait_for_nodes(grid, configured))
    ]
    strategy = build_strategy(Federation(resolve([])))
    stock = FedAvg(weighted_by_key=NUM_EXAMPLES, arrayrecord_key=ARRAYS, configrecord_key=CONFIG)
    ours_record = pack_arrays(arrays) if ours else ArrayRecord()
    seconds = []
    for server_round in range(1, num_rounds + 1):
        start = time.perf_counter()
        if ours:
            training = TrainingRound(
                grid=grid,
                server_round=server_round,
                sites=sites,
                expected={name: array.numpy() for name, array in ours_record.items()},
                settings=ParticipationSettings(retries=0),
                last_rounds={},
                fail_fast=True,
            )
            replies = training.replies(strategy, ours_record, ConfigRecord())
            record, _ = strategy.aggregate_train(server_round, replies)
            assert record is not None
            ours_record = own_record(record)
        else:
            record = ArrayRecord(numpy_ndarrays=list(arrays.values()))
            messages = strategy.configure_train(server_round, record, ConfigRecord(), grid)
            record, _ = stock.aggregate_train(server_round, collect_replies(grid, messages))
            assert record is not None
            arrays = dict(zip(arrays, record.to_numpy_ndarrays(), strict=True))
        seconds.append(time.perf_counter() - start)
        print(f"round {server_round}: {seconds[-1]:.2f} s", file=sys.stderr, flush=True)
    return seconds


def run_engine(engine: str, num_hospitals: int, num_parameters: int, num_rounds: int, workers: int) -> dict[str, Any]:
    """Run an engine in this process; return its seconds per round and its peak memory."""
    os.environ["HOSPITALS"] = str(num_hospitals)
    seconds: list[float] = []
    watch = PeakMemory()
    ours = engine != "stock"
    if engine == "ours":
        from federation.engine.grid import simulation_nodes
        from federation.engine.ray import RayGrid

        grid = RayGrid(client_app(), simulation_nodes(num_hospitals), num_workers=workers)
        try:
            seconds = run_rounds(grid, num_parameters=num_parameters, num_rounds=num_rounds, ours=True)
        finally:
            grid.close()
    else:
        from flwr.serverapp import ServerApp
        from flwr.simulation import run_simulation

        server_app = ServerApp()

        @server_app.main()
        def main(grid: Any, context: Any) -> None:
            seconds.extend(run_rounds(grid, num_parameters=num_parameters, num_rounds=num_rounds, ours=ours))

        run_simulation(
            server_app,
            client_app(),
            num_supernodes=num_hospitals,
            backend_config={
                "init_args": {"num_cpus": workers},
                "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            },
        )
    return {
        "engine": engine,
        "hospitals": num_hospitals,
        "parameters": num_parameters,
        "seconds": seconds,
        "median_seconds": statistics.median(seconds[1:]),
        **watch.read(),
    }


class PeakMemory:
    """Peak memory of this process: all that it touched, and what is its own alone, without the object store's pages."""

    def __init__(self) -> None:
        import threading

        self._peak = {"RssAnon": 0, "VmRSS": 0}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
                name = line.split(":")[0]
                if name in self._peak:
                    self._peak[name] = max(self._peak[name], int(line.split()[1]) * 1024)

    def read(self) -> dict[str, int]:
        """Stop watching; return the peaks in bytes."""
        self._stop.set()
        self._thread.join()
        return {"peak_own_bytes": self._peak["RssAnon"], "peak_bytes": self._peak["VmRSS"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hospitals", default="20", help="numbers, separated by commas")
    parser.add_argument("--parameters", type=float, default=50e6)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--engines", default="ours,stock", help="of ours, stock, 'stock, our arrays'; or all")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a process of its own: engine;hospitals
    arguments = parser.parse_args()
    if arguments.one:
        engine, hospitals = arguments.one.split(";")
        found = run_engine(engine, int(hospitals), int(arguments.parameters), arguments.rounds, arguments.workers)
        print("RESULT " + json.dumps(found))
        return
    engines = list(ENGINES) if arguments.engines == "all" else arguments.engines.split(",")
    results = []
    for hospitals in arguments.hospitals.split(","):
        for engine in engines:
            command = [sys.executable, __file__, "--one", f"{engine};{hospitals}", "--parameters"]
            command += [
                str(arguments.parameters),
                "--rounds",
                str(arguments.rounds),
                "--workers",
                str(arguments.workers),
            ]
            environment = {
                **os.environ,
                "FLWR_TELEMETRY_ENABLED": "0",
                "RAY_USAGE_STATS_ENABLED": "0",
                "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
                "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
            }
            process = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
            line = next(line for line in process.stdout.splitlines() if line.startswith("RESULT "))
            results.append(json.loads(line.removeprefix("RESULT ")))
    print("| engine | hospitals | parameters | seconds a round | ratio | peak memory | of its own |")
    print("|---|---|---|---|---|---|---|")
    for found in results:
        first = next(other for other in results if other["hospitals"] == found["hospitals"])
        print(
            f"| {found['engine']} | {found['hospitals']} | {found['parameters'] / 1e6:g} M | "
            f"{found['median_seconds']:.2f} ({min(found['seconds'][1:]):.2f} to {max(found['seconds'][1:]):.2f}) | "
            f"{found['median_seconds'] / first['median_seconds']:.2f} | {found['peak_bytes'] / 2**20:,.0f} MiB | "
            f"{found['peak_own_bytes'] / 2**20:,.0f} MiB |"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
