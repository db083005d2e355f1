"""The round loop against hospitals that fail, lie or are missing."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from rich.console import Console

from clients.app import app as client_app
from federation.config import Configuration, parse_assignments
from federation.engine.grid import simulation_nodes
from federation.engine.in_process import InProcessGrid
from federation.errors import ConfigurationError, HospitalError, InputError, RunDirectoryError, RunError
from federation.exchange import ARRAYS, CONFIG, IMAGES_SHOWN, LAST_ROUND, METRICS, pack_arrays, unpack_arrays
from federation.metrics import lesion_cnn
from federation.run_directory import RunDirectory, read_lines
from server.app import run_federation
from server.evaluation.evaluator import Evaluator
from server.inputs import prepare_inputs
from strategies.configuration import resolve


def configuration(run_dir: Path, cache_dir: str, *assignments: str) -> Configuration:
    return resolve(
        [
            parse_assignments(
                [
                    f"run-dir={run_dir}",
                    f"data.cache-dir={cache_dir}",
                    "data.phantom-images=400",
                    "partition.min-images=1",
                    "rounds=2",
                    "stylegan2.channel-max=16",
                    "stylegan2.latent-size=16",
                    "training.local-steps=1",
                    "training.batch-size=2",
                    "evaluation.images=20",
                    "evaluation.draws=1",
                    "evaluation.threads=1",
                    "evaluation.utility=false",
                    "checkpoint.every=1",
                    *assignments,
                ]
            )
        ]
    )


EVERYTHING = [
    "stylegan2.loss=logistic",
    "stylegan2.style-mixing=0.5",
    "stylegan2.path-length-weight=2.0",
    "stylegan2.path-length-every=2",
    "stylegan2.penalty-every=4",
    "stylegan2.label-dropout=0.2",
    "stylegan2.transition-images=10.0",
    "training.balanced-classes=true",
    "stylegan2.minibatch-std=2",
    "stylegan2.resampling=fir",
    "stylegan2.augmentation.name=ada",
    "stylegan2.augmentation.transforms=bgc",
    "stylegan2.augmentation.p=0.3",
    "stylegan2.augmentation.ada-kimg=0.1",
]


class Sabotage:
    """The real ClientApp, but for what one hospital does in one round."""

    def __init__(self, partition: int, server_round: int, kind: str) -> None:
        self.partition, self.server_round, self.kind = partition, server_round, kind

    def __call__(self, message: Message, context: Context) -> Message:
        hit = (
            message.metadata.message_type == "train"
            and message.metadata.group_id == str(self.server_round)
            and (self.partition == -1 or context.node_config["partition-id"] == self.partition)
        )
        if hit and self.kind == "raise":
            raise ValueError("the images of this hospital are gone")
        reply = client_app(message, context)
        if hit and self.kind == "nan":
            arrays = unpack_arrays(reply.content.array_records[ARRAYS])
            arrays["generator.constant"][0, 0, 0, 0] = np.nan
            reply.content[ARRAYS] = pack_arrays(arrays)
        if hit and self.kind == "weight":
            reply.content.metric_records[METRICS]["num-examples"] = 10**12
        if hit and self.kind == "steps":
            reply.content.metric_records[METRICS]["num-steps"] = 10**9
        if hit and self.kind == "metric":
            reply.content.metric_records[METRICS]["loss-of-patience"] = 1.0
        return reply


def run(settings: Configuration, app: ClientApp | Sabotage) -> str:
    printed = io.StringIO()
    grid = InProcessGrid(app, simulation_nodes(settings.partition.hospitals))  # type: ignore[arg-type]
    run_federation(grid, prepare_inputs(settings), Console(file=printed, width=200))
    return printed.getvalue()


@pytest.mark.parametrize(
    ("partition", "kind", "status", "reason"),
    [
        (1, "raise", "failed", "ValueError: the images of this hospital are gone"),
        (1, "nan", "refused", "generator.constant: 1 of 256 values are not finite"),
        (1, "weight", "refused", "num-examples = 1000000000000: expected "),
        (1, "steps", "refused", "metric num-steps = 1000000000: expected 1, by the settings of training"),
        # What it says more must not decide what the others have to say, though its name comes first.
        (0, "metric", "refused", "metrics loss-of-patience: unknown; this run knows "),
    ],
)
def test_a_round_goes_on_without_a_hospital(
    partition: int, kind: str, status: str, reason: str, tmp_path: Path, cache_dir: str
) -> None:
    run_dir = tmp_path / "run"
    printed = run(configuration(run_dir, cache_dir), Sabotage(partition, 2, kind))
    names = ["coast-practice", "north-clinic", "slide-archive", "university-hospital"]
    assert f"round 2: left out hospital '{names[partition]}': {reason}" in printed
    lines = [line for line in read_lines(run_dir / "hospitals.jsonl") if line["round"] == 2]
    found = [(line["site"], line["status"]) for line in lines]
    assert found == [(name, status if name == names[partition] else "ok") for name in names]
    assert reason in lines[partition]["reason"]
    assert printed.split("2/2", 1)[1].split()[6] == "3/4"
    assert json.loads((run_dir / "summary.json").read_text())["status"] == "done"


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("recipe", [[], EVERYTHING], ids=["default", "everything"])
def test_fail_fast_shows_the_hospitals_traceback_and_saves(recipe: list[str], tmp_path: Path, cache_dir: str) -> None:
    run_dir = tmp_path / "run"
    # With everything on, p is adapted every 4 steps: round 3 ends, and the run is resumed, between two adaptations.
    rounds = ("rounds=5", "checkpoint.every=2", "evaluation.every=1", "training.local-steps=2", *recipe)
    fail_fast = "simulation.fail-fast=true"
    with pytest.raises(HospitalError) as caught:
        run(configuration(run_dir, cache_dir, *rounds, fail_fast), Sabotage(2, 4, "raise"))
    assert str(caught.value).startswith("hospital 'slide-archive' failed:\nTraceback (most recent call last)")
    assert "ValueError: the images of this hospital are gone" in str(caught.value)
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["status"], summary["rounds"]) == ("failed", 3)
    # Round 3 is no multiple of checkpoint.every: it was saved because the run ended there.
    # The best by KID stands beside the newest two.
    kid = {line["round"]: line["kid"] for line in read_lines(run_dir / "metrics.jsonl") if line["round"]}
    assert RunDirectory(run_dir).checkpoint_rounds() == sorted({2, 3, min(kid, key=lambda number: kid[number])})
    # Mended, the run goes on from there and ends as one that never failed.
    run(configuration(run_dir, cache_dir, *rounds, "resume=true"), client_app)
    run(configuration(tmp_path / "straight", cache_dir, *rounds), client_app)
    runs = (run_dir, tmp_path / "straight")
    assert len({(path / "final" / "generator.safetensors").read_bytes() for path in runs}) == 1
    lines = [read_lines(path / "metrics.jsonl") for path in runs]
    for name in ("round", "images", "kid"):
        assert [line[name] for line in lines[0]] == [line[name] for line in lines[1]]


@pytest.mark.usefixtures("without_pictures")
def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path, cache_dir: str) -> None:
    from safetensors.numpy import load_file, save_file

    settings = configuration(tmp_path / "run", cache_dir, "rounds=1")
    run(settings, client_app)
    path = tmp_path / "run" / "checkpoints" / "round-0001" / "global.safetensors"
    arrays = load_file(path)
    arrays["generator.constant"] = arrays["generator.constant"][:, :8]
    del arrays["generator.mapping.label_weight"]
    save_file(arrays, path)
    state = path.with_name("state.json")
    entries = json.loads(state.read_text())
    del entries["blake2b"]  # an earlier version wrote no digests
    state.write_text(json.dumps(entries))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    with pytest.raises(RunDirectoryError) as caught:
        run(configuration(tmp_path / "run", cache_dir, "rounds=2", "resume=true"), client_app)
    where = "; resume with the version of dermafed that wrote it"
    assert caught.value.problems == (
        f"{path}: generator.constant: found (1, 8, 4, 4), expected (1, 16, 4, 4){where}",
        f"{path}: generator.mapping.label_weight: found nothing, expected (){where}",
    )
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == lines


@pytest.mark.usefixtures("without_pictures")
def test_a_finished_run_can_be_made_longer(tmp_path: Path, cache_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also from a last round that is no multiple of checkpoint.every, and where another extractor would be trained."""
    # A step size that falls over all rounds would have fallen less in the first three of five.
    every = ("checkpoint.every=2", "training.learning-rate-decay=none")
    run(configuration(tmp_path / "longer", cache_dir, "rounds=3", *every), client_app)
    with monkeypatch.context() as patch:
        patch.setitem(lesion_cnn._RECIPE, "steps", 1)
        printed = run(configuration(tmp_path / "longer", cache_dir, "rounds=5", *every, "resume=true"), client_app)
    (name,) = {line["extractor"] for line in read_lines(tmp_path / "longer" / "metrics.jsonl")}
    assert f"extractor: {name}, which the run has kept" in printed
    run(configuration(tmp_path / "straight", cache_dir, "rounds=5", *every), client_app)
    runs = (tmp_path / "longer", tmp_path / "straight")
    assert len({(path / "final" / "generator.safetensors").read_bytes() for path in runs}) == 1
    assert "rounds = 5" in (tmp_path / "longer" / "config.toml").read_text()


@pytest.mark.usefixtures("without_pictures")
def test_an_evaluation_that_was_cut_short_is_made_up_for(
    tmp_path: Path, cache_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"
    evaluate = Evaluator.evaluate

    def interrupt(self: Evaluator, model: object, server_round: int) -> dict[str, object]:
        if server_round == 2:
            raise KeyboardInterrupt
        return evaluate(self, model, server_round)  # type: ignore[arg-type]

    monkeypatch.setattr(Evaluator, "evaluate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(configuration(run_dir, cache_dir), client_app)
    assert json.loads((run_dir / "summary.json").read_text())["status"] == "interrupted"
    monkeypatch.undo()
    run(configuration(run_dir, cache_dir, "resume=true"), client_app)
    assert [line["round"] for line in read_lines(run_dir / "metrics.jsonl")] == [0, 2]


@pytest.mark.usefixtures("without_pictures")
def test_scores_of_two_extractors_are_never_mixed(tmp_path: Path, cache_dir: str) -> None:
    run_dir = tmp_path / "run"
    run(configuration(run_dir, cache_dir), client_app)
    metrics = run_dir / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace("lesion-cnn-32@", "lesion-cnn-32@other-"))
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    with pytest.raises(RunDirectoryError, match=r"its scores are of lesion-cnn-32@other-.*could not be compared"):
        run(configuration(run_dir, cache_dir, "rounds=3", "resume=true"), client_app)
    assert before == {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("without_pictures")
def test_two_runs_in_one_directory_are_refused(tmp_path: Path, cache_dir: str) -> None:
    run_dir = tmp_path / "run"
    run(configuration(run_dir, cache_dir), client_app)
    directory = RunDirectory(run_dir)
    directory.lock()
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    with pytest.raises(RunDirectoryError, match="another process runs there"):
        run(configuration(run_dir, cache_dir, "rounds=3", "resume=true"), client_app)
    assert before == {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    directory.unlock()


@pytest.mark.parametrize(
    "wrong",
    [
        ("evaluation.extractor=inception-v3", "evaluation.extractor-weights=/nowhere/weights.pth"),
        ("partition.hospitals=1", "partition.min-images=1"),
    ],
)
def test_input_that_shows_late_writes_nothing(wrong: tuple[str, ...], tmp_path: Path, cache_dir: str) -> None:
    settings = configuration(tmp_path / "run", cache_dir, *wrong)
    grid = InProcessGrid(client_app, simulation_nodes(1 if "extractor" in wrong[0] else 2))
    if "extractor" in wrong[0]:
        settings = configuration(tmp_path / "run", cache_dir, *wrong, "partition.hospitals=1")
    with pytest.raises(InputError):
        run_federation(grid, prepare_inputs(settings), Console(file=io.StringIO()))
    assert not (tmp_path / "run").exists()


def test_a_hospital_that_left_is_counted(tmp_path: Path, cache_dir: str) -> None:
    class Leaving(InProcessGrid):
        def get_node_ids(self) -> list[int]:
            # Four at the start; the second is gone once training begins, and a stranger has come.
            self.calls = getattr(self, "calls", 0) + 1
            return [2, 3, 4, 5] if self.calls == 1 else [2, 4, 5]

    settings = configuration(tmp_path / "run", cache_dir, "rounds=1")
    printed = io.StringIO()
    run_federation(Leaving(client_app, simulation_nodes(4)), prepare_inputs(settings), Console(file=printed, width=200))
    assert "left out hospital 'north-clinic': the hospital is not connected" in printed.getvalue()
    assert printed.getvalue().split("1/1", 1)[1].split()[6] == "3/4"


def test_a_round_without_any_reply_fails_the_run(tmp_path: Path, cache_dir: str) -> None:
    settings = configuration(tmp_path / "run", cache_dir)
    with pytest.raises(RunError, match="round 1: replies of 0 of 4 hospitals could be used"):
        run(settings, Sabotage(-1, 1, "raise"))


@pytest.mark.usefixtures("without_pictures")
def test_a_private_network_never_arrives_at_the_server(tmp_path: Path, cache_dir: str) -> None:
    run_dir = tmp_path / "run"
    run(configuration(run_dir, cache_dir, "strategy.private=discriminator"), client_app)
    from safetensors.numpy import load_file

    names = load_file(run_dir / "checkpoints" / "round-0002" / "global.safetensors")
    assert {name.split(".")[0] for name in names} == {"generator", "generator_ema"}
    states = [
        load_file(folder / "round-0002.safetensors")["network.discriminator.from_rgb.weight"]
        for folder in sorted((run_dir / "hospitals").iterdir())
    ]
    assert len({state.tobytes() for state in states}) == 4  # each hospital has its own


def test_a_policy_about_nothing_is_refused_before_anything_is_written(tmp_path: Path, cache_dir: str) -> None:
    settings = configuration(tmp_path / "run", cache_dir, "strategy.private=discriminater")
    with pytest.raises(ConfigurationError, match="strategy.private = 'discriminater'"):
        run(settings, client_app)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("without_pictures")
def test_hospitals_weigh_as_much_as_they_show(tmp_path: Path, cache_dir: str) -> None:
    """Balanced over the federation, averages are by shares, of which the screen says how large they are."""
    from safetensors.torch import load_file

    settings = configuration(tmp_path / "run", cache_dir, "rounds=1", "evaluation.authenticity=false")
    sent: dict[int, dict[str, np.ndarray]] = {}

    def watched(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        if message.metadata.message_type == "train":
            sent[int(str(context.node_config["partition-id"]))] = unpack_arrays(reply.content.array_records[ARRAYS])
        return reply

    screen = run(settings, watched)  # type: ignore[arg-type]
    inputs = prepare_inputs(settings)
    counts = inputs.partition.counts.astype(float)
    share = (counts / counts.sum(axis=0)).sum(axis=1) / counts.shape[1]
    named = ", ".join(
        f"{name} {value:.1%}" for name, value in sorted(zip(inputs.partition.hospitals, share, strict=True))
    )
    assert f"classes balanced over the federation: {named}" in screen
    assert not np.allclose(share, counts.sum(axis=1) / counts.sum(), atol=0.02)
    final = load_file(tmp_path / "run" / "final" / "generator.safetensors")
    for name in ("constant", "layers.0.conv.weight"):
        expected = sum(share[number] * arrays[f"generator_ema.{name}"] for number, arrays in sent.items())
        np.testing.assert_allclose(final[name].numpy(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("recipe", [[], EVERYTHING], ids=["default", "everything"])
def test_one_hospital_equals_training_without_a_federation(recipe: list[str], tmp_path: Path, cache_dir: str) -> None:
    """Centralised training by hand, no Flower in between: the same bits, whatever training carries along."""
    import torch

    from data_partitions.dataset import ImageDataset
    from federation.models import build_model
    from federation.seeding import torch_stream

    settings = configuration(tmp_path / "run", cache_dir, "partition.hospitals=1", "training.local-steps=3", *recipe)
    run(settings, client_app)

    torch.set_num_threads(settings.training.threads)
    inputs = prepare_inputs(settings)
    model = build_model(inputs.configuration)
    data = ImageDataset(
        inputs.images,
        inputs.index.labels,
        inputs.rows("train"),
        flips=True,
        balanced=settings.balanced_over != "none",
    )
    for server_round in (1, 2):
        stream = torch_stream(0, "local training", server_round=server_round, site="all")
        for step in range(3):
            done = (server_round - 1 + step / 3) / 2
            model.learning_rate_factor = 0.25 + 0.75 * (1 + math.cos(math.pi * done)) / 2
            model.train_step(data.sample_batch(stream, 2), stream)
    from safetensors.torch import load_file

    final = load_file(tmp_path / "run" / "final" / "generator.safetensors")
    for name, value in model.networks["generator_ema"].state_dict().items():
        assert torch.equal(value, final[name]), name
    if recipe:
        # What the hospital carried from round to round is what training by hand carried.
        kept = load_file(tmp_path / "run" / "hospitals" / "all" / "round-0002.safetensors")
        for name, value in model.networks["training"].state_dict().items():
            assert torch.equal(value, kept[f"network.training.{name}"]), name
        assert kept["network.training.ada_p"].item() != pytest.approx(0.3)
        assert kept["network.training.path_length_mean"].item() > 0
        lines = read_lines(tmp_path / "run" / "hospitals.jsonl")
        # Adapted once, after step 4: the mean over the steps of round 2 is between the two values.
        assert lines[0]["augmentation_p"] == pytest.approx(0.3)
        assert lines[1]["augmentation_p"] == pytest.approx(kept["network.training.ada_p"].item())


@pytest.mark.usefixtures("without_pictures")
def test_a_newcomers_running_average_goes_by_the_federations_images(tmp_path: Path, cache_dir: str) -> None:
    """One hospital of four in each round, and one step: of what came a half-life's worth goes, and of its own more."""
    from safetensors.numpy import load_file

    seen: list[tuple[dict[str, np.ndarray], dict[str, np.ndarray], int, float, dict[str, np.ndarray]]] = []

    def watching(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        if message.metadata.message_type == "train":
            config = message.content.config_records[CONFIG]
            sent, back = (unpack_arrays(each.content.array_records[ARRAYS]) for each in (message, reply))
            (newest,) = (tmp_path / "run" / "hospitals").glob(
                f"*/round-{int(message.metadata.group_id):04d}.safetensors"
            )
            seen.append((sent, back, int(str(config[LAST_ROUND])), float(str(config[IMAGES_SHOWN])), load_file(newest)))
        return reply

    few = ("rounds=4", "participation.fraction=0.25", "evaluation.every=4", "evaluation.authenticity=false")
    settings = configuration(tmp_path / "run", cache_dir, *few, "strategy.private=generator.mapping")
    run(settings, watching)  # type: ignore[arg-type]
    assert [shown for *_, shown, _ in seen] == [0.0, 2.0, 4.0, 6.0]
    newcomers = [(sent, back, shown, kept) for sent, back, last, shown, kept in seen if last == 0 and shown]
    assert newcomers, "every round asked one that had been asked before"

    def expected(before: np.ndarray, after: np.ndarray, images_shown: float) -> np.ndarray:
        decay = 0.5 ** (2 / (0.1 * images_shown))
        return decay * before + (1 - decay) * after

    for sent, back, shown, kept in newcomers:
        np.testing.assert_allclose(
            back["generator_ema.constant"],
            expected(sent["generator_ema.constant"], back["generator.constant"], shown + 2),
            rtol=1e-5,
            atol=1e-7,
        )
        # Its own mapping network has begun with what all begin with, a bias of 0.
        mapped = kept["network.generator.mapping.layers.0.bias"]
        assert np.abs(mapped).max() > 0
        np.testing.assert_allclose(
            kept["network.generator_ema.mapping.layers.0.bias"], expected(np.zeros_like(mapped), mapped, 2), rtol=1e-5
        )


@pytest.mark.usefixtures("without_pictures")
def test_state_that_hospitals_average(tmp_path: Path, cache_dir: str) -> None:
    """The augmentation's p stays at a hospital unless it is asked for; then the server has one for all."""
    from safetensors.numpy import load_file

    ada = [
        "stylegan2.augmentation.name=ada",
        "stylegan2.augmentation.ada-every=1",
        "stylegan2.augmentation.ada-kimg=0.1",
        "stylegan2.augmentation.p=0.5",
        "training.balanced-classes=none",
    ]
    run(configuration(tmp_path / "own", cache_dir, *ada), client_app)
    run(configuration(tmp_path / "shared", cache_dir, *ada, "strategy.averaged-state=ada-p"), client_app)
    sent = load_file(tmp_path / "shared" / "checkpoints" / "round-0001" / "global.safetensors")
    assert [name for name in sent if name.startswith("training")] == ["training.ada_p"]
    assert "training.ada_p" not in load_file(tmp_path / "own" / "checkpoints" / "round-0001" / "global.safetensors")

    def p_of_round_1(folder: Path) -> dict[str, tuple[float, int]]:
        lines = [line for line in read_lines(folder / "hospitals.jsonl") if line["round"] == 1]
        return {line["site"]: (line["augmentation_p"], line["num_training_images"]) for line in lines}

    own = p_of_round_1(tmp_path / "own")
    assert own == p_of_round_1(tmp_path / "shared")
    assert len({p for p, _ in own.values()}) > 1, "all hospitals moved alike: nothing is told apart"
    mean = sum(p * count for p, count in own.values()) / sum(count for _, count in own.values())
    assert float(sent["training.ada_p"]) == pytest.approx(mean, rel=1e-6)
