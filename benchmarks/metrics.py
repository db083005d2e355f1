"""How fast are the metrics, and in how much memory? Against torch-fidelity and prdc, on the same features.

Every measurement runs in a process of its own that maps the features from a file, as float32. The peak is the
largest resident memory of that process; the baseline, printed beside it, is what it held with the libraries loaded
and the features read once. Figures must agree, or the benchmark fails. On a machine that others use, the ratios
mean more than the seconds, since both sides run one after the other on the same threads::

    python benchmarks/metrics.py --images 10000 --features 2048

prints a line per metric and side: seconds, ours divided by theirs, the same of the processors' time, baseline and
peak in MiB, and the figures.
torch-fidelity gets the features in float64, in which ours computes too. ``--peer-precision float32`` gives them as
they are: KID then takes it half the time, and its figures agree to three digits only. Imports neither flwr nor ray.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from federation.seeding import numpy_stream

# Directions along which features vary together: their covariance is far from white, as a network's is.
_NUM_DIRECTIONS = 256

_SUBSETS = 20

# Relative; float32 has six digits, of which sums of a million kernel entries keep fewer.
_AGREEMENT = {"float64": 1e-6, "float32": 1e-3}


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10000, help="real, and as many generated (default 10000)")
    parser.add_argument("--features", type=int, default=2048, help="of each image (default 2048)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of matrix products (default: all)")
    parser.add_argument("--only", choices=["ours", "peer"], type=str.lower, help="one side, without the other")
    parser.add_argument("--metrics", default="fid,kid,prdc", help="which ones (default fid,kid,prdc)")
    parser.add_argument("--peer-precision", choices=list(_AGREEMENT), default="float64", help="default float64")
    parser.add_argument("--repeats", type=int, default=1, help="take the fastest of N, sides in turn (default 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    return parser.parse_args()


def write_features(path: Path, num_images: int, num_features: int, kind: str) -> None:
    """Draw correlated features with rectified tails and write them as float32, a block at a time."""
    directions = numpy_stream(0, "directions").normal(size=(_NUM_DIRECTIONS, num_features))
    directions *= np.geomspace(0.5, 0.05, _NUM_DIRECTIONS)[:, None]
    stream = numpy_stream(0, f"{kind} features")
    shift, scale = (0.0, 1.0) if kind == "real" else (0.1, 0.9)
    features = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(num_images, num_features))
    for start in range(0, num_images, 1024):
        count = min(1024, num_images - start)
        rows = stream.normal(shift, scale, size=(count, _NUM_DIRECTIONS)) @ directions
        features[start : start + count] = np.maximum(rows + stream.normal(0.5, 0.3, size=rows.shape), 0)
    features.flush()


def our_metrics() -> dict[str, Callable[[Any, Any], dict[str, float]]]:
    """Return the project's functions, with what they need imported."""
    from federation.metrics.fidelity import fid, kid
    from federation.metrics.neighbours import prdc

    return {
        "fid": lambda real, generated: {"fid": fid(real, generated)},
        "kid": lambda real, generated: {"kid": kid(real, generated, num_subsets=_SUBSETS)[0]},
        "prdc": lambda real, generated: prdc(real, generated, k_precision=5, k_density=5),
    }


def peer_metrics(precision: str) -> dict[str, Callable[[Any, Any], dict[str, float]]]:
    """Return the published libraries' functions, with what they need imported."""
    import torch
    from prdc import compute_prdc
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric

    def as_tensor(features: Any) -> torch.Tensor:
        return torch.from_numpy(np.array(features, dtype=precision))

    def peer_fid(real: Any, generated: Any) -> dict[str, float]:
        statistics = [fid_features_to_statistics(as_tensor(features)) for features in (real, generated)]
        return {"fid": fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]}

    def peer_kid(real: Any, generated: Any) -> dict[str, float]:
        result = kid_features_to_metric(
            as_tensor(real),
            as_tensor(generated),
            kid_subsets=_SUBSETS if len(real) > 1000 else 1,  # one subset is everything
            kid_subset_size=min(len(real), 1000),
            rng_seed=0,
            verbose=False,
        )
        return {"kid": result["kernel_inception_distance_mean"]}

    def peer_prdc(real: Any, generated: Any) -> dict[str, float]:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints the counts
            return {name: float(value) for name, value in compute_prdc(real, generated, 5).items()}

    return {"fid": peer_fid, "kid": peer_kid, "prdc": peer_prdc}


def measure(
    side: str, names: list[str], folder: Path, threads: int, precision: str
) -> tuple[dict[str, float], dict[str, float]]:
    """Run some metrics of one side, one after the other, in a new process; return its costs and the figures."""
    # Read by the libraries for linear algebra when they are loaded, in the new process.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(threads)
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure_here, args=(sender, side, names, folder, threads, precision))
    process.start()
    sender.close()
    try:
        costs, figures = receiver.recv()
    except EOFError:
        raise SystemExit(f"{side} {','.join(names)}: the process ended without figures; see above") from None
    finally:
        process.join()
    return costs, figures


def _measure_here(sender: Any, side: str, names: list[str], folder: Path, threads: int, precision: str) -> None:
    import torch

    torch.set_num_threads(threads)
    metrics = our_metrics() if side == "ours" else peer_metrics(precision)
    real, generated = (np.load(folder / f"{kind}.npy", mmap_mode="r") for kind in ("real", "generated"))
    float(real.sum(dtype=np.float64) + generated.sum(dtype=np.float64))
    baseline, figures = _peak_bytes(), {}
    start, start_processors = time.perf_counter(), time.process_time()
    for name in names:
        figures.update(metrics[name](real, generated))
    costs = {
        "seconds": time.perf_counter() - start,
        "processor_seconds": time.process_time() - start_processors,
        "baseline_bytes": baseline,
        "peak_bytes": _peak_bytes(),
    }
    sender.send((costs, figures))


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def check_agreement(name: str, ours: dict[str, float], theirs: dict[str, float], tolerance: float) -> None:
    """Stop where two libraries do not compute the same."""
    for key, value in ours.items():
        if not math.isclose(value, theirs[key], rel_tol=tolerance, abs_tol=1e-9):
            raise SystemExit(f"{name}: {key} is {value!r} by ours and {theirs[key]!r} by the peer")


def report(label: str, costs: dict[str, float], figures: dict[str, float], ratios: dict[str, float]) -> None:
    """Print a line."""
    told = "  ".join(f"{name} {value:.7g}" for name, value in figures.items())
    times = "  ".join(
        f"{costs[key]:8.2f}  {f'{ratios[key]:5.2f}' if key in ratios else '     '}"
        for key in ("seconds", "processor_seconds")
    )
    memory = f"{costs['baseline_bytes'] / 2**20:7.0f}  {costs['peak_bytes'] / 2**20:7.0f}"
    print(f"{label:12s}  {times}  {memory}  {told}", flush=True)


def main() -> None:
    """Measure and print."""
    arguments = read_arguments()
    names = arguments.metrics.split(",")
    sides = [arguments.only] if arguments.only else ["ours", "peer"]
    results: dict[str, Any] = {
        "num_images": arguments.images,
        "num_features": arguments.features,
        "threads": arguments.threads,
        "peer_precision": arguments.peer_precision,
        "num_subsets": _SUBSETS,
        "machine": platform.processor() or platform.machine(),
        "load_before": os.getloadavg()[0],
    }
    print(f"{arguments.images} real and {arguments.images} generated images, {arguments.features} features, float32;")
    print(f"{arguments.threads} threads; load {results['load_before']:.1f}; peers in {arguments.peer_precision}")
    print(f"{'':12s}  {'seconds':>8s}  ratio  {'CPU s':>8s}  ratio  {'loaded':>7s}  {'peak':>7s} MiB")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for kind in ("real", "generated"):
            write_features(folder / f"{kind}.npy", arguments.images, arguments.features, kind)
        for name in names:
            measured: dict[str, tuple[dict[str, float], dict[str, float]]] = {}
            for _ in range(arguments.repeats):
                for side in sides:
                    new = measure(side, [name], folder, arguments.threads, arguments.peer_precision)
                    if side not in measured or new[0]["seconds"] < measured[side][0]["seconds"]:
                        measured[side] = new
            ratios: dict[str, float] = {}
            if len(sides) == 2:
                check_agreement(name, measured["ours"][1], measured["peer"][1], _AGREEMENT[arguments.peer_precision])
                ratios = {
                    key: measured["ours"][0][key] / measured["peer"][0][key] for key in ("seconds", "processor_seconds")
                }
            for side, (costs, figures) in measured.items():
                report(f"{name} {side}", costs, figures, ratios if side == "ours" else {})
            results[name] = {side: {**costs, **figures} for side, (costs, figures) in measured.items()}
            results[name]["ratios"] = ratios
        if "ours" in sides and len(names) > 1:
            costs, _ = measure("ours", names, folder, arguments.threads, arguments.peer_precision)
            report("all of ours", costs, {}, {})
            results["all_of_ours"] = costs
    results["load_after"] = os.getloadavg()[0]
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
