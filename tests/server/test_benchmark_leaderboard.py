"""The tables of a benchmark: what stands beside the figures, and what is not compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from federation.run_directory import RunDirectory
from server.benchmark.cells import Outcome
from server.benchmark.figures import raw_rows
from server.benchmark.leaderboard import Leaderboard, csv_table, markdown, tex
from server.benchmark.page import render_page
from server.benchmark.plan import load_plan, make_cells
from server.benchmark.statistics import Results

PLAN = """
name = "three"
budget = "images"
baseline = "fedgan"
seeds = [0, 1]
hyperparameters = "untuned"
[base]
rounds = 10
partition.hospitals = 3
[strategies.fedgan]
[strategies.fedadam]
[strategies.centralised]
[partitions.natural]
[partitions.skewed]
partition.scheme = "dirichlet"
"""


def summary(kid: float, says: str, **changes: Any) -> dict[str, Any]:
    test = {
        "kid": kid,
        "extractor": "lesion-cnn-32@00ff",
        "num_generated": 1000,
        "num_real": 900,
        "num_draws": 2,
        "per_site_say": says,
        "per_site": [{"name": "a", "kid": kid + 1}, {"name": "b", "kid": kid + 2}],
    }
    return {
        "status": "done",
        "seconds": 99.0,
        "seconds_by_work": {"training": 10.0, "aggregation": 2.0, "evaluation": 80.0},
        "images": 1000,
        "rounds": 10,
        "peak_memory_bytes": {"server": 1_000_000},
        "kid_floor": 0.01,
        "kid_pca_gaussian": 0.5,
        "kid_mean_image": 9.0,
        "utility": {"recognised": {"mean": {"mean": 0.4}, "share": {"mel": {"mean": kid / 100}, "nv": None}}},
        "test": test | changes.pop("test", {}),
    } | changes


def board(
    tmp_path: Path, kids: Mapping[str, float], changes: Mapping[str, Mapping[str, Any]] | None = None
) -> Leaderboard:
    """Return a leaderboard of made-up cells; of strategies in `kids`, plus the seed, ten times on skewed hospitals.

    A cell whose key begins with one in `changes` has another summary; with None it failed.
    """
    path = tmp_path / "plan.toml"
    tmp_path.mkdir(exist_ok=True)
    path.write_text(PLAN)
    plan = load_plan(path)
    outcomes = []
    for cell in make_cells(plan, path):
        directory = RunDirectory(tmp_path / cell.key)
        directory.path.mkdir(parents=True)
        directory.hospitals.write_text("")
        directory.metrics.write_text("")
        kid = (kids[cell.strategy] + cell.seed / 10) * (10 if cell.partition == "skewed" else 1)
        other = next((found for key, found in (changes or {}).items() if cell.key.startswith(key)), {})
        if other is None:
            outcomes.append(Outcome(cell, directory, None, "exit code 1: failed: it diverged"))
            continue
        scheme = cell.configuration.partition.scheme
        says = "the test images of each site"
        if scheme != "natural":
            says = f"training images of each hospital, since partition.scheme = {scheme}"
        directory.environment.write_text(json.dumps({"git_commit": other.get("commit", "abc")}))
        outcomes.append(
            Outcome(cell, directory, summary(kid, says, **{k: v for k, v in other.items() if k != "commit"}))
        )
    return Leaderboard.of(plan, Results(raw_rows(outcomes)), outcomes)


KIDS = {"fedgan": 1.0, "fedadam": 0.5, "centralised": 0.2}


def test_a_whole_benchmark_has_a_table_over_all_and_one_for_each_partition(tmp_path: Path) -> None:
    found = board(tmp_path, KIDS)
    assert found.places() == [("", ""), ("natural", "model"), ("skewed", "model")]
    lines = found.lines("", "")
    assert [(line.strategy, line.mean_rank, line.num_cells) for line in lines] == [
        ("centralised", 1.0, 4),
        ("fedadam", 2.0, 4),
        ("fedgan", 3.0, 4),
    ]
    assert lines[0].estimates["kid"].mean == pytest.approx((0.2 + 0.3 + 2 + 3) / 4)
    assert lines[0].estimates["seconds_federation"].mean == 12.0  # not what judging took
    text = markdown(found)
    assert "| strategy | rank | KID |" in text
    assert "by KID: halves of real images 0.01, a Gaussian of pixels 0.5" in text
    assert "lesion-cnn-32@00ff, 1,000 generated against 900 real images, 2 draws" in text
    # Four pairs and two comparisons: 2 x 2 / 2**4.
    assert (
        "## All cells\n\nNo strategy could have been told apart from fedgan by KID, whatever the figures are: with so "
        "few seeds the least p that was possible is 0.250, for 2 comparisons. That none is says nothing about the "
        "strategies; 4 seeds would be the least that can."
    ) in text
    assert "better in 4/4, p = 0.250 (least possible 0.250)" in text
    assert "## natural, model\n\nNo strategy could have been told apart" in text
    assert "in parentheses the values of seeds 0, 1, in this order, in the tables of one partition and model" in text
    assert "versions of the code" not in text
    for written in (render_page(found, []), tex(found)):
        assert "the least p that was possible is 0.250" in written
        assert "least possible 0.250" in written


def test_a_strategy_that_failed_is_never_best_and_says_on_how_many_cells_it_stands(tmp_path: Path) -> None:
    found = board(tmp_path, KIDS, {"centralised--skewed": None})  # type: ignore[dict-item]
    lines = {line.strategy: line for line in found.lines("", "")}
    # Its mean is of the easy cells alone, and the least of all.
    assert lines["centralised"].estimates["kid"].mean == pytest.approx(0.25)
    assert (lines["centralised"].num_cells, lines["centralised"].is_whole) == (2, False)
    assert lines["centralised"].mean_rank == 2.0
    assert found.order[0] == "fedadam"
    metric = next(metric for metric in found.metrics if metric.name == "kid")
    assert found.whole_best(list(lines.values()), metric) == lines["fedadam"].estimates["kid"].mean
    text = markdown(found)
    assert "| strategy | rank | cells | KID |" in text
    assert "Not every cell was finished: centralised 2/4" in text
    assert "Failed: centralised--skewed--model--seed-0: exit code 1: failed: it diverged" in text
    assert r"\textbf{" not in next(line for line in tex(found).splitlines() if line.startswith("centralised"))
    page = render_page(found, [])
    assert page.count("(best)</span>") == page.count('class="numeric best"') > 0


def test_figures_of_hospitals_are_not_averaged_over_different_kinds_of_images(tmp_path: Path) -> None:
    found = board(tmp_path, KIDS)
    assert "kid_site_worst" not in found.lines("", "")[0].estimates
    natural = {line.strategy: line for line in found.lines("natural", "model")}
    assert natural["fedgan"].estimates["kid_site_worst"].mean == pytest.approx(3.05)
    # The pooled images stand for no hospital where hospitals are not sites.
    skewed = {line.strategy: line for line in found.lines("skewed", "model")}
    assert "kid_site_worst" in skewed["fedgan"].estimates
    assert "kid_site_worst" not in skewed["centralised"].estimates
    assert "KID of hospitals is against other images in one partition than in another" in markdown(found)


def test_cells_of_different_extractors_are_not_averaged(tmp_path: Path) -> None:
    found = board(tmp_path, KIDS, {"fedadam--skewed": {"test": {"extractor": "inception-v3"}}})
    assert found.places() == [("natural", "model")]
    text = markdown(found)
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## natural, model"]
    assert "Cells of different extractors cannot be compared" in text
    assert 'id="cost"' not in render_page(found, [])
    assert 'id="ranks"' not in render_page(found, [])


def test_where_every_place_has_several_extractors_there_are_notes_alone(tmp_path: Path) -> None:
    both = {f"fedadam--{partition}": {"test": {"extractor": "inception-v3"}} for partition in ("natural", "skewed")}
    found = board(tmp_path, KIDS, both)
    assert found.places() == []
    assert "Cells of different extractors cannot be compared" in markdown(found)
    assert "cannot be compared" in tex(found)
    assert "cannot be compared" in render_page(found, [])
    assert csv_table(found).count("\n") == 1


def test_two_extractors_for_two_partitions_have_a_table_each(tmp_path: Path) -> None:
    skewed = {f"{name}--skewed": {"test": {"extractor": "inception-v3"}} for name in KIDS}
    assert board(tmp_path, KIDS, skewed).places() == [("natural", "model"), ("skewed", "model")]


def test_an_unequal_budget_and_mixed_versions_are_told(tmp_path: Path) -> None:
    found = board(tmp_path, KIDS, {"fedadam--natural--model--seed-1": {"images": 900, "commit": "def"}})
    text = markdown(found)
    assert "Not quite equal: fedadam had 900 images where fedgan had 1,000 (-10%), on natural, model, seed 1." in text
    assert "Cells ran on 2 versions of the code: abc, def." in text


def test_network_evaluations_stand_beside_images_and_are_a_budget(tmp_path: Path) -> None:
    counted = {"fedadam--natural--model--seed-1": {"evaluations": 2700}, "": {"evaluations": 3000}}
    found = board(tmp_path, KIDS, counted)
    metrics = [line.split(",")[4] for line in csv_table(found).splitlines() if line.startswith("all,all,fedadam")]
    assert metrics[-3:] == ["images", "evaluations", "recognised[mel]"]
    assert "network evaluations" not in render_page(found, [])
    for outcome in found.outcomes:
        line = {"round": 10, "images": 1000, "evaluations": 3000, "kid": 0.5}
        outcome.directory.metrics.write_text(json.dumps(line) + "\n")
    board_of_evaluations = Leaderboard.of(
        found.plan.model_copy(update={"budget": "evaluations"}), found.results, found.outcomes
    )
    text = markdown(board_of_evaluations)
    assert "Equal network evaluations. Hyper-parameters: untuned." in text
    assert "Not quite equal: fedadam had 2,700 network evaluations where fedgan had 3,000 (-10%), on natural" in text
    page = render_page(board_of_evaluations, [])
    assert "Over the network evaluations</h2>" in page
    assert "network evaluations in the whole federation" in page
    assert "images shown in the whole federation" in render_page(found, [])


def test_the_difference_to_the_baseline_stands_beside_kid(tmp_path: Path) -> None:
    found = board(tmp_path, KIDS | {"fedadam": 1.5})
    head, _, *rows = [line for line in markdown(found).splitlines() if line.startswith("|")]
    assert "| KID | KID − fedgan | recognised class |" in head
    assert {row.count("|") for row in rows[: len(KIDS)]} == {head.count("|")}
    text = tex(found).splitlines()
    begin = text.index(r"\toprule")
    assert r"KID $\downarrow$ & KID $-$ fedgan & " in text[begin + 1]
    assert text[begin + 1].count("&") + 1 == len(text[begin - 1].partition("tabular}{")[2].strip("}"))
    body = [line for line in text[begin:] if "&" in line]
    assert {line.count("&") for line in body} == {text[begin + 1].count("&")}
    difference = {line.strategy: line.differences["kid"].estimate for line in found.lines("", "") if line.differences}
    assert difference["centralised"].mean < 0 < difference["fedadam"].mean
    column = {line.split(" & ")[0]: line.split(" & ")[3] for line in body[1:]}
    assert column["fedgan"] == "--"
    assert column["centralised"].startswith(f"$-${-difference['centralised'].mean:.3f} {{\\scriptsize [$-$")
    assert column["fedadam"].startswith(f"+{difference['fedadam'].mean:.3f} {{\\scriptsize [")


def test_no_note_can_leave_the_comments_of_the_latex_file(tmp_path: Path) -> None:
    found = board(tmp_path, KIDS)
    text = tex(Leaderboard.of(found.plan.model_copy(update={"hyperparameters": "a\n\\input{b}"}), found.results, ()))
    lines = [line for line in text.splitlines() if "input{b}" in line]
    assert len(lines) == 1
    assert lines[0].startswith("% ")


def test_what_is_recognised_of_each_class_has_a_table_of_its_own(tmp_path: Path) -> None:
    found = board(tmp_path, KIDS)
    text = markdown(found)
    table = text.split("### Generated images recognised as the class that was asked for\n\n")[2].splitlines()
    # On natural hospitals, of the class that was asked for: 0.2 and 0.3 of a hundred.
    assert table[0] == "| strategy | mel |"
    assert table[2].startswith("| centralised | 0.003 (0.002, 0.003) [0.000, 0.009] |")
    assert "Generated images recognised as the class that was asked for: natural, model" in render_page(found, [])
    difference = next(
        line for line in csv_table(found).splitlines() if line.startswith("natural,model,fedadam,2.0,recognised[")
    )
    assert difference.split(",")[4] == "recognised[mel]"
    assert float(difference.split(",")[9]) == pytest.approx(-0.005)


def test_csv_has_every_table(tmp_path: Path) -> None:
    lines = csv_table(board(tmp_path, KIDS)).splitlines()
    assert lines[0].startswith("partition,model,strategy,mean_rank,metric,mean,low,high,cells,difference")
    assert {line.split(",")[0] for line in lines[1:]} == {"all", "natural", "skewed"}
    kid = next(line.split(",") for line in lines if line.startswith("natural,model,fedadam,2.0,kid,"))
    # Two seeds .1 apart: s / sqrt(2) is .05, and t of one degree of freedom 12.7062.
    half = 0.05 * 12.7062
    expected = [0.55, 0.55 - half, 0.55 + half, 2, -0.5, -0.5, -0.5, 2]
    assert [float(value) for value in kid[5:13]] == pytest.approx(expected, abs=1e-5)
    # Better in two of two; p and the least that was possible, of two comparisons; nothing is known of real images.
    assert kid[13:] == ["2", "1.0", "1.0", ""]


REAL = {
    "test": {
        "precision": 0.99, "recall": 0.1, "real": {"kid": 0.001, "precision": 0.83, "recall": 0.8},
        "per_site": [
            {"name": "a", "kid": 1.5, "real_kid": 0.25, "all_real_kid": 1.25},
            {"name": "b", "kid": 2.0, "real_kid": 1.5, "all_real_kid": 1.5},
        ],
    },
    "utility": {
        "arms": {"real": {"balanced_accuracy": {"mean": 0.56}, "sensitivity": {"mel": {"mean": 0.7}}}},
        "recognised": {"mean": {"mean": 0.9}, "share": {"mel": {"mean": 1.0}}},
    },
    "authenticity": {
        "auth_pct": 98.9, "auth_pct_control": 73.9,
        "membership": {"generator": {"auc": 0.6}, "null_control": {"auc": 0.51}},
    },
}  # fmt: skip


def test_what_junk_has_most_of_is_read_against_real_images_and_never_best(tmp_path: Path) -> None:
    """AuthPct, precision and recognised classes are highest for junk: no bold, no arrow, no wins."""
    found = board(tmp_path, KIDS, {"": REAL})
    text = tex(found)
    head = next(line for line in text.splitlines() if line.startswith("strategy"))
    assert r"recall $\uparrow$" in head
    for label in ("precision", "recognised class", "authentic, \\%"):
        assert f"{label} &" in head
    assert r"\textbf{98.9}" not in text
    assert r"\textbf{0.990}" not in text
    assert r"\textbf{0.100}" in text  # recall
    assert r"\textbf{1.000}" not in render_page(found, [])
    for line in found.lines("", ""):
        for name in ("authentic", "precision", "recognised", "recognised[mel]", "membership_auc"):
            assert name in line.estimates
            if name in line.differences:
                assert (line.differences[name].wins, line.differences[name].p_value) == (None, None)
    # The control stands in a line of its own.
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in markdown(found).splitlines() if "|" in row]
    real = dict(zip(rows[0], next(row for row in rows if row[0] == "*real images*"), strict=True))
    assert real["authentic, %"] == "73.9"
    assert (real["KID"], real["precision"], real["recall"]) == ("0.001", "0.830", "0.800")
    assert (real["recognised class"], real["KID − fedgan"], real["rank"]) == ("0.560", "–", "–")
    assert next(row for row in rows if row[0] == "*real images*" and len(row) == 2) == ["*real images*", "0.700"]
    page = render_page(found, [])
    assert page.count('<tr class="real"><th scope="row">real images</th>') == 2 * len(found.places())
    assert "real images & -- & 0.001 & -- &" in text
    # Where no cell says it, as of earlier versions, there is no such line.
    assert "*real images*" not in markdown(board(tmp_path / "old", KIDS))


def test_a_hospital_is_judged_above_what_its_own_real_images_get(tmp_path: Path) -> None:
    """Which hospital is worst by KID itself is largely a matter of the hospital: b, whose own images score 1.5."""
    found = board(tmp_path, KIDS, {"": REAL})
    lines = {line.strategy: line for line in found.lines("natural", "model")}
    assert lines["fedgan"].estimates["kid_site_worst"].mean == 2.0
    assert lines["fedgan"].estimates["kid_site_excess_worst"].mean == 1.25  # at a
    assert lines["fedgan"].estimates["kid_site_excess_mean"].mean == (1.25 + 0.5) / 2
    by_name = {metric.name: metric for metric in found.metrics}
    # All hospitals' real images score 1 above a's own, and nothing above b's.
    assert found.of_real_images(by_name["kid_site_excess_worst"], "natural", "model") == 1.0
    assert found.of_real_images(by_name["kid_site_excess_mean"], "natural", "model") == 0.5
    assert found.of_real_images(by_name["kid_site_worst"], "natural", "model") == 1.5
    text = markdown(found)
    assert "| KID above own real images, worst hospital |" in text
    assert "| KID, worst hospital |" not in text
    # Cells of earlier versions do not know it, and stand as they did.
    older = markdown(board(tmp_path / "old", KIDS))
    assert "| KID, worst hospital |" in older
    assert "above own real images" not in older
    rows = {(row.metric, row.value) for row in raw_rows(found.outcomes) if row.partition == "natural"}
    assert {("kid_site_excess[a]", 1.25), ("kid_site_excess[b]", 0.5), ("real[kid_site[a]]", 0.25)} <= rows


def test_what_hospitals_gain_is_a_column(tmp_path: Path) -> None:
    def hospital(name: str, gain: float, judged: object = True) -> dict[str, Any]:
        return {"name": name, "judged": judged, "gain": {"common": {"balanced_accuracy": {"mean": gain}}}}

    gain = {"hospitals": [hospital("a", 0.05), hospital("b", -0.02), hospital("c", 0.5, "its images are of one class")]}
    found = board(tmp_path, KIDS, {"": {"gain": gain}})
    lines = {line.strategy: line for line in found.lines("natural", "model")}
    assert lines["fedgan"].estimates["gain_mean"].mean == pytest.approx(0.015)
    assert lines["fedgan"].estimates["gain_worst"].mean == -0.02
    assert "a hospital's gain, least" in markdown(found)
    rows = {(row.metric, row.value) for row in raw_rows(found.outcomes) if row.partition == "natural"}
    assert {("gain[a]", 0.05), ("gain[b]", -0.02)} <= rows
    assert not any(row.metric == "gain[c]" for row in raw_rows(found.outcomes))
