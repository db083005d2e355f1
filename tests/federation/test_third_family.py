"""A family of models in one file, and nothing changed anywhere else: it is trained, judged, exported and resumed.

A canvas holds a mean image for each class, which images are drawn from with a tint and a grain of their own; its
running average draws. All of it stands above the tests, as a family of one's own would.
"""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from flwr.app import Context, Message
from pydantic import Field
from rich.console import Console
from safetensors.numpy import load_file
from torch import Tensor, nn

import server.app
from clients.app import app as client_app
from federation.batch import Batch
from federation.config import Configuration, load_toml, parse_assignments
from federation.engine.grid import simulation_nodes
from federation.engine.in_process import InProcessGrid
from federation.errors import ConfigurationError
from federation.models import build_model
from federation.models import training as shared
from federation.models.anatomy import Anatomy, Loss, Part
from federation.models.drawing import drawer_of
from federation.models.families import FAMILIES
from federation.models.family import Family
from federation.models.final import load_final
from federation.models.protocol import Adversarial, LatentSpace
from federation.run_directory import read_lines
from federation.seeding import torch_stream
from federation.settings.section import Section
from federation.settings.training import TrainingSettings
from server.app import run_federation
from server.evaluation.evaluator import Evaluator
from server.inputs import prepare_inputs
from strategies.configuration import numbers_in_use, resolve

# ---------------------------------------------------------------- the family


class ToySettings(Section):
    """The toy's own."""

    grain: float = Field(default=0.1, ge=0, le=1)
    """Standard deviation of the grain of what is drawn, where pixels are from -1 to 1."""


class Canvas(nn.Module):
    """A mean image for each class."""

    def __init__(self, resolution: int, num_images: int, grain: float) -> None:
        super().__init__()
        self.resolution = resolution
        self.grain = grain
        self.means = nn.Parameter(0.1 * torch.randn(num_images, 3, resolution, resolution))

    def latents(self, count: int, stream: torch.Generator) -> Tensor:
        tints = torch.randn(count, 3, generator=stream, device=stream.device, dtype=torch.float32)
        return tints.to(self.means)

    def of(self, labels: Tensor | None, count: int) -> Tensor:
        return self.means.expand(count, -1, -1, -1) if labels is None else self.means[labels]

    def forward(
        self,
        latents: Tensor,
        labels: Tensor | None,
        stream: torch.Generator,
        truncation: float,
        sites: Tensor | None = None,
    ) -> Tensor:
        assert sites is None
        images = self.of(labels, len(latents)) + truncation * 0.1 * latents[:, :, None, None]
        noise = torch.randn(images.shape, generator=stream, device=stream.device, dtype=torch.float32)
        return images + self.grain * noise.to(images)


class Toy:
    """A canvas, its running average and its optimiser."""

    def __init__(
        self, anatomy: Anatomy, canvas: Canvas, training: TrainingSettings, num_classes: int, device: torch.device
    ) -> None:
        self.anatomy = anatomy
        self.training = training
        self.num_classes = num_classes
        self.num_sites = self.site = 0
        self.site_rows: tuple[str, ...] = ()
        self.device = device
        self.canvas = canvas.to(device)
        self.canvas_mean = copy.deepcopy(self.canvas).requires_grad_(False)
        self.networks: dict[str, nn.Module] = {"canvas": self.canvas, "canvas_mean": self.canvas_mean}
        self.optimizers = {"canvas": shared.build_adam(self.canvas, training)}
        self.num_steps = 0
        self.clock = shared.Clock()
        self.class_rows = ("canvas.means",) if num_classes else ()
        self.correct_gradients: Callable[[str, nn.Module], None] | None = None

    @property
    def drawing(self) -> Canvas:
        return self.canvas_mean

    def _errors(self, images: Tensor, labels: Tensor | None) -> Tensor:
        told = labels if self.num_classes else None
        return (images - self.canvas.of(told, len(images))).square().mean(dim=(1, 2, 3))

    def train_step(self, batch: Batch, stream: torch.Generator) -> dict[str, Tensor]:
        loss = self._errors(batch.images, batch.labels).mean()
        shared.set_gradients(self.canvas, torch.autograd.grad(loss, list(self.canvas.parameters())))
        if self.correct_gradients is not None:
            self.correct_gradients("canvas", self.canvas)
        self.optimizers["canvas"].step()
        self.num_steps += 1
        shared.move_averages(
            self.networks,
            self.anatomy.averages,
            self.training,
            images_in_step=len(batch),
            images_shown=self.num_steps * len(batch),
            clock=self.clock,
        )
        return {"loss-error": loss.detach()}

    @torch.no_grad()
    def membership_scores(self, images: Tensor, labels: Tensor | None) -> Tensor:
        return -self._errors(images, labels)

    def private_state(self) -> dict[str, Tensor]:
        return shared.private_state(self.optimizers, self.networks, self.num_steps)

    def load_private_state(self, state: Mapping[str, Tensor]) -> None:
        self.num_steps = shared.load_private_state(state, self.optimizers, self.networks)


def anatomy(configuration: Configuration) -> Anatomy:
    return Anatomy(
        parts={"canvas": Part("trained"), "canvas_mean": Part("average", of="canvas", draws=True)},
        losses={"loss-error": Loss(least=0.0, column="error")},
        objective="loss-error",
        evaluations=1.0,
        membership="likeness",
        scoring=("canvas",),
    )


def build(configuration: Configuration, num_classes: int, seed: int, device: torch.device) -> Toy:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        canvas = build_drawing(configuration, num_classes)
    return Toy(anatomy(configuration), canvas, configuration.training, num_classes, device)


def build_drawing(configuration: Configuration, num_classes: int) -> Canvas:
    return Canvas(configuration.model.resolution, max(1, num_classes), configuration.own(ToySettings).grain)


TOY = Family(ToySettings, frozenset({"grain"}), anatomy, build, build_drawing)


@pytest.fixture(autouse=True)
def a_third_family(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that there is to do for it."""
    monkeypatch.setitem(FAMILIES, "toy", TOY)


# ---------------------------------------------------------------- its settings


def problems_of(*assignments: str) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        resolve([parse_assignments(assignments)])
    return caught.value.problems


def toy(*assignments: str) -> Configuration:
    return resolve([parse_assignments(["model.name=toy", "data.classes=a,b,c", *assignments])])


def test_its_table_is_one_of_the_configuration() -> None:
    configuration = toy("toy.grain=0.5")
    assert configuration.to_flat()["toy.grain"] == 0.5
    assert "[toy]\ngrain = 0.5\n" in configuration.to_toml()
    assert configuration.with_values({"rounds": 3}).own(ToySettings).grain == 0.5
    assert problems_of("model.name=toy", "toy.grain=2.0") == (
        "toy.grain = 2.0 (--set): allowed is a number >= 0 and <= 1; the default is 0.1",
    )
    assert problems_of("toy.grian=0.5") == ("toy.grian (--set): unknown key; the nearest known key is toy.grain",)


def test_its_options_are_refused_under_another_family_and_those_of_others_under_it() -> None:
    assert problems_of("toy.grain=0.5") == (
        "toy.grain = 0.5: is an option of model.name = toy, and here model.name = stylegan2; leave it out, or set "
        "model.name=toy",
    )
    assert problems_of("model.name=toy", "stylegan2.gamma=0.5") == (
        "stylegan2.gamma = 0.5: is an option of model.name = stylegan2, and here model.name = toy; leave it out, or "
        "set model.name=stylegan2",
    )
    assert problems_of("model.name=toys") == ("model.name = 'toys': allowed is one of stylegan2, vae, toy",)


@pytest.mark.parametrize("name", ["dp-fedavg-gan", "ua-gan", "md-gan"])
def test_adversarial_strategies_are_refused_by_name(name: str) -> None:
    assert problems_of("model.name=toy", f"strategy.name={name}") == (
        f"strategy.name = '{name}': hospitals train a discriminator and the server the generator, and "
        "model.name = toy has no such pair; choose another strategy.name, or model.name=stylegan2",
    )


@pytest.mark.parametrize(
    ("assignments", "problem"),
    [
        (
            ("strategy.generator=fedadam",),
            "strategy.generator = 'fedadam': model.name = toy has no generator and discriminator; leave it out, or set "
            "model.name=stylegan2",
        ),
        (
            ("strategy.name=fedbn",),
            "strategy.name = fedbn: model.name = toy has no layers that normalise, which would stay at their hospital; "
            "choose another strategy.name",
        ),
        (
            ("strategy.name=cap-gan",),
            "strategy.personal-part = 'mapping': model.name = toy has no such layers; choose another strategy.name",
        ),
        (
            ("strategy.name=partial-sync", "strategy.synchronise=discriminator"),
            "strategy.synchronise = 'discriminator': model.name = toy has no such trained network; choose from both, "
            "none, generator, canvas, several networks separated by commas",
        ),
        (
            ("strategy.averaged-state=ada-p",),
            "strategy.averaged-state = 'ada-p': 'ada-p' is not known; allowed are none in this family of models; leave "
            "it empty",
        ),
    ],
)
def test_strategies_are_refused_for_what_it_has_not(assignments: tuple[str, ...], problem: str) -> None:
    assert problems_of("model.name=toy", *assignments) == (problem,)


def test_strategies_ask_what_its_parts_are() -> None:
    assert numbers_in_use(toy("strategy.name=qfedavg")) == ("loss-error",)
    assert toy("strategy.name=partial-sync", "strategy.synchronise=canvas").strategy.synchronise == "canvas"


# ---------------------------------------------------------------- the model


def test_it_draws_and_has_neither_an_adversary_nor_a_space_of_latents() -> None:
    model = build_model(toy())
    images = drawer_of(model).generate(torch.tensor([0, 1, 2, 0]), 4, torch_stream(0, "test"))
    assert (images.dtype, tuple(images.shape)) == (torch.uint8, (4, 32, 32, 3))
    assert not isinstance(model, Adversarial)
    assert not isinstance(model, LatentSpace)


# ---------------------------------------------------------------- a federation


@pytest.fixture
def judged_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rounds are what is tested: the judge and the report of the end have tests of their own."""
    monkeypatch.setattr(server.app, "write_report", lambda directory: None)
    monkeypatch.setattr(server.app, "plot_partition", lambda partition, path: None)
    monkeypatch.setattr(server.app, "describe_judgement", lambda summary: [])
    monkeypatch.setattr(Evaluator, "write_sample_sheet", lambda evaluator, model, server_round: None)
    monkeypatch.setattr(Evaluator, "final_evaluation", lambda evaluator: {"test": {"kid": 0.0}})


def federation(run_dir: Path, cache_dir: str, *assignments: str) -> Configuration:
    return resolve(
        [
            parse_assignments(
                [
                    "model.name=toy",
                    "toy.grain=0.02",
                    f"run-dir={run_dir}",
                    f"data.cache-dir={cache_dir}",
                    "data.phantom-images=400",
                    "partition.scheme=iid",
                    "partition.hospitals=2",
                    "partition.min-images=1",
                    "rounds=2",
                    "training.local-steps=20",
                    "training.batch-size=8",
                    "training.learning-rate=0.05",
                    "evaluation.extractor=lesion-cnn",
                    "evaluation.images=64",
                    "evaluation.every=1",
                    "evaluation.threads=1",
                    "checkpoint.every=1",
                    "simulation.fail-fast=true",
                    "participation.retries=0",
                    *assignments,
                ]
            )
        ]
    )


def run(configuration: Configuration, app: object = client_app) -> str:
    """Run a federation; return what a person sees of it."""
    grid = InProcessGrid(app, simulation_nodes(2))  # type: ignore[arg-type]
    screen = io.StringIO()
    run_federation(grid, prepare_inputs(configuration), Console(file=screen, width=200))
    return screen.getvalue()


class Killed(BaseException):
    """What ends a process: nothing catches it."""


def kills_in_round_two(message: Message, context: Context) -> Message:
    """The real ClientApp; the process ends when the second hospital has trained in the second round."""
    reply = client_app(message, context)
    last = context.node_config["partition-id"] == 1
    if message.metadata.message_type == "train" and message.metadata.group_id == "2" and last:
        raise Killed
    return reply


def result(run_dir: Path) -> dict[str, bytes]:
    """Everything that the two rounds have made."""
    files = [*run_dir.glob("checkpoints/*/*.safetensors"), *run_dir.glob("final/*"), *run_dir.glob("hospitals/*/*")]
    return {str(file.relative_to(run_dir)): file.read_bytes() for file in files}


@pytest.mark.usefixtures("judged_quickly")
@pytest.mark.parametrize("conditional", [True, False], ids=["conditional", "unconditional"])
def test_it_is_trained_by_a_federation_shown_judged_and_exported(
    conditional: bool, tmp_path: Path, cache_dir: str
) -> None:
    configuration = federation(tmp_path / "run", cache_dir, f"model.conditional={str(conditional).lower()}")
    screen = run(configuration)
    # Its loss has a column.
    header, *lines = [line.split() for line in screen.splitlines() if line.split()[:1] in (["round"], ["1/2"], ["2/2"])]
    assert header[:3] == ["round", "error", "KID"]
    recorded = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [line["round"] for line in recorded] == [0, 1, 2]
    assert [line[1] for line in lines] == [f"{line['loss_error']:.3f}" for line in recorded[1:]]
    # It learns, and what is judged does.
    assert recorded[2]["loss_error"] < recorded[1]["loss_error"]
    assert recorded[2]["kid"] < recorded[0]["kid"]

    description = json.loads((tmp_path / "run" / "final" / "model.json").read_text())
    assert description["model"] == {"name": "toy", "conditional": conditional, "resolution": 32}
    assert description["toy"] == {"grain": 0.02}
    final = load_final(tmp_path / "run")
    images = final.generate(6, seed=1)
    assert tuple(images.shape) == (6, 32, 32, 3)
    assert torch.equal(load_final(tmp_path / "run" / "final").generate(6, seed=1, threads=2), images)
    # What it draws is lighter than a new canvas, which is grey: skin is.
    assert images.float().mean() > 140
    # What is exported is the running average of the last round.
    (weights,) = load_file(tmp_path / "run" / "final" / "generator.safetensors").items()
    assert weights[0] == "means"
    assert weights[1].shape == (len(final.classes) or 1, 3, 32, 32)


@pytest.mark.usefixtures("judged_quickly")
def test_it_goes_on_as_if_it_had_not_been_killed(
    tmp_path: Path, cache_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(federation(whole, cache_dir))
    monkeypatch.setattr(server.app.FederatedRun, "stop_early", lambda self, error: None)  # as after kill -9
    with pytest.raises(Killed):
        run(federation(broken, cache_dir), kills_in_round_two)
    assert not (broken / "summary.json").exists()
    # As `dermafed simulate --resume` does it, from what the run has left behind.
    stored = resolve([load_toml(broken / "config.toml"), parse_assignments(["resume=true"])])
    assert stored.own(ToySettings).grain == 0.02
    run(stored)
    assert result(broken) == result(whole)
    assert any(name.startswith("hospitals/") for name in result(whole))


@pytest.mark.usefixtures("judged_quickly")
def test_hospitals_with_canvases_of_their_own_are_judged_as_a_mixture(tmp_path: Path, cache_dir: str) -> None:
    run(federation(tmp_path / "run", cache_dir, "strategy.name=alone"))
    final = load_final(tmp_path / "run")
    assert final.is_mixture
    assert [component.name for component in final.components] == ["hospital-00", "hospital-01"]
    assert len({image.numpy().tobytes() for image in final.generate(20)}) == 20
