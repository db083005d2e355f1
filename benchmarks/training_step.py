"""How fast is a training step? Images per second, and the share of the machine's own matrix products.

A whole iteration of StyleGAN2: both networks, both losses, penalties and path lengths amortised over their
intervals, augmentation, Adam and the running average. Data are random bytes that lie on the device, as a
hospital's images do. The peak is that of a large matrix product in the same precision, on the same threads,
measured in the same run: figures of a shared or throttled machine remain comparable by their ratio.

Run the default recipe, or the paper's, or a published configuration::

    python benchmarks/training_step.py --resolution 32 --batch 16
    python benchmarks/training_step.py --config conf/stylegan2-ada/paper.toml --resolution 64 --resampling fir
    python benchmarks/training_step.py --config conf/stylegan2-ada/auto-256.toml --device cuda --profile

On a processor, ``--processes 2 --threads 1`` is what two hospitals side by side do. Imports neither flwr nor ray.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_partitions.dataset import ImageDataset
from federation.allocation import keep_freed_memory
from federation.config import Configuration, Layer, load_toml, parse_assignments, resolve
from federation.models import build_model
from federation.models.stylegan2.settings import StyleGAN2Settings
from federation.models.stylegan2.step import StyleGAN2
from federation.models.training import compute_dtype
from federation.seeding import numpy_stream, torch_stream

# Bytes drawn at random: enough that batches differ, little enough to be made at once.
_NUM_IMAGES = 512


def read_arguments() -> argparse.Namespace:
    """Read the command line; what it leaves out comes from ``--config`` files, then from the defaults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, key in _KEYS.items():
        parser.add_argument(f"--{name}", metavar="N", help=f"{key}")
    parser.add_argument("--classes", type=int, default=7, help="0: unconditional (default 7)")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], help="training.precision")
    parser.add_argument("--resampling", choices=["bilinear", "fir"], help="stylegan2.resampling")
    parser.add_argument("--config", type=Path, action="append", default=[], metavar="FILE.toml", help="a preset")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any other key")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="of each process, on a processor (default 1)")
    parser.add_argument("--processes", type=int, default=1, help="side by side (default 1)")
    parser.add_argument("--seconds", type=float, default=10.0, help="measure at least this long (default 10)")
    parser.add_argument("--profile", action="store_true", help="print the ten largest costs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    return parser.parse_args()


_KEYS = {
    "resolution": "model.resolution",
    "channel-base": "stylegan2.channel-base",
    "channel-max": "stylegan2.channel-max",
    "latent": "stylegan2.latent-size",
    "batch": "training.batch-size",
}


def configuration_of(arguments: argparse.Namespace) -> Configuration:
    """Resolve defaults, presets and options."""
    values = dict(_KEYS, precision="training.precision", resampling="stylegan2.resampling")
    options = {key: getattr(arguments, name.replace("-", "_")) for name, key in values.items()}
    assignments = [f"{key}={value}" for key, value in options.items() if value is not None]
    names = ",".join(f"class-{number}" for number in range(arguments.classes))
    told = {"data.classes": names, "model.conditional": arguments.classes > 0}
    return resolve(
        [
            *(load_toml(path) for path in arguments.config),
            Layer("benchmark", told),
            parse_assignments(assignments + arguments.set),
        ]
    )


def make_trainer(configuration: Configuration, device: torch.device) -> tuple[StyleGAN2, Any]:
    """Return a model and a function that takes one training step."""
    model = build_model(configuration, device=device)
    assert isinstance(model, StyleGAN2)
    side = configuration.model.resolution
    stream = numpy_stream(0, "benchmark images")
    dataset = ImageDataset(
        stream.integers(0, 256, (_NUM_IMAGES, side, side, 3), dtype=np.uint8),
        stream.integers(0, max(len(configuration.class_names), 1), _NUM_IMAGES),
        np.arange(_NUM_IMAGES),
        device=device,
        flips=configuration.training.flips,
    )
    draws = torch_stream(0, "benchmark", device=device)

    def step() -> None:
        model.train_step(dataset.sample_batch(draws, configuration.training.batch_size), draws)

    return model, step


class FlopCounter(TorchDispatchMode):
    """Adds up the operations of matrix products and convolutions by PyTorch's own formulas.

    PyTorch's ``FlopCounterMode`` also follows modules, which fails where a gradient is taken at an input.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


def count_flops(configuration: Configuration, device: torch.device) -> float:
    """Return the floating-point operations of a mean iteration, 2 for a multiply-add; products alone count."""
    settings = configuration.own(StyleGAN2Settings)
    model, step = make_trainer(configuration, device)
    period = lazy_period(configuration)
    total, by_kind = 0.0, {}
    for number in range(period):
        kind = (number % settings.penalty_every == 0, number % settings.path_length_every == 0)
        if kind not in by_kind:
            model.num_steps = number
            with FlopCounter() as counter:
                step()
            by_kind[kind] = counter.total
        total += by_kind[kind]
    return total / period


def lazy_period(configuration: Configuration) -> int:
    """Return the steps after which the pattern of lazy regularisation repeats."""
    settings = configuration.own(StyleGAN2Settings)
    return math.lcm(settings.penalty_every, settings.path_length_every, settings.augmentation.ada_every)


def measure_peak(dtype: torch.dtype, device: torch.device) -> float:
    """Return the floating-point operations per second of a large matrix product, the best of some."""
    size = 8192 if device.type == "cuda" else 2048
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = math.inf
    for _ in range(8):
        synchronise(device)
        start = time.perf_counter()
        torch.matmul(left, right)
        synchronise(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(arguments: argparse.Namespace, together: Any = None) -> dict[str, Any]:
    """Measure one process; `together` keeps several in step."""
    configuration = configuration_of(arguments)
    device = torch.device(arguments.device)
    # As a hospital's process does.
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    dtype = compute_dtype(configuration.training.precision, device)
    period, batch = lazy_period(configuration), configuration.training.batch_size
    _, step = make_trainer(configuration, device)
    for _ in range(period):  # every kind of step once, before the clock runs
        step()
    if together is not None:
        together.wait()
    peaks = [measure_peak(dtype, device)]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    steps, start = 0, time.perf_counter()
    while steps == 0 or time.perf_counter() - start < arguments.seconds:
        for _ in range(period):
            step()
        steps += period
        synchronise(device)
    seconds = time.perf_counter() - start
    peaks.append(measure_peak(dtype, device))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "images_per_second": steps * batch / seconds,
        "steps": steps,
        "seconds": seconds,
        "peak_flops_per_second": max(peaks),
        "peak_memory_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else memory,
    }


def _worker(arguments: argparse.Namespace, together: Any, results: Any) -> None:
    results.put(measure(arguments, together))


def measure_all(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure every process, all at the same time."""
    if arguments.processes == 1:
        return [measure(arguments)]
    context = multiprocessing.get_context("spawn")
    together, results = context.Barrier(arguments.processes), context.Queue()
    workers = [context.Process(target=_worker, args=(arguments, together, results)) for _ in range(arguments.processes)]
    for worker in workers:
        worker.start()
    figures = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    return figures


def print_profile(configuration: Configuration, device: torch.device) -> None:
    """Print the operations that take most time, over one period of lazy regularisation."""
    _, step = make_trainer(configuration, device)
    period = lazy_period(configuration)
    for _ in range(period):
        step()
    with torch.profiler.profile() as profile:
        for _ in range(period):
            step()
        synchronise(device)
    order = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    print(profile.key_averages().table(sort_by=order, row_limit=10, max_name_column_width=50))


def main() -> None:
    """Measure and print."""
    arguments = read_arguments()
    configuration = configuration_of(arguments)
    device = torch.device(arguments.device)
    torch.set_num_threads(arguments.threads)
    flops = count_flops(configuration, device)
    processes = measure_all(arguments)
    model, training, settings = configuration.model, configuration.training, configuration.own(StyleGAN2Settings)
    images_per_second = sum(figures["images_per_second"] for figures in processes)
    peak = sum(figures["peak_flops_per_second"] for figures in processes)
    flops_per_second = images_per_second * flops / training.batch_size
    report = {
        "images_per_second": images_per_second,
        "seconds_per_1000_images": 1000 / images_per_second,
        "gflop_per_second": flops_per_second / 1e9,
        "gflop_per_image": flops / training.batch_size / 1e9,
        "peak_gflop_per_second": peak / 1e9,
        "share_of_peak": flops_per_second / peak,
        "peak_memory_bytes": max(figures["peak_memory_bytes"] for figures in processes),
        "processes": arguments.processes,
        "threads": arguments.threads,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "precision": str(compute_dtype(training.precision, device)).removeprefix("torch."),
        "model": model.model_dump(by_alias=True),
        "training": training.model_dump(by_alias=True),
        "stylegan2": settings.model_dump(by_alias=True),
        "classes": arguments.classes,
    }
    print(
        f"{model.resolution} px, channels {settings.channel_base}/{settings.channel_max}, "
        f"latent {settings.latent_size}, {arguments.classes} classes, batch {training.batch_size}, "
        f"{settings.loss}, {settings.resampling}, augmentation {settings.augmentation.name}, {report['precision']}, "
        f"{arguments.processes} x {arguments.threads} threads on {report['device']}"
    )
    print(
        f"{images_per_second:.1f} images/s, {report['seconds_per_1000_images']:.2f} s per 1,000 images, "
        f"{report['gflop_per_second']:.0f} GFLOP/s = {report['share_of_peak']:.0%} of the "
        f"{report['peak_gflop_per_second']:.0f} GFLOP/s of a matrix product, "
        f"{report['peak_memory_bytes'] / 2**20:,.0f} MiB"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if arguments.profile:
        print_profile(configuration, device)


if __name__ == "__main__":
    main()
