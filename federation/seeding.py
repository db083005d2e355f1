"""Random streams that depend on what is drawn, never on who ran before.

No global seeding: each draw comes from a generator keyed by (seed, purpose, round, site). So the
number of workers, the order in which hospitals train, and a resumed run cannot move a stream.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive_seed(seed: int, purpose: str, *, server_round: int = 0, site: str = "") -> int:
    """Hash the key of a stream to 63 bits.

    Parameters
    ----------
    seed
        The seed of the run (``seed``), of the split (``data.split-seed``) or of the partition.
    purpose
        What is drawn, e.g. ``"training"``. Two purposes give independent streams.
    server_round
        Round, from 0 (before training).
    site
        Name of the hospital; empty for the server.

    Returns
    -------
    An integer in [0, 2**63).
    """
    key = "\x1f".join((str(seed), purpose, str(server_round), site))
    digest = hashlib.blake2b(key.encode(), digest_size=8, person=b"dermafed").digest()
    return int.from_bytes(digest, "big") >> 1


def numpy_stream(seed: int, purpose: str, *, server_round: int = 0, site: str = "") -> np.random.Generator:
    """Return a NumPy generator for one stream; see :func:`derive_seed` for the parameters."""
    return np.random.Generator(np.random.PCG64(derive_seed(seed, purpose, server_round=server_round, site=site)))


def torch_stream(
    seed: int, purpose: str, *, server_round: int = 0, site: str = "", device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return a torch generator for one stream; see :func:`derive_seed` for the parameters.

    Drawing on the CPU and moving the draws to the device gives the same numbers on every device.
    """
    generator = torch.Generator(device=device)
    generator.manual_seed(derive_seed(seed, purpose, server_round=server_round, site=site))
    return generator
