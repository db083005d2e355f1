"""Pictures of a benchmark: who is best, who beats whom, what quality costs, and how it was reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from data_partitions.wording import counted
from federation.run_directory import read_lines
from server.benchmark.cells import Outcome
from server.benchmark.figures import METRICS
from server.benchmark.leaderboard import Leaderboard
from server.benchmark.statistics import estimate
from server.report.curves import MARKERS, MUTED, RULE, SERIES, Picture, drawing, plain_decades, to_svg
from server.report.numerals import figure

_KID = METRICS[0]
_BYTES = next(metric for metric in METRICS if metric.name == "megabytes")


def _marker(index: int) -> str:
    """Return another marker where colours begin anew."""
    return MARKERS[(index + index // len(SERIES)) % len(MARKERS)]


def _is_comparable(board: Leaderboard) -> bool:
    """Say whether the cells of each partition and model were judged by one extractor."""
    places = [(partition, model) for partition in board.plan.partitions for model in board.plan.models]
    return all(len(board.extractors(*place)) < 2 for place in places)


def rank_picture(board: Leaderboard) -> Picture | None:
    """Draw the mean rank of each strategy by KID with its interval over cells."""
    ranks = board.results.ranks(_KID, board.order)
    if len(ranks) < 2 or not _is_comparable(board):
        return None
    from matplotlib.ticker import MaxNLocator

    names = [name for name in board.order if name in ranks]
    found = {name: estimate(ranks[name], (1.0, float(len(names)))) for name in names}
    with drawing(6.4, 0.9 + 0.3 * len(names)) as (canvas, axes):
        for row, name in enumerate(names):
            low, high = found[name].interval or (found[name].mean, found[name].mean)
            axes.plot([low, high], [row, row], color=SERIES[0], linewidth=2.2, solid_capstyle="round")
            axes.plot([found[name].mean], [row], marker="o", color=SERIES[0], markersize=7)
            each = list(ranks[name].values())
            axes.scatter(each, [row + 0.27] * len(each), s=9, color=MUTED, linewidths=0)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlim(0.7, len(names) + 0.3)
        axes.set_xlabel("rank by KID, 1 is best")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="x", color=RULE, linewidth=0.6)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        cells = len(ranks[names[0]])
        return Picture(
            name="ranks",
            title="Ranks",
            svg=to_svg(canvas, "ranks", "Ranks"),
            text=". ".join(f"{name}: mean rank {found[name].mean:.2f}" for name in names) + ".",
            caption=f"Mean over {counted(cells, 'cell')} and 95 % t interval; small dots are the cells.",
        )


def win_picture(board: Leaderboard) -> Picture | None:
    """Draw in how many cells each strategy has a better KID than each other."""
    rates = board.results.win_rates(_KID, board.order)
    names = [name for name in board.order if any(name in pair for pair in rates)]
    if len(names) < 2 or not _is_comparable(board):
        return None
    size = len(names)
    with drawing(1.9 + 0.45 * size, 1.7 + 0.36 * size) as (canvas, axes):
        for row, first in enumerate(names):
            for column, second in enumerate(names):
                rate = rates.get((first, second))
                if rate is None:
                    continue
                # An area says how often: colours alone would have to be told apart on any ground.
                axes.scatter([column], [row], s=30 + 330 * rate, color=SERIES[0], alpha=0.25, linewidths=0)
                axes.text(column, row, f"{100 * rate:.0f}", ha="center", va="center", fontsize=9)
        axes.set_xticks(range(size), names, rotation=90)
        axes.set_yticks(range(size), names)
        axes.set_xlim(-0.6, size - 0.4)
        axes.set_ylim(size - 0.4, -0.6)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        # Read out row by row, as the picture is looked at.
        said = [
            f"{first} against {second}: {100 * rates[first, second]:.0f} %"
            for row, first in enumerate(names)
            for second in names[row + 1 :]
            if (first, second) in rates
        ]
        return Picture(
            name="wins",
            title="Win rates",
            svg=to_svg(canvas, "wins", "Win rates"),
            text="; ".join(said) + ".",
            caption="Per cent of the cells in which the strategy of the row has the better KID; a draw is half.",
        )


def cost_picture(board: Leaderboard) -> Picture | None:
    """Draw KID against the bytes that were sent."""
    points = {}
    for name in board.order:
        kid, megabytes = board.results.estimate(_KID, name), board.results.estimate(_BYTES, name)
        if kid is not None and megabytes is not None:
            points[name] = (megabytes.mean, kid)
    if len(points) < 2 or ("", "") not in board.places():
        return None
    sending = [sent for sent, _ in points.values() if sent > 0]
    floor = min(sending) / 3 if sending else 1.0
    # An interval of few seeds may reach below zero, where a logarithmic axis has no place.
    is_log = all(kid.mean > 0 for _, kid in points.values())
    least = min(kid.mean for _, kid in points.values()) / 3
    # Most strategies send as much as the baseline: those of one place stand side by side.
    places: dict[str, list[str]] = {}
    for name, (sent, _) in points.items():
        places.setdefault(f"{max(sent, floor):.2g}", []).append(name)
    with drawing(6.4, 4.2) as (canvas, axes):
        for index, (name, (sent, found)) in enumerate(points.items()):
            colour, marker = SERIES[index % len(SERIES)], _marker(index)
            beside = places[f"{max(sent, floor):.2g}"]
            x = max(sent, floor) * 10 ** (0.02 * (beside.index(name) - (len(beside) - 1) / 2))
            if found.interval is not None:
                low, high = found.interval
                axes.plot([x, x], [max(low, least) if is_log else low, high], color=colour, linewidth=1.2)
            filling = "none" if sent == 0 else colour
            axes.plot(
                [x],
                [found.mean],
                marker=marker,
                color=colour,
                markersize=7,
                markerfacecolor=filling,
                linestyle="none",
                label=name,
            )
        axes.set_xscale("log")
        plain_decades(axes.xaxis)
        if is_log:
            axes.set_yscale("log")
            plain_decades(axes.yaxis)
        low, high = axes.get_xlim()
        if high < 10 * low:
            # A whole decade, so that what stands side by side does not look like other numbers of bytes.
            axes.set_xlim((low * high / 10) ** 0.5, (low * high * 10) ** 0.5)
        axes.set_xlabel("MB sent in the whole run")
        axes.set_ylabel("KID")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
        return Picture(
            name="cost",
            title="Quality against bytes",
            svg=to_svg(canvas, "cost", "Quality against bytes"),
            text=". ".join(f"{name}: KID {figure(kid.mean)} for {sent:,.0f} MB" for name, (sent, kid) in points.items())
            + ".",
            caption="Mean over all cells, 95 % t intervals"
            + (", cut at a third of the least mean" if is_log else "")
            + "; hollow: nothing was sent. Those that send equally much stand side by side.",
        )


def curve_pictures(board: Leaderboard) -> list[Picture]:
    """Draw KID on validation images over :func:`shown_over`, mean over seeds, for each partition and model."""
    found = []
    shown = shown_over(board)
    for partition, model in [(p, m) for p in board.plan.partitions for m in board.plan.models]:
        curves = _curves([o for o in board.outcomes if (o.cell.partition, o.cell.model) == (partition, model)], shown)
        curves = {name: curves[name] for name in board.order if name in curves}
        if not curves:
            continue
        name = f"curve-{partition}-{model}".replace(".", "_")
        with drawing(6.4, 4.0 + 0.1 * len(curves)) as (canvas, axes):
            for index, (strategy, points) in enumerate(curves.items()):
                axes.plot(
                    [x for x, _ in points],
                    [y for _, y in points],
                    color=SERIES[index % len(SERIES)],
                    linestyle=("-", (0, (5, 2)), (0, (1, 1.5)))[index // len(SERIES) % 3],
                    marker=_marker(index),
                    markersize=4,
                    linewidth=1.4,
                    label=strategy,
                )
            if all(y > 0 for points in curves.values() for _, y in points):
                axes.set_yscale("log")
                plain_decades(axes.yaxis)
            axes.set_xlabel(f"{_SHOWN[shown]} in the whole federation")
            axes.set_ylabel("KID, validation")
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(frameon=False, fontsize=8, ncols=2)
            found.append(
                Picture(
                    name=name,
                    title=f"{partition}, {model}",
                    svg=to_svg(canvas, name, partition),
                    text=". ".join(f"{key}: {figure(points[-1][1])} at the end" for key, points in curves.items()),
                    caption="Mean over seeds of KID on validation images.",
                )
            )
    return found


_SHOWN = {"images": "images shown", "evaluations": "network evaluations"}


def shown_over(board: Leaderboard) -> str:
    """Return what curves are drawn over: ``evaluations`` where they are the budget, else ``images``."""
    return "evaluations" if board.plan.budget == "evaluations" else "images"


def curves_title(board: Leaderboard) -> str:
    """Return the heading of the curves."""
    return f"Over the {_SHOWN[shown_over(board)]}"


def _curves(outcomes: Sequence[Outcome], shown: str) -> Mapping[str, list[tuple[float, float]]]:
    """Return for each strategy what was shown and mean KID, where every seed was evaluated; round 0 is left out."""
    by_strategy: dict[str, list[dict[int, tuple[float, float]]]] = {}
    for outcome in outcomes:
        if outcome.summary is None:
            continue
        lines = read_lines(outcome.directory.metrics)
        by_strategy.setdefault(outcome.cell.strategy, []).append(
            {line["round"]: (line[shown], line["kid"]) for line in lines if line["round"] and line.get("kid")}
        )
    curves = {}
    for strategy, runs in by_strategy.items():
        common = set.intersection(*(set(run) for run in runs))
        points = [tuple(np.mean([run[number] for run in runs], axis=0).tolist()) for number in sorted(common)]
        if points:
            curves[strategy] = points
    return curves
