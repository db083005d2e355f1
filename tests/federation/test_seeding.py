"""Streams depend on their key alone."""

from __future__ import annotations

import itertools

import torch

from federation.seeding import derive_seed, numpy_stream, torch_stream


def test_seeds_are_fixed_for_ever() -> None:
    # A change here changes every published run.
    assert derive_seed(0, "local training", server_round=1, site="a") == 5290838608566490789
    assert derive_seed(0, "initial weights") == 6417690325018932145


def test_every_part_of_the_key_counts() -> None:
    keys = itertools.product((0, 1), ("x", "y"), (0, 1), ("", "a", "b"))
    seeds = [derive_seed(seed, purpose, server_round=number, site=site) for seed, purpose, number, site in keys]
    assert len(set(seeds)) == len(seeds)
    # Parts do not run into each other.
    assert derive_seed(1, "x", server_round=1) != derive_seed(1, "x1")


def test_the_global_streams_are_left_alone() -> None:
    before = torch.get_rng_state()
    first = torch.randn(3, generator=torch_stream(3, "purpose"))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, torch.randn(3, generator=torch_stream(3, "purpose")))
    assert numpy_stream(3, "purpose").random() == numpy_stream(3, "purpose").random()
