"""Flower Grids that simulate hospitals, on this machine or a Ray cluster; they receive the apps as arguments."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from federation.config import Configuration
from federation.errors import ConfigurationError
from federation.machine import count_cores

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp

    from federation.engine.grid import SimulationGrid


def count_workers(configuration: Configuration) -> int:
    """Return the number of Ray workers: as set, or as many as the cores allow, at most one per hospital."""
    workers = configuration.simulation.workers or max(1, count_cores() // configuration.training.threads)
    return min(workers, configuration.partition.hospitals)


def share_gpus(num_workers: int, gpus_per_hospital: float, num_gpus: int) -> tuple[int, float]:
    """Return how many workers fit on the GPUs, and each one's share of a GPU.

    Parameters
    ----------
    num_workers
        As many as wanted.
    gpus_per_hospital
        Share of each; 0: all workers share the GPUs alike.
    num_gpus
        GPUs of this machine.

    Raises
    ------
    ConfigurationError
        If a share is asked for that the machine does not have.
    """
    if gpus_per_hospital == 0:
        # A worker's share lies on one GPU, so the fullest GPU decides.
        return num_workers, 1 / math.ceil(num_workers / num_gpus) if num_gpus else 0.0
    fitting = num_gpus * int(1 / gpus_per_hospital) if gpus_per_hospital <= 1 else int(num_gpus / gpus_per_hospital)
    if fitting == 0:
        raise ConfigurationError(
            f"simulation.gpus-per-hospital = {gpus_per_hospital:g}: this machine has {num_gpus} GPUs; "
            "set simulation.gpus-per-hospital=0 to take what there is"
        )
    if gpus_per_hospital > 1 and gpus_per_hospital % 1:
        raise ConfigurationError(
            f"simulation.gpus-per-hospital = {gpus_per_hospital:g}: allowed is a share up to 1, or a whole number"
        )
    return min(num_workers, fitting), gpus_per_hospital


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

        simulation, participation = configuration.simulation, configuration.participation
        if simulation.address:
            # What the cluster's machines have is not known here; the grid counts it.
            num_workers, share = min(simulation.workers, len(nodes)), simulation.gpus_per_hospital
        else:
            num_workers, share = share_gpus(
                count_workers(configuration), simulation.gpus_per_hospital, torch.cuda.device_count()
            )
        return RayGrid(
            client_app,
            nodes,
            num_workers=num_workers,
            threads=configuration.training.threads,
            gpus_per_worker=share,
            deadlines={"train": participation.train_seconds, "query": participation.describe_seconds},
            address=simulation.address,
        )
    raise ValueError(f"simulation.engine = {configuration.simulation.engine!r}: choose one of ray, in-process")
