"""Pictures of numbers, as svg that takes the page's colours and its fonts."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from server.report.numerals import figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Drawn in these, which the page then replaces by its own, light or dark.
INK, MUTED, RULE, SURFACE = "#010101", "#020202", "#030303", "#040404"
SERIES = tuple(f"#0500{index:02x}" for index in range(8))
_PAGE_COLOURS = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    SURFACE: "var(--surface)",
    **{colour: f"var(--series-{index + 1})" for index, colour in enumerate(SERIES)},
}
# Told apart without their colours: no two of the first 24 series share marker and line.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_LINES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)))
_YARDSTICK_LINES: tuple[Any, ...] = ((0, (6, 2)), (0, (3, 2)), (0, (1, 2)), (0, (6, 2, 1, 2)), (0, (8, 3, 1, 3, 1, 3)))
_MOST_MARKED = 40

Points = Sequence[tuple[int, float | None]]
"""Round and value; None where it was not measured."""
KnownPoints = Sequence[tuple[int, float]]
"""Round and value of what was measured."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A drawing with its words."""

    name: str
    """Part of the element's id."""
    title: str
    svg: Markup
    text: str
    """What it shows, for who does not see it."""
    caption: str = ""


@dataclass(frozen=True)
class Estimate:
    """A figure with an interval, in a row of :func:`draw_estimates`."""

    label: str
    value: float
    interval: tuple[float, float] | None = None
    is_main: bool = True
    """Whether it is what the picture is about; else what that is compared with."""


def draw_curves(
    name: str,
    title: str,
    series: Mapping[str, Points],
    *,
    is_logarithmic: bool = False,
    lines: Mapping[str, float] | None = None,
    caption: str = "",
) -> Picture | None:
    """Draw series over rounds.

    Parameters
    ----------
    name, title, caption
        See :class:`Picture`.
    series
        By label.
    is_logarithmic
        A logarithmic axis. What is not positive is drawn at its lower end, as a triangle.
    lines
        Yardsticks by label, drawn as lines across.

    Returns
    -------
    None where no series holds a number.
    """
    known = {label: [(x, y) for x, y in points if y is not None] for label, points in series.items()}
    known = {label: points for label, points in known.items() if points}
    if not known:
        return None
    across = dict(lines or {})
    with drawing(4.5, 3.0 + 0.17 * ((len(known) if len(known) > 1 else 0) + len(across)) / 2) as (canvas, axes):
        floor = _set_logarithmic_rounds(axes, known, across) if is_logarithmic else None
        _plot_series(axes, known, floor)
        _plot_yardsticks(axes, across, floor)
        _style_rounds(axes, [x for points in known.values() for x, _ in points])
        if len(known) > 1 or across:
            canvas.legend(
                loc="outside lower left", ncols=2, frameon=False, fontsize=10, labelcolor=INK, handlelength=3.2
            )
        svg = to_svg(canvas, name, title)
    notes = [caption] if caption else []
    hidden = [f"{label} ({figure(y)})" for label, y in across.items() if is_logarithmic and y <= 0]
    if hidden:
        notes.append(f"Not above zero, and so below this axis: {', '.join(hidden)}.")
    if floor is not None and any(y <= 0 for points in known.values() for _, y in points):
        notes.append("Triangles at the lower edge: values that are not above zero.")
    return Picture(name=name, title=title, svg=svg, text=_describe(known, across), caption=" ".join(notes))


def _set_logarithmic_rounds(axes: Axes, series: Mapping[str, KnownPoints], lines: Mapping[str, float]) -> float | None:
    """Make the upright axis logarithmic; return its lower end, or None where nothing is above zero."""
    axes.set_yscale("log")
    positive = [y for points in series.values() for _, y in points if y > 0]
    positive += [y for y in lines.values() if y > 0]
    if not positive:
        return None
    low, high = min(positive), max(positive)
    floor = low / (high / low) ** 0.06 / 1.15
    axes.set_ylim(floor, high * (high / low) ** 0.06 * 1.15)
    plain_decades(axes.yaxis)
    return floor


def _plot_series(axes: Axes, series: Mapping[str, KnownPoints], floor: float | None) -> None:
    """Plot each series; on a logarithmic axis with its lower end `floor`, what is not positive as a triangle there."""
    for index, (label, points) in enumerate(series.items()):
        colour = SERIES[index % len(SERIES)]
        axes.plot(
            [x for x, _ in points],
            [y if floor is None else max(y, floor) for _, y in points],
            color=colour,
            linestyle=_LINES[index // len(MARKERS) % len(_LINES)] if len(series) > 8 else _LINES[index % 3],
            marker=MARKERS[index % len(MARKERS)],
            markersize=4 if len(points) <= _MOST_MARKED else 0,
            linewidth=1.6,
            label=label,
        )
        below = [x for x, y in points if y <= 0]
        if floor is not None and below:
            axes.plot(
                below, [floor] * len(below), color=colour, marker="v", markersize=8, linestyle="", clip_on=False,
                markerfacecolor=SURFACE,
            )  # fmt: skip


def _plot_yardsticks(axes: Axes, lines: Mapping[str, float], floor: float | None) -> None:
    """Plot lines across; on a logarithmic axis with its lower end `floor`, only what is positive has a place."""
    for index, (label, y) in enumerate(lines.items()):
        if floor is not None and y <= 0:
            continue
        axes.axhline(
            y,
            color=MUTED,
            linewidth=1.1,
            linestyle=_YARDSTICK_LINES[index % len(_YARDSTICK_LINES)],
            label=f"{label} ({figure(y)})",
        )


def draw_estimates(
    name: str,
    title: str,
    rows: Sequence[Estimate],
    *,
    axis: str,
    is_logarithmic: bool = False,
    reference: tuple[str, float] | None = None,
    caption: str = "",
) -> Picture | None:
    """Draw figures with their intervals, a row each.

    Parameters
    ----------
    name, title, caption
        See :class:`Picture`.
    rows
        From top to bottom.
    axis
        What is measured.
    is_logarithmic
        See :func:`draw_curves`.
    reference
        A label and a value, drawn as a line.
    """
    if not rows:
        return None
    with drawing(4.9, 0.85 + 0.31 * len(rows) + (0.2 if reference else 0)) as (canvas, axes):
        floor = _set_logarithmic_estimates(axes, rows) if is_logarithmic else None
        for place, row in enumerate(rows):
            _plot_estimate(axes, place, row, floor)
        _label_rows(axes, rows)
        if reference is not None:
            axes.axvline(reference[1], color=INK, linewidth=1.1, linestyle=(0, (4, 2)))
            axes.set_title(f"- - {reference[0]}", fontsize=9.5, color=MUTED, loc="left", pad=5)
        axes.set_xlabel(axis, color=MUTED, fontsize=10)
        axes.grid(axis="x", color=RULE, linewidth=0.7)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
        svg = to_svg(canvas, name, title)
    clipped = floor is not None and any(row.value <= 0 for row in rows)
    note = "An arrow at the left edge: a value that is not above zero." if clipped else ""
    return Picture(
        name=name,
        title=title,
        svg=svg,
        text=_describe_estimates(rows, axis, reference),
        caption=" ".join(part for part in (caption, note) if part),
    )


def _set_logarithmic_estimates(axes: Axes, rows: Sequence[Estimate]) -> float | None:
    """Make the level axis logarithmic; return its lower end, or None, and the axis as it was, if none is above zero."""
    positive = [row.value for row in rows if row.value > 0]
    if not positive:
        return None
    axes.set_xscale("log")
    low, high = min(positive), max(positive)
    pad = max(1.6, (high / low) ** 0.08)
    floor = low / pad
    axes.set_xlim(floor, high * pad)
    plain_decades(axes.xaxis)
    return floor


def _plot_estimate(axes: Axes, place: int, row: Estimate, floor: float | None) -> None:
    """Plot a row; on a logarithmic axis with its lower end `floor`, a value that is not positive as an arrow there."""
    colour = SERIES[0] if row.is_main else MUTED
    at, marker = row.value, "D" if row.is_main else "o"
    if floor is not None and at <= 0:
        at, marker = floor, "<"
    if row.interval is not None:
        low, high = (end if floor is None else max(end, floor) for end in row.interval)
        axes.plot([low, high], [place, place], color=colour, linewidth=2.4, solid_capstyle="butt")
    axes.plot(
        [at],
        [place],
        marker=marker,
        markersize=6.5,
        color=colour,
        markerfacecolor=colour if row.is_main else SURFACE,
        linestyle="",
        clip_on=False,
    )


def _label_rows(axes: Axes, rows: Sequence[Estimate]) -> None:
    """Write each row's label at the left and its number at the right."""
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
        if row.is_main:
            tick.set_fontweight("bold")
    # The numbers stand at the right, in a column of their own.
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(len(rows)), [figure(row.value) for row in rows])
    right.tick_params(axis="y", length=0, labelsize=10, labelcolor=INK)
    right.spines["right"].set_visible(False)


def _describe_estimates(rows: Sequence[Estimate], axis: str, reference: tuple[str, float] | None) -> str:
    spoken = [
        f"{row.label} {figure(row.value)}"
        + ("" if row.interval is None else f" ({figure(row.interval[0])} to {figure(row.interval[1])})")
        for row in rows
    ]
    beside = "" if reference is None else f" The line is {reference[0]}, {figure(reference[1])}."
    return f"{axis}: {'; '.join(spoken)}.{beside}"


def _style_rounds(axes: Axes, rounds: Sequence[int]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    if min(rounds) == max(rounds):
        axes.set_xlim(rounds[0] - 1, rounds[0] + 1)
    axes.set_xlabel("round", color=MUTED, fontsize=10)
    axes.grid(axis="y", color=RULE, linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)


def plain_decades(axis: Axis) -> None:
    """Write 0.01, 1, 1,000 on a logarithmic axis: powers of ten would need a formula's fonts."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    few = high / low < 20
    axis.set_major_locator(LogLocator(numticks=6, subs=(1, 2, 5) if few else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


@contextmanager
def drawing(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """Give a figure of so many inches, with axes in the page's colours; without pyplot, which is global."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "dermafed",  # the same run, the same bytes
        "text.parse_math": False,  # A "$" in a name is a "$".
        "font.size": 10.5,
        "axes.unicode_minus": True,
        "axes.edgecolor": RULE,
        "axes.labelcolor": MUTED,
        "xtick.color": RULE,
        "ytick.color": RULE,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "text.color": INK,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
    }
    with rc_context(settings), warnings.catch_warnings():
        # A name may be in letters that matplotlib's own font lacks; the page's fonts draw it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        canvas = Figure(figsize=(width, height), layout="constrained")
        yield canvas, canvas.subplots()


def to_svg(canvas: Figure, name: str, title: str) -> Markup:
    """Return an svg element for the page: without size, with ids of its own, coloured by the page."""
    buffer = io.StringIO()
    canvas.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    # A style element here would hold for the whole page; the page has the rule itself.
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    head = re.match(r"<svg[^>]*>", svg)
    assert head is not None
    box = re.search(r'viewBox="([^"]*)"', head.group())
    assert box is not None
    body = svg[head.end() :].replace("xlink:href", "href")
    body = re.sub(r'\bid="([^"]*)"', rf'id="{name}-\1"', body)
    body = body.replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    body = re.sub(r"font: ((?:[a-z0-9]+ )*?)([\d.]+px) [^;\"]*", r"font: \1\2 var(--sans)", body)
    for drawn, shown in _PAGE_COLOURS.items():
        body = body.replace(drawn, shown)
    width = float(box.group(1).split()[2])
    opening = (
        f'<svg role="img" aria-labelledby="{name}-title {name}-text" viewBox="{box.group(1)}" '
        f'style="max-width:{width * 1.25:.0f}px">'
    )
    del title  # It stands beside the drawing, and names it there.
    return Markup(opening + body)


def _describe(series: Mapping[str, KnownPoints], lines: Mapping[str, float]) -> str:
    sentences = []
    for label, points in series.items():
        (first, start), (last, end) = points[0], points[-1]
        if first == last:
            sentences.append(f"{label}: {figure(end)} at round {last}.")
            continue
        values = [y for _, y in points]
        sentences.append(
            f"{label}: {figure(start)} at round {first}, {figure(end)} at round {last}, "
            f"between {figure(min(values))} and {figure(max(values))}."
        )
    if lines:
        sentences.append("Lines: " + ", ".join(f"{label} {figure(y)}" for label, y in lines.items()) + ".")
    return " ".join(sentences)
