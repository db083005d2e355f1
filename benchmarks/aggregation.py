"""What each strategy costs the server: seconds and memory to combine the replies of a round, beside Flower's own.

    python benchmarks/aggregation.py --replies 20 --parameters 50000000

Each line is a process of its own, so that peaks of memory are its own. Replies lie in memory before the clock starts,
as they do when hospitals were faster than the server; the figure is what comes on top of them. The parts are those of
StyleGAN2: a generator (2/5 of the weights), its running average (2/5) and a discriminator (1/5) in 60 arrays. Which of
them are trained, and which numbers come along, its anatomy says. Strategies that draw
images or train at the server are left out: their cost is that of the network, not of the sum.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

OURS = (
    "fedgan", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "fedmedian", "fedtrimmedavg", "krum", "multikrum",
    "bulyan", "geometric-median", "qfedavg", "scaffold", "fednova", "feddyn", "fegan", "fed-tgan", "ifl-gan",
    "label-aware",
)  # fmt: skip
FLOWERS = ("fedgan", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "fedmedian", "fedtrimmedavg", "krum", "multikrum",
           "bulyan", "qfedavg")  # fmt: skip
_CLASSES = 8
# Of the weights, and in how many arrays.
_PARTS = {"generator": (0.4, 24), "generator_ema": (0.4, 24), "discriminator": (0.2, 12)}
_CLASS_ROWS = "discriminator.class_projection"


def layout(parameters: int) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of so many weights."""
    shapes: dict[str, tuple[int, ...]] = {}
    for part, (share, count) in _PARTS.items():
        for number in range(count):
            shapes[f"{part}.layer{number:02d}"] = (int(share * parameters / count),)
    shapes[_CLASS_ROWS] = (_CLASSES, 64)
    return shapes


def messages(num_replies: int, parameters: int, *, flat: bool) -> list[Any]:
    """Return replies, each a model near one start."""
    from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict

    from federation.config import resolve
    from federation.engine.grid import simulation_nodes
    from federation.engine.in_process import InProcessGrid
    from federation.exchange import ARRAYS, METRICS, NUM_EXAMPLES, pack_arrays

    grid = InProcessGrid(lambda message, context: message, simulation_nodes(num_replies))
    stream = np.random.default_rng(0)
    shapes = layout(parameters)
    losses = dict.fromkeys(resolve([]).anatomy.losses, 0.7)
    found = []
    for number, node_id in enumerate(grid.get_node_ids()):
        arrays = {name: stream.standard_normal(shape, np.float32) for name, shape in shapes.items()}
        record = pack_arrays(arrays) if flat else ArrayRecord({name: Array(value) for name, value in arrays.items()})
        del arrays
        metrics = MetricRecord(
            {
                NUM_EXAMPLES: 100 + number,
                "num-images": 320,
                "num-steps": 40,
                "mmd": 0.1,
                **losses,
            }
        )
        asked = grid.create_message(RecordDict(), "train", node_id, "1")
        found.append(Message(RecordDict({ARRAYS: record, METRICS: metrics}), reply_to=asked))
    return found


def ours(name: str, num_replies: int, parameters: int, replies: list[Any]) -> Any:
    """Return a function that combines replies as a run of ours does."""
    from federation.arrays import ArrayRecord
    from federation.config import parse_assignments
    from federation.exchange import arrays_of, pack_arrays
    from federation.site import Site
    from strategies.aggregation import Federation
    from strategies.building import build_strategy
    from strategies.configuration import resolve

    malicious = (num_replies - 3) // 4
    options = [f"strategy.malicious={malicious}"] if name in ("krum", "multikrum", "bulyan") else []
    configuration = resolve(
        [parse_assignments([f"strategy.name={name}", f"partition.hospitals={num_replies}", *options])]
    )
    shapes = layout(parameters)
    trained = [key for key in shapes if key.partition(".")[0] in configuration.anatomy.trained]
    strategy = build_strategy(Federation(configuration, frozenset(trained), class_rows=(_CLASS_ROWS,)))
    sites = [
        Site(f"hospital-{number:02d}", reply.metadata.src_node_id, 100 + number, tuple(range(1, _CLASSES + 1)))
        for number, reply in enumerate(replies)
    ]
    strategy.meet(sites)
    if name == "scaffold":
        for reply in replies:
            values = {key: array.numpy() for key, array in arrays_of(reply).items()}
            extra = {f"control.{key}": values[key] for key in trained}
            reply.content["arrays"] = pack_arrays(values | extra)

    def aggregate(given: Iterator[Any]) -> Any:
        strategy._current = start
        if name == "scaffold":
            strategy.parts[0].rule.outgoing({key: array.numpy() for key, array in start.items()})
        return strategy.aggregate_train(1, given)[0]

    start: ArrayRecord = pack_arrays({key: np.zeros(shape, np.float32) for key, shape in shapes.items()})
    return aggregate


def flowers(name: str, num_replies: int, parameters: int) -> Any:
    """Return a function that combines replies as Flower's own strategy does."""
    from flwr.app import Array, ArrayRecord
    from flwr.serverapp import strategy as flower

    malicious = (num_replies - 3) // 4
    classes: dict[str, Any] = {
        "fedgan": lambda: flower.FedAvg(),
        "fedavgm": lambda: flower.FedAvgM(server_momentum=0.9),
        "fedadam": lambda: flower.FedAdam(),
        "fedyogi": lambda: flower.FedYogi(),
        "fedadagrad": lambda: flower.FedAdagrad(),
        "fedmedian": lambda: flower.FedMedian(),
        "fedtrimmedavg": lambda: flower.FedTrimmedAvg(),
        "krum": lambda: flower.Krum(num_malicious_nodes=malicious),
        "multikrum": lambda: flower.MultiKrum(
            num_malicious_nodes=malicious, num_nodes_to_select=num_replies - malicious
        ),
        "bulyan": lambda: flower.Bulyan(num_malicious_nodes=malicious),
        "qfedavg": lambda: flower.QFedAvg(client_learning_rate=1000.0, train_loss_key="loss-discriminator"),
    }
    strategy = classes[name]()
    start = {key: np.zeros(shape, np.float32) for key, shape in layout(parameters).items()}
    if name in ("fedavgm", "qfedavg"):
        strategy.current_arrays = ArrayRecord({key: Array(value) for key, value in start.items()})
    elif name in ("fedadam", "fedyogi", "fedadagrad"):
        strategy.current_arrays = start
    return lambda given: strategy.aggregate_train(1, list(given))[0]


def measure(name: str, whose: str, num_replies: int, parameters: int) -> dict[str, Any]:
    """Combine replies once; return seconds and the memory beyond that of the replies."""
    import logging

    logging.getLogger("flwr").setLevel(logging.ERROR)
    replies = messages(num_replies, parameters, flat=whose == "ours")
    aggregate = (
        ours(name, num_replies, parameters, replies) if whose == "ours" else flowers(name, num_replies, parameters)
    )
    before = resident()
    replies.reverse()

    def one_by_one() -> Iterator[Any]:
        while replies:  # handed over: who does not keep a reply lets go of it
            yield replies.pop()

    start = time.perf_counter()
    result = aggregate(one_by_one())
    seconds = time.perf_counter() - start
    assert result is not None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "beyond": max(0, peak - before), "peak": peak}


def resident() -> int:
    """Return the memory of this process, bytes."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replies", type=int, default=20)
    parser.add_argument("--parameters", type=int, default=50_000_000)
    parser.add_argument("--strategies", default=",".join(OURS), help="separated by commas")
    parser.add_argument("--one", nargs=2, metavar=("STRATEGY", "WHOSE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(*arguments.one, arguments.replies, arguments.parameters)))
        return
    print(f"{arguments.replies} replies of {arguments.parameters:,} parameters; memory beyond the replies' own")
    print(f"{'strategy':18} {'ours, s':>8} {'GB':>6} {'Flower, s':>10} {'GB':>6} {'ratio':>6}", flush=True)
    for name in arguments.strategies.split(","):
        found = {}
        for whose in ("ours", *(["flower"] if name in FLOWERS else [])):
            done = subprocess.run(
                [sys.executable, __file__, "--replies", str(arguments.replies), "--parameters",
                 str(arguments.parameters), "--one", name, whose],
                capture_output=True, text=True, env=os.environ | {"FLWR_TELEMETRY_ENABLED": "0"},
            )  # fmt: skip
            if done.returncode == 0:
                found[whose] = json.loads(done.stdout.splitlines()[-1])
            else:
                print(f"{name} ({whose}) failed: {done.stderr.strip().splitlines()[-1:]} code {done.returncode}")
        texts = [
            f"{found[whose]['seconds']:{width}.2f} {found[whose]['beyond'] / 1e9:6.2f}"
            if whose in found
            else f"{'–':>{width}} {'–':>6}"
            for whose, width in (("ours", 8), ("flower", 10))
        ]
        ratio = f"{found['ours']['seconds'] / found['flower']['seconds']:6.2f}" if len(found) == 2 else f"{'–':>6}"
        print(f"{name:18} {' '.join(texts)} {ratio}", flush=True)


if __name__ == "__main__":
    main()
