"""Flower Grids that simulate hospitals on this machine; they receive the apps as arguments."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from federation.config import Configuration

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp

    from federation.engine.grid import SimulationGrid


def count_workers(configuration: Configuration) -> int:
    """Return the number of Ray workers: as set, or as many as the cores allow, at most one per hospital."""
    cores = len(os.sched_getaffinity(0))
    workers = configuration.simulation.workers or max(1, cores // configuration.training.threads)
    return min(workers, configuration.partition.hospitals)


def build_engine(configuration: Configuration, client_app: ClientApp) -> SimulationGrid:
    """Build the engine that ``simulation.engine`` names, with a node for each hospital.

    Raises
    ------
    ValueError
        If the engine is not known.
    """
    from federation.engine.grid import simulation_nodes

    nodes = simulation_nodes(configuration.partition.hospitals)
    if configuration.simulation.engine == "in-process":
        from federation.engine.in_process import InProcessGrid

        return InProcessGrid(client_app, nodes)
    if configuration.simulation.engine == "ray":
        import torch

        from federation.engine.ray import RayGrid

        num_workers = count_workers(configuration)
        gpus = configuration.simulation.gpus_per_hospital
        if gpus == 0 and torch.cuda.is_available():
            # Ray counts shares of a GPU; rounded down so that all workers fit.
            gpus = int(1e4 * torch.cuda.device_count() / num_workers) / 1e4
        return RayGrid(
            client_app,
            nodes,
            num_workers=num_workers,
            threads=configuration.training.threads,
            gpus_per_worker=min(gpus, 1.0) if gpus < 1 else float(int(gpus)),
        )
    raise ValueError(f"simulation.engine = {configuration.simulation.engine!r}: choose one of ray, in-process")
