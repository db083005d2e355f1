"""Every strategy for two real rounds, conditional and not: killed in the second and resumed, it ends alike."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Message
from rich.console import Console
from safetensors.numpy import load_file
from torch import nn

import server.app
from clients.app import app as client_app
from federation.config import Configuration, load_toml, parse_assignments, schema
from federation.engine.grid import simulation_nodes
from federation.engine.in_process import InProcessGrid
from federation.errors import RunDirectoryError
from federation.models import build_model
from federation.run_directory import read_lines
from federation.settings.data import DataSettings, PartitionSettings
from server.app import run_federation
from server.evaluation.evaluator import Evaluator
from server.inputs import RunInputs, prepare_inputs
from server.run_state import RunState
from strategies.catalogue import STRATEGIES
from strategies.configuration import resolve

PER_NETWORK = {
    "fedadam of G, median of D": ["strategy.generator=fedadam", "strategy.discriminator=fedmedian"],
    "scaffold of G, D private": ["strategy.generator=scaffold", "strategy.discriminator=private"],
    "G private, label-aware D": ["strategy.generator=private", "strategy.discriminator=label-aware"],
}
CASES = {name: [f"strategy.name={name}"] for name in STRATEGIES} | PER_NETWORK
FAMILIES = {
    "stylegan2": [
        "stylegan2.channel-max=8",
        "stylegan2.channel-base=32",
        "stylegan2.latent-size=8",
        "stylegan2.mapping-layers=1",
    ],
    "vae": ["model.name=vae", "vae.channel-max=8", "vae.channel-base=32", "vae.latent-size=4"],
}
# Of the other family one strategy of each kind: a mean, moments of the server's, a state at both ends, parts of a
# hospital's own, all of it its own, and rows of classes.
OF_VAE = ("fedgan", "fedadam", "scaffold", "fedbn", "alone", "label-aware")
# Where there are no classes, those that would count them, that train at the server, and one of each other kind.
WITHOUT_CLASSES = (
    "fedgan",
    "fedadam",
    "scaffold",
    "krum",
    "fedbn",
    "effgan",
    "ifl-gan",
    "ua-gan",
    "md-gan",
    "dp-fedavg-gan",
    "centralised",
)
MATRIX = [
    *(("stylegan2", case, True) for case in CASES),
    *(
        pytest.param("stylegan2", case, False, marks=[] if case in WITHOUT_CLASSES else [pytest.mark.whole])
        for case in CASES
        if "label-aware" not in case  # without classes it is refused
    ),
    *(("vae", case, True) for case in OF_VAE),
    ("vae", "fedbn", False),
]
SPECIAL = {
    "effgan": ["strategy.fine-tune-rounds=1"],
    "fedprox": ["training.local-steps=2"],
    "ua-gan": ["stylegan2.loss=logistic"],
    "md-gan": ["stylegan2.loss=logistic", "strategy.swap-rounds=1"],
    "dp-fedavg-gan": ["stylegan2.loss=logistic", "strategy.noise-multiplier=0.1"],
    "fegan": ["participation.fraction=0.7"],
    "fedtrimmedavg": ["partition.hospitals=5"],
    "krum": ["partition.hospitals=5"],
    "multikrum": ["partition.hospitals=5"],
    "bulyan": ["partition.hospitals=7"],
}
# Their hospitals have generators of their own.
PERSONAL = ("alone", "effgan", "fedbn", "cap-gan", "G private, label-aware D")


def configuration(run_dir: Path, cache_dir: str, *assignments: str, family: str = "stylegan2") -> Configuration:
    return resolve(
        [
            parse_assignments(
                [
                    f"run-dir={run_dir}",
                    f"data.cache-dir={cache_dir}",
                    "data.phantom-images=400",
                    "partition.scheme=iid",
                    "partition.hospitals=3",
                    "partition.min-images=1",
                    "rounds=2",
                    *FAMILIES[family],
                    "training.local-steps=1",
                    "training.batch-size=2",
                    "evaluation.images=16",
                    "evaluation.every=2",
                    "evaluation.threads=1",
                    "checkpoint.every=1",
                    "simulation.fail-fast=true",
                    "participation.retries=0",
                    *assignments,
                ]
            )
        ]
    )


class Killed(BaseException):
    """What ends a process: nothing catches it."""


class KillsInRoundTwo:
    """The real ClientApp; the process ends when the second hospital that is asked has trained in the second round."""

    def __init__(self) -> None:
        self.trained = 0

    def __call__(self, message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        self.trained += message.metadata.message_type == "train" and message.metadata.group_id == "2"
        if self.trained == min(2, int(context.node_config["num-partitions"])):
            raise Killed
        return reply


@lru_cache(maxsize=8)
def prepared(data: DataSettings, partition: PartitionSettings, resolution: int) -> RunInputs:
    """The same images and hospitals for all cases that share them."""
    return prepare_inputs(schema()(data=data, partition=partition))


def run(settings: Configuration, app: object = client_app) -> None:
    grid = InProcessGrid(app, simulation_nodes(settings.partition.hospitals))  # type: ignore[arg-type]
    inputs = prepared(settings.data, settings.partition, settings.model.resolution)
    settings = settings.with_values({"data.classes": ",".join(inputs.index.classes)})
    run_federation(grid, replace(inputs, configuration=settings), Console(file=io.StringIO(), width=200))


def result(run_dir: Path) -> dict[str, bytes]:
    """Everything that the two rounds have made: networks, strategy and hospitals' own, and the generators judged."""
    files = [*run_dir.glob("checkpoints/*/*.safetensors"), *run_dir.glob("final/*"), *run_dir.glob("hospitals/*/*")]
    return {str(file.relative_to(run_dir)): file.read_bytes() for file in files}


@pytest.mark.usefixtures("without_pictures")
def test_a_hospital_that_is_away_when_generators_are_judged_has_handed_over_its_last(
    tmp_path: Path, cache_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or classes that it alone holds would be drawn from generators that never saw them."""
    monkeypatch.setattr(server.app, "describe_judgement", lambda summary: [])
    monkeypatch.setattr(Evaluator, "final_evaluation", lambda evaluator: {"test": {"kid": 0.0}})
    run_dir = tmp_path / "run"
    away = ["strategy.name=alone", "participation.fraction=0.3", "rounds=6", "evaluation.every=6"]
    run(configuration(run_dir, cache_dir, *away))
    lines = read_lines(run_dir / "hospitals.jsonl")
    trained = {line["site"] for line in lines}
    assert {line["site"] for line in lines if line["round"] == 6} < trained
    own = load_file(run_dir / "checkpoints" / "round-0006" / "own.safetensors")
    assert {name.split("/")[0] for name in own} == trained


@pytest.mark.usefixtures("without_pictures")
def test_what_was_released_is_counted_and_needed_to_go_on(
    tmp_path: Path, cache_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after a round was released and before it was saved: a simulation releases the same bits again."""
    monkeypatch.setattr(Evaluator, "final_evaluation", lambda evaluator: {"test": {"kid": 0.0}})
    monkeypatch.setattr(server.app, "describe_judgement", lambda summary: [])
    run_dir = tmp_path / "run"
    assignments = [*CASES["dp-fedavg-gan"], *SPECIAL["dp-fedavg-gan"], "evaluation.every=5"]
    with monkeypatch.context() as killed:
        killed.setattr(server.app.FederatedRun, "stop_early", lambda self, error: None)

        def judge(run: server.app.FederatedRun, state: RunState, *rest: object) -> None:
            if state.completed_rounds == 2:
                raise Killed

        killed.setattr(server.app.FederatedRun, "_judge", judge)
        with pytest.raises(Killed):
            run(configuration(run_dir, cache_dir, *assignments))
    ledger = run_dir / "releases.jsonl"
    counted = ledger.read_text()
    assert [line["round"] for line in read_lines(ledger)] == [1, 2]

    ledger.rename(tmp_path / "aside")
    with pytest.raises(RunDirectoryError, match=r"releases\.jsonl: counts no release of round 1") as refused:
        run(configuration(run_dir, cache_dir, *assignments, "resume=true"))
    assert "restore the file from a copy, or start a new run" in str(refused.value)
    assert not (run_dir / "summary.json").exists()

    (tmp_path / "aside").rename(ledger)
    run(configuration(run_dir, cache_dir, *assignments, "resume=true"))
    assert ledger.read_text() == counted
    assert json.loads((run_dir / "summary.json").read_text())["strategy"]["releases"] == 2


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize(("family", "case", "conditional"), MATRIX)
def test_a_strategy_goes_on_as_if_it_had_not_been_killed(
    family: str, case: str, conditional: bool, tmp_path: Path, cache_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The rounds are what is tested: the judge and the report of the end have tests of their own.
    monkeypatch.setattr(Evaluator, "final_evaluation", lambda evaluator: {"test": {"kid": 0.0}})
    monkeypatch.setattr(server.app, "describe_judgement", lambda summary: [])
    assignments = [*CASES[case], *SPECIAL.get(case, []), f"model.conditional={str(conditional).lower()}"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(configuration(whole, cache_dir, *assignments, family=family))

    monkeypatch.setattr(server.app.FederatedRun, "stop_early", lambda self, error: None)  # as after kill -9
    with pytest.raises(Killed):
        run(configuration(broken, cache_dir, *assignments, family=family), KillsInRoundTwo())
    assert not (broken / "summary.json").exists()
    run(configuration(broken, cache_dir, *assignments, "resume=true", family=family))

    assert result(broken) == result(whole)
    assert [line["kid"] for line in read_lines(broken / "metrics.jsonl")] == [
        line["kid"] for line in read_lines(whole / "metrics.jsonl")
    ]
    summary = json.loads((whole / "summary.json").read_text())
    assert json.loads((broken / "summary.json").read_text())["strategy"] == summary["strategy"]
    assert (summary["rounds"], summary["left_out"]) == (2, {})
    final = sorted((whole / "final").glob("*.safetensors"))
    hospitals = configuration(whole, cache_dir, *assignments, family=family).partition.hospitals
    assert len(final) == (hospitals if case in PERSONAL else 1)
    # Something was learned: what is judged moved away from where it began.
    model = build_model(resolve([load_toml(whole / "config.toml")]))
    assert isinstance(model.drawing, nn.Module)
    initial = {name: value.numpy() for name, value in model.drawing.state_dict().items()}
    for file in final:
        learned = load_file(file)
        assert learned.keys() == initial.keys()
        assert any(not np.array_equal(value, initial[name]) for name, value in learned.items())
