"""A study's tables as a page, and as Markdown: the same tables, and the same sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from server.evaluation.mixes import MIXES, REAL
from server.study.results import (
    ALL_CLASSES,
    COSTS,
    FIDELITY,
    FIGURE_WORDS,
    Column,
    StudyResults,
    fidelity_sentences,
    mix_sentences,
    written,
)

REAL_IMAGES = "real images"


@dataclass(frozen=True)
class ShownTable:
    """A table as it is shown."""

    title: str
    heads: Sequence[str]
    rows: list[tuple[str, list[tuple[str, str]]]]
    """A name, and of each cell its text and what stands beside it in small print."""
    note: str = ""
    said: list[str] = field(default_factory=list)
    """What it shows, in words; before it."""


def shown_tables(results: StudyResults) -> Iterator[ShownTable]:
    """Yield the tables of a study."""
    for table in results.plan.tables:
        if not results.lines(table):
            continue
        yield _plain(
            results, table, f"{table}: fidelity and diversity", FIDELITY, said=list(fidelity_sentences(results, table))
        )
        if hospitals := results.hospitals(table):
            images, real = results.which_images(table)
            note = (
                f"Against {images}. Of hospitals alone, each one's own generator against its own. Real images are "
                f"a hospital's own. {real}"
            )
            yield _plain(results, table, f"{table}: KID by hospital", hospitals, note=note)
        yield _plain(results, table, f"{table}: cost", COSTS, note="Of hospitals alone, of all of them together.")
        for network in results.networks(table):
            for figure in ("auroc", "f1", "balanced_accuracy"):
                yield _of_mixes(results, table, network, figure)
        conditional = [line for line in results.lines(table) if line[1] == "conditional"]
        if any(results.figure(table, line, ALL_CLASSES[0]) for line in conditional):
            yield _plain(
                results,
                table,
                f"{table}: classifiers of all classes, balanced accuracy",
                ALL_CLASSES,
                lines=conditional,
                note="Of conditional generators: a pair does not know the classes of the rest. Intervals are "
                "Student's over seeds: the choice of test lesions is not in them.",
            )


def _plain(
    results: StudyResults,
    table: str,
    title: str,
    columns: Sequence[Column],
    *,
    lines: Sequence[tuple[str, str]] | None = None,
    note: str = "",
    said: list[str] | None = None,
) -> ShownTable:
    shown = results.lines(table) if lines is None else lines
    rows = [
        (f"{regime}, {kind}", [written(results.figure(table, (regime, kind), column), column) for column in columns])
        for regime, kind in shown
    ]
    real = [results.real(table, column) for column in columns]
    if any(value is not None for value in real):
        cells = [
            ("–" if value is None else format(value, f",.{column.digits}f"), "")
            for value, column in zip(real, columns, strict=True)
        ]
        rows.append((REAL_IMAGES, cells))
    return ShownTable(title, [column.label for column in columns], rows, note, said or [])


def _of_mixes(results: StudyResults, table: str, network: str, figure: str) -> ShownTable:
    column = Column(figure, FIGURE_WORDS[figure], 3)
    rows = []
    for line in results.lines(table):
        cells = []
        for mix in MIXES:
            text, beside = written(results.mix(table, line, network, mix, figure), column)
            above = None
            if mix != REAL:
                above = results.mix(table, line, network, mix, figure, above_real=True)
            if above is not None:
                ends = "" if above.interval is None else f" [{above.interval[0]:+.3f}, {above.interval[1]:+.3f}]"
                beside = f"{beside}; " if beside else ""
                beside += f"{above.mean:+.3f}{ends} to real"
            cells.append((text, beside))
        if any(text != "–" for text, _ in cells):
            rows.append((", ".join(line), cells))
    classifier = next(
        row.record["generators"][0]["classifiers"][network]
        for row in results.rows
        if row.table == table and network in row.record["generators"][0]["classifiers"]
    )
    return ShownTable(
        f"{table}: {results.against[table]} against the rest, {FIGURE_WORDS[figure]}, {network}",
        list(MIXES),
        rows,
        f"{classifier}, {results.plan.classifiers[network].steps} steps. "  # type: ignore[index]
        + "; ".join(f"{name}: {words}" for name, words in MIXES.items())
        + ".",
        list(mix_sentences(results, table, network)) if figure == "auroc" else [],
    )


def notes(results: StudyResults) -> list[str]:
    """Say how the tables are to be read."""
    return [
        "A mean over seeds, of hospitals alone over hospitals too; in brackets each seed's value and a 95 % interval. "
        "Of fidelity, diversity and cost it is Student's over seeds; of classifiers of one class against the rest it "
        "holds the choice of test lesions too, and with one seed that alone.",
        "An interval is of one comparison: of twenty, one is beyond its own by chance. Two are told apart by KID where "
        "both extractors do.",
        "Conditional: one generator of all classes. Unconditional: one generator of "
        f"{' or '.join(dict.fromkeys(results.against.values()))} and one of the rest, each with half the images.",
        "Real images: training images in the generator's place, against the same test images.",
        "F1 is of the class, at the threshold that is best on validation images. Test images are looked at once, and "
        "no lesion is on two sides.",
    ]


def markdown(results: StudyResults) -> str:
    """Return the tables as Markdown."""
    parts = [f"# {results.plan.name}", "\n".join(f"- {note}" for note in notes(results))]
    for table in shown_tables(results):
        parts.append(f"## {table.title}")
        if table.said:
            parts.append("\n".join(f"- {sentence}" for sentence in table.said))
        rows = [["", *table.heads], ["---"] * (len(table.heads) + 1)]
        rows += [[name, *(" ".join(part for part in cell if part) for cell in cells)] for name, cells in table.rows]
        parts.append("\n".join("| " + " | ".join(row) + " |" for row in rows))
        if table.note:
            parts.append(table.note)
    return "\n\n".join(parts) + "\n"


_TEMPLATE = r"""
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ name }} · dermafed study</title>
<link rel="icon" href="data:,">
<style>{{ stylesheet }}
thead th.numeric { white-space: normal; vertical-align: bottom; max-width: 8rem; }
.table-box th:first-child { position: sticky; left: 0; z-index: 1; background: var(--page); white-space: nowrap; }
.table-box td small { white-space: normal; min-width: 7rem; display: block; }
</style>
</head>
<body>
<header class="page-head">
<p class="kicker">dermafed · comparative study</p>
<h1>{{ name }}</h1>
<dl class="facts">
{% for label, words in facts %}
<div><dt>{{ label }}</dt><dd>{{ words }}</dd></div>
{% endfor %}
</dl>
</header>
<main id="main">
<section aria-labelledby="said">
<h2 id="said">How to read this</h2>
<ul>{% for note in notes %}<li>{{ note }}</li>{% endfor %}</ul>
</section>
{% for table in tables %}
<section aria-labelledby="table-{{ loop.index }}">
<h2 id="table-{{ loop.index }}">{{ table.title }}</h2>
{% if table.said %}<ul>{% for sentence in table.said %}<li>{{ sentence }}</li>{% endfor %}</ul>{% endif %}
<div class="table-box" role="region" tabindex="0" aria-labelledby="table-{{ loop.index }}">
<table>
<thead><tr><th scope="col"></th>{% for head in table.heads %}<th scope="col" class="numeric">{{ head }}</th>{% endfor %}
</tr></thead>
<tbody>
{% for name, cells in table.rows %}
<tr><th scope="row">{{ name }}</th>
{% for text, beside in cells %}<td class="numeric">{{ text }}{% if beside %}<small>{{ beside }}</small>{% endif %}</td>
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table>
</div>
{% if table.note %}<p class="note">{{ table.note }}</p>{% endif %}
</section>
{% endfor %}
</main>
</body>
</html>
"""


def render_page(results: StudyResults, facts: list[tuple[str, str]]) -> str:
    """Return the page. `facts` are its head: date, machine, command."""
    import jinja2

    from server.report.stylesheet import STYLESHEET

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    values: dict[str, Any] = {
        "stylesheet": Markup(STYLESHEET),
        "name": results.plan.name,
        "facts": facts,
        "notes": notes(results),
        "tables": list(shown_tables(results)),
    }
    page: str = environment.from_string(_TEMPLATE).render(values)
    return page.lstrip()
