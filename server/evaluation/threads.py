"""How many CPU threads the judge has: its figures' last bits depend on them."""

from __future__ import annotations

import torch
from threadpoolctl import threadpool_limits


def use_threads(count: int) -> None:
    """Let PyTorch and the linear algebra under NumPy work with `count` threads (``evaluation.threads``)."""
    torch.set_num_threads(count)
    threadpool_limits(limits=count, user_api="blas")
