"""Shared by the tests of whole runs."""

from __future__ import annotations

import pytest


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw and report nothing: that takes longer than their rounds, and has tests of its own."""
    import server.app
    from server.evaluation.evaluator import Evaluator

    monkeypatch.setattr(server.app, "write_report", lambda directory: None)
    monkeypatch.setattr(server.app, "plot_partition", lambda partition, path: None)
    monkeypatch.setattr(Evaluator, "write_sample_sheet", lambda evaluator, model, server_round: None)
    monkeypatch.setattr(Evaluator, "_write_projection", lambda evaluator, supply: None)
