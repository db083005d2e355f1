"""A benchmark file: its cells, its budget, and what is refused before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.errors import ConfigurationError
from server.benchmark.budget import planned_bytes, planned_evaluations, planned_images
from server.benchmark.plan import load_plan, make_cells, make_trials

CONF = Path(__file__).resolve().parents[2] / "conf"

PLAN = """
name = "two"
budget = "images"
baseline = "fedgan"
seeds = [0, 1]
hyperparameters = "untuned: published defaults"
[base]
rounds = 10
training.local-steps = 20
[strategies.fedgan]
[strategies.fedadam]
strategy.server-tau = 0.01
[strategies.centralised]
[partitions.natural]
[partitions.skewed]
partition = { scheme = "dirichlet", alpha = 0.1 }
[models.conditional]
[models.unconditional]
model.conditional = false
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    return path


def test_cells_are_strategies_partitions_models_and_seeds(tmp_path: Path) -> None:
    path = write(tmp_path, PLAN)
    cells = make_cells(load_plan(path), path)
    assert len(cells) == len({cell.key for cell in cells}) == 3 * 2 * 2 * 2
    # All of one seed come first: a benchmark that is cut short is whole for the seeds that it has.
    assert [cell.seed for cell in cells] == [0] * 12 + [1] * 12
    first, second, third = cells[:3]
    assert first.key == "fedgan--natural--conditional--seed-0"
    assert (second.strategy, second.configuration.strategy.name) == ("fedadam", "fedadam")
    assert second.configuration.strategy.server_tau == 0.01
    assert third.configuration.partition.hospitals == 1
    last = cells[-1].configuration
    assert (last.seed, last.model.conditional, last.partition.scheme) == (1, False, "dirichlet")
    # A cell is one process, and cells run side by side.
    assert {cell.configuration.simulation.engine for cell in cells} == {"in-process"}


def test_centralised_training_shows_as_many_images(tmp_path: Path) -> None:
    path = write(tmp_path, PLAN)
    assert {planned_images(cell.configuration) for cell in make_cells(load_plan(path), path)} == {10 * 4 * 20 * 8}


@pytest.mark.parametrize(
    "base",
    [
        "participation.dropout = 0.2",
        "participation = { dropout = 0.3, fraction = 0.6 }",
        "participation = { dropout = 0.2, fraction = 0.6 }\ntraining.local-epochs = 1.0",
    ],
)
def test_hospitals_that_drop_out_leave_the_budget_equal_to_the_pooled_one(tmp_path: Path, base: str) -> None:
    steps = "" if "epochs" in base else "training.local-steps = 20\n"
    path = write(tmp_path, PLAN.replace("rounds = 10\ntraining.local-steps = 20\n", f"rounds = 10\n{steps}{base}\n"))
    amounts = [planned_images(cell.configuration) for cell in make_cells(load_plan(path), path)]
    assert max(amounts) == pytest.approx(min(amounts), rel=0.02)


def test_epochs_that_differ_are_called_epochs(tmp_path: Path) -> None:
    text = PLAN.replace("training.local-steps = 20\n", "training.local-epochs = 1.0\n")
    path = write(tmp_path, text.replace("[strategies.fedadam]\n", "[strategies.fedadam]\nrounds = 20\n"))
    with pytest.raises(ConfigurationError, match="20 epochs, and the baseline fedgan has 10; set rounds and"):
        make_cells(load_plan(path), path)


@pytest.mark.parametrize("path", sorted(CONF.glob("benchmark-*.toml")), ids=lambda path: path.stem)
def test_every_benchmark_of_ours_resolves(path: Path) -> None:
    plan = load_plan(path, ["data.root=/somewhere"] if "source" in load_plan(path).base.get("data", {}) else [])
    assert make_cells(plan, path)


def test_set_replaces_a_value_of_every_cell(tmp_path: Path) -> None:
    path = write(tmp_path, PLAN)
    cells = make_cells(load_plan(path, ["rounds=3"]), path)
    assert {cell.configuration.rounds for cell in cells} == {3}


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('baseline = "fedgan"', 'baseline = "fedavg"', "baseline = 'fedavg': is none of [strategies]: fedgan, fedadam"),
        ("seeds = [0, 1]", "seeds = [0, 0]", "seeds = [0, 0]: each is a whole number"),
        ("seeds = [0, 1]", "seed = [0, 1]", "seed: unknown key; the nearest known key is seeds"),
        ("seeds = [0, 1]", "", "seeds: is missing; write for example seeds = [0, 1, 2]"),
        ('hyperparameters = "untuned: published defaults"', "", "hyperparameters: is missing"),
        (
            'budget = "images"',
            'budget = "hours"',
            "budget = 'hours': Input should be 'images', 'evaluations', 'rounds' or 'bytes'",
        ),
        ("[strategies.fedadam]", "[strategies.fedadum]", "[strategies.fedadum]: is no strategy's name"),
        ("server-tau = 0.01", "server-tau = -1", "strategy.server-tau = -1"),
        ('scheme = "dirichlet"', 'scheme = "diriclet"', "partition.scheme = 'diriclet'"),
        ("[partitions.natural]", '[partitions."a--b"]', "[partitions.a--b]: names are letters"),
        (
            "[strategies.fedadam]\n",
            "[strategies.fedadam]\nrounds = 20\n",
            "[strategies.fedadam] on natural, conditional",
        ),
        # What would have a strategy run under another's name.
        ("rounds = 10", 'rounds = 10\nstrategy.name = "krum"', "[base] strategy.name: belongs into [strategies.NAME]"),
        ("[strategies.fedadam]\n", '[strategies.fedadam]\nstrategy.name = "krum"\n', "give the table another name"),
        # What would judge it under other conditions.
        ("[strategies.fedadam]\n", "[strategies.fedadam]\nevaluation.images = 9\n", "must be the same for all"),
        ("[strategies.fedadam]\n", "[strategies.fedadam]\ndata.split-seed = 9\n", "must be the same for all"),
        ("[strategies.fedadam]\n", '[strategies.fedadam]\npartition.scheme = "iid"\n', "must be the same for all"),
        ("rounds = 10", "rounds = 10\nseed = 9", "[base] seed: the benchmark sets it"),
        (
            "rounds = 10",
            "rounds = 10\nevaluation.every = 2\nearly-stopping.patience = 2",
            "runs would end at different budgets",
        ),
        (
            "[strategies.fedadam]\n",
            "[strategies.fedadam]\ntraining = { local-steps = 0, local-epochs = 1.0 }\n",
            "epochs or steps",
        ),
        ("[models.conditional]\n[models.unconditional]\nmodel.conditional = false\n", "[models]\n", "models"),
        ('name = "two"', "", 'name: is missing; write for example name = "mine"'),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, before: str, after: str, message: str) -> None:
    assert before in PLAN
    path = write(tmp_path, PLAN.replace(before, after))
    with pytest.raises(ConfigurationError) as caught:
        make_cells(load_plan(path), path)
    assert any(message in problem for problem in caught.value.problems), caught.value.problems


@pytest.mark.parametrize("assignment", ["seed=3", "strategy.name=krum", "name=other"])
def test_set_may_not_change_what_is_compared(tmp_path: Path, assignment: str) -> None:
    with pytest.raises(ConfigurationError, match=f"--set {assignment.split('=')[0]}: "):
        load_plan(write(tmp_path, PLAN), [assignment])


def test_bytes_cannot_be_those_of_a_baseline_that_sends_none(tmp_path: Path) -> None:
    text = PLAN.replace('budget = "images"', 'budget = "bytes"').replace(
        'baseline = "fedgan"', 'baseline = "centralised"'
    )
    path = write(tmp_path, text)
    with pytest.raises(ConfigurationError, match="the baseline centralised sends nothing"):
        make_cells(load_plan(path), path)


def test_equal_rounds_let_the_images_differ(tmp_path: Path) -> None:
    text = PLAN.replace('budget = "images"', 'budget = "rounds"').replace(
        "[strategies.fedadam]\n", "[strategies.fedadam]\ntraining.local-steps = 40\n"
    )
    path = write(tmp_path, text)
    assert {cell.configuration.rounds for cell in make_cells(load_plan(path), path)} == {10}


FAMILIES = PLAN.replace('budget = "images"', 'budget = "evaluations"').replace(
    "[strategies.fedadam]\nstrategy.server-tau = 0.01\n",
    '[strategies.fedavg-vae]\nstrategy.name = "fedavg"\nmodel.name = "vae"\ntraining.local-steps = 30\n',
)


def test_equal_evaluations_let_a_family_with_fewer_networks_show_more_images(tmp_path: Path) -> None:
    path = write(tmp_path, FAMILIES)
    cells = make_cells(load_plan(path), path)
    # An image that a VAE learns from passes through two networks; of StyleGAN2, one drawn and a real one through three.
    assert {planned_evaluations(cell.configuration) for cell in cells} == {3 * 10 * 4 * 20 * 8}
    assert {planned_images(cell.configuration) for cell in cells} == {10 * 4 * 20 * 8, 10 * 4 * 30 * 8}


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "local-steps = 30",
            "local-steps = 20",
            "[strategies.fedavg-vae] on natural, conditional: 1.28e+04 network evaluations, and the baseline fedgan "
            "has 1.92e+04; set rounds and training.local-steps so that they agree, or another budget",
        ),
        # A step more or less in a round is a matter of rounding.
        ("local-steps = 30", "local-steps = 31", "1.984e+04 network evaluations"),
        (
            "local-steps = 30",
            "local-steps = 0\ntraining.local-epochs = 1.5",
            "has epochs or steps where the baseline has the other",
        ),
        (
            'strategy.name = "fedavg"\nmodel.name = "vae"',
            'strategy.name = "ua-gan"\nstylegan2.loss = "logistic"',
            "[strategies.fedavg-vae] on natural, conditional: trains at the server too, which this budget does not "
            "count; choose another budget",
        ),
    ],
)
def test_unequal_evaluations_are_refused(tmp_path: Path, before: str, after: str, message: str) -> None:
    assert before in FAMILIES
    path = write(tmp_path, FAMILIES.replace(before, after))
    with pytest.raises(ConfigurationError) as caught:
        make_cells(load_plan(path), path)
    assert any(message in problem for problem in caught.value.problems), caught.value.problems


def test_evaluations_agree_within_the_tolerance_of_every_budget(tmp_path: Path) -> None:
    text = FAMILIES.replace("training.local-steps = 20\n", "training.local-steps = 67\n")
    # 100 steps of two networks beside 67 of three.
    path = write(tmp_path, text.replace("local-steps = 30", "local-steps = 100"))
    assert make_cells(load_plan(path), path)


def test_evaluations_of_epochs_are_those_of_each_image(tmp_path: Path) -> None:
    text = FAMILIES.replace("training.local-steps = 20\n", "training.local-epochs = 2.0\n")
    path = write(tmp_path, text.replace("local-steps = 30", "local-epochs = 3.0"))
    assert {planned_evaluations(cell.configuration) for cell in make_cells(load_plan(path), path)} == {60.0}
    path = write(tmp_path, text.replace("local-steps = 30", "local-epochs = 2.0"))
    with pytest.raises(ConfigurationError, match="40 network evaluations of each training image, and the baseline"):
        make_cells(load_plan(path), path)


def test_a_family_cannot_be_tuned_where_evaluations_are_equal(tmp_path: Path) -> None:
    text = TUNED.replace("[base]", "[tuning]\ntrials = 4\nrounds = 3\nseed = 7\n[base]").replace(
        "strategy.server-tau = [0.001, 0.1]", 'model.name = ["stylegan2", "vae"]'
    )
    assert make_trials(load_plan(write(tmp_path, text)), tmp_path / "plan.toml")
    path = write(tmp_path, text.replace('budget = "images"', 'budget = "evaluations"'))
    with pytest.raises(ConfigurationError, match="model.name: would change the budget, which is equal for all"):
        load_plan(path)


def test_equal_bytes_give_a_strategy_that_sends_more_fewer_rounds(tmp_path: Path) -> None:
    text = PLAN.replace('budget = "images"', 'budget = "bytes"').replace(
        "[strategies.fedadam]\nstrategy.server-tau = 0.01\n", "[strategies.scaffold]\n[strategies.partial-sync]\n"
    )
    path = write(tmp_path, text)
    cells = {cell.strategy: cell.configuration for cell in make_cells(load_plan(path), path)}
    budget = planned_bytes(cells["fedgan"]) * 10
    assert cells["fedgan"].rounds == 10
    assert cells["scaffold"].rounds < 10 < cells["partial-sync"].rounds
    for name in ("scaffold", "partial-sync"):
        per_round = planned_bytes(cells[name])
        assert abs(cells[name].rounds * per_round - budget) <= per_round / 2
    # Nothing is sent: nothing to be made equal.
    assert (planned_bytes(cells["centralised"]), cells["centralised"].rounds) == (0, 10)


def test_fewer_rounds_than_a_strategy_can_do_with_are_refused_at_once(tmp_path: Path) -> None:
    """Beside a baseline that sends two thirds, seven rounds are left of ten: none before EFFGAN's fine-tuning."""
    strategies = "[strategies.partial-sync]\n[strategies.effgan]\nstrategy.fine-tune-rounds = 7\n"
    text = PLAN.replace('budget = "images"', 'budget = "bytes"').replace("[strategies.fedgan]\n", strategies)
    text = text.replace("[base]\n", "[base]\nstylegan2.channel-max = 64\n")
    path = write(tmp_path, text.replace('baseline = "fedgan"', 'baseline = "partial-sync"'))
    with pytest.raises(ConfigurationError, match="none would be left in which hospitals learn from one another"):
        make_cells(load_plan(path), path)


def test_planned_bytes_are_those_of_the_networks(tmp_path: Path) -> None:
    path = write(tmp_path, PLAN)
    configuration = make_cells(load_plan(path), path)[0].configuration
    from federation.models import build_model

    model = build_model(configuration.with_values({"data.classes": "a,b"}))
    sizes = [
        4 * value.numel()
        for name in ("generator", "generator_ema", "discriminator")
        for value in model.networks[name].state_dict().values()
        if value.is_floating_point()
    ]
    # Four hospitals, down and up; each array has a header of 128 bytes.
    assert planned_bytes(configuration) == 4 * 2 * (sum(sizes) + 128 * len(sizes))


TUNED = PLAN.replace(
    "[strategies.fedadam]\nstrategy.server-tau = 0.01\n",
    "[strategies.fedadam]\n[strategies.fedadam.tune]\n"
    "strategy.server-learning-rate = [0.01, 0.1]\nstrategy.server-tau = [0.001, 0.1]\n",
)


def test_trials_try_every_combination_on_a_seed_of_their_own(tmp_path: Path) -> None:
    path = write(tmp_path, TUNED.replace("[base]", "[tuning]\ntrials = 4\nrounds = 3\nseed = 7\n[base]"))
    plan = load_plan(path)
    trials = make_trials(plan, path)
    assert [(t.configuration.strategy.server_learning_rate, t.configuration.strategy.server_tau) for t in trials] == [
        (0.01, 0.001),
        (0.01, 0.1),
        (0.1, 0.001),
        (0.1, 0.1),
    ]
    assert {(t.seed, t.configuration.seed, t.configuration.rounds, t.partition, t.model) for t in trials} == {
        (7, 7, 3, "natural", "conditional")
    }
    chosen = make_cells(plan, path, {"fedadam": {"strategy.server-tau": 0.1}})
    assert {cell.configuration.strategy.server_tau for cell in chosen if cell.strategy == "fedadam"} == {0.1}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "[strategies.fedadam.tune]: there is no [tuning]"),
        ("[tuning]\ntrials = 3\nrounds = 3\nseed = 7\n", "asks for 4 trials, and tuning.trials = 3"),
        ("[tuning]\ntrials = 4\nrounds = 3\nseed = 1\n", "tuning.seed = 1: is one of seeds"),
    ],
)
def test_tuning_that_is_not_fair_is_refused(tmp_path: Path, table: str, message: str) -> None:
    path = write(tmp_path, TUNED.replace("[base]", f"{table}[base]"))
    with pytest.raises(ConfigurationError, match=message.replace("[", r"\[").replace("]", r"\]")):
        load_plan(path)


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ("strategy.server-tau = 0.1", "is a list of values to try"),
        ('strategy.server-tau = "0.1"', "is a list of values to try"),
        ("strategy.server-tau = []", "is a list of values to try"),
        ("strategy.server-tau = [0.1, 0.1]", "each of them once"),
        ("", "is a table of lists"),
        ("seed = [1, 2]", "the benchmark sets it"),
        ("rounds = [1, 2]", "would change the budget"),
        ("training.local-steps = [10, 40]", "would change the budget"),
        ('strategy.name = ["fedyogi", "fedadam"]', "belongs into"),
        ("evaluation.images = [10, 40]", "must be the same for all"),
    ],
)
def test_values_to_try_are_lists_that_leave_the_terms_equal(tmp_path: Path, tune: str, message: str) -> None:
    text = PLAN.replace(
        "[strategies.fedadam]\nstrategy.server-tau = 0.01\n",
        f"[strategies.fedadam]\n[strategies.fedadam.tune]\n{tune}\n",
    )
    path = write(tmp_path, text.replace("[base]", "[tuning]\ntrials = 4\nrounds = 3\nseed = 7\n[base]"))
    with pytest.raises(ConfigurationError) as caught:
        load_plan(path)
    found = [problem for problem in caught.value.problems if "[strategies.fedadam.tune]" in problem]
    assert any(message in problem for problem in found), caught.value.problems


def test_a_value_to_try_that_is_not_allowed_is_named_with_its_table(tmp_path: Path) -> None:
    text = TUNED.replace("[base]", "[tuning]\ntrials = 4\nrounds = 3\nseed = 7\n[base]").replace("0.01, 0.1]", "-1.0]")
    path = write(tmp_path, text)
    with pytest.raises(ConfigurationError, match=r"\[strategies.fedadam.tune\]"):
        make_trials(load_plan(path), path)
