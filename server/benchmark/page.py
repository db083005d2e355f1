"""The page of a benchmark: one file, everything inside, nothing fetched."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from server.benchmark.figures import Metric
from server.benchmark.leaderboard import (
    BY_CLASS_TITLE,
    Leaderboard,
    Line,
    beside_kid,
    difference_head,
    difference_text,
    estimate_text,
    leading_cells,
    leading_heads,
    shown_metrics,
    some_failed,
    title,
)
from server.benchmark.pictures import cost_picture, curve_pictures, curves_title, rank_picture, win_picture

TEMPLATE = r"""
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ name }} · dermafed benchmark</title>
<link rel="icon" href="data:,">
<style>{{ stylesheet }}
td.best { font-weight: 700; }
thead th.numeric { white-space: normal; vertical-align: bottom; max-width: 6.5rem; }
.table-box th:first-child { position: sticky; left: 0; z-index: 1; background: var(--page); white-space: nowrap; }
</style>
</head>
<body>
<header class="page-head">
<p class="kicker">dermafed · benchmark of strategies</p>
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
<div class="table-box" role="region" tabindex="0" aria-labelledby="table-{{ loop.index }}">
<table>
<thead><tr>{% for head in table.heads %}<th scope="col"{% if not loop.first %} class="numeric"{% endif %}>
{{- head }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in table.rows %}
<tr><th scope="row">{{ row.name }}</th>
{% for cell in row.cells %}<td class="numeric{% if cell.best %} best{% endif %}">{{ cell.text }}
{%- if cell.best %}<span class="unseen"> (best)</span>{% endif %}
{%- if cell.interval %}<small>{{ cell.interval }}</small>{% endif %}</td>{% endfor %}
</tr>
{% endfor %}
</tbody>
</table>
</div>
</section>
{% if loop.first %}
<section aria-labelledby="pictures">
<h2 id="pictures">Ranks, wins, cost</h2>
<div class="grid">
{% for p in pictures %}
{{ picture(p) }}
{% endfor %}
</div>
</section>
{% endif %}
{% endfor %}
<section aria-labelledby="curves">
<h2 id="curves">{{ curves_title }}</h2>
<div class="grid">
{% for p in curves %}
{{ picture(p) }}
{% endfor %}
</div>
</section>
</main>
</body>
</html>
"""


def render_page(board: Leaderboard, facts: list[tuple[str, str]]) -> str:
    """Return the page. `facts` are its head: date, machine, command."""
    import jinja2

    from server.report.stylesheet import STYLESHEET
    from server.report.template import PICTURE

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    pictures = [picture for picture in (rank_picture(board), win_picture(board), cost_picture(board)) if picture]
    page: str = environment.from_string(PICTURE + TEMPLATE).render(
        stylesheet=Markup(STYLESHEET),
        name=board.plan.name,
        facts=facts,
        notes=board.notes(),
        tables=[
            table
            for place in board.places()
            for table in (_table(board, *place), *([_class_table(board, *place)] if board.class_metrics else []))
        ],
        pictures=pictures,
        curves_title=curves_title(board),
        curves=curve_pictures(board),
    )
    return page.lstrip()


def _table(board: Leaderboard, partition: str, model: str) -> dict[str, Any]:
    lines = board.lines(partition, model)
    metrics = shown_metrics(board, lines)
    best = {metric.name: board.whole_best(lines, metric) for metric in metrics}
    rows = []
    for line in lines:
        leading = [
            {"text": text, "interval": "", "best": False} for text in leading_cells(line, with_cells=some_failed(lines))
        ]
        value, _, rest = difference_text(line.differences.get("kid")).partition(" [")
        difference = {"text": value, "interval": f"[{rest}" if rest else "", "best": False}
        found = [_cell(line, metric, best[metric.name]) for metric in metrics]
        rows.append({"name": line.strategy, "cells": [*leading, *beside_kid(metrics, found, difference)]})
    labels = beside_kid(metrics, [metric.label for metric in metrics], difference_head(board))
    return {
        "title": title(partition, model),
        "heads": ["Strategy", *(head.capitalize() for head in leading_heads(lines)), *labels],
        "rows": rows,
    }


def _class_table(board: Leaderboard, partition: str, model: str) -> dict[str, Any]:
    lines = board.lines(partition, model)
    best = {metric.name: board.whole_best(lines, metric) for metric in board.class_metrics}
    return {
        "title": f"{BY_CLASS_TITLE}: {title(partition, model)}",
        "heads": ["Strategy", *(metric.label for metric in board.class_metrics)],
        "rows": [
            {"name": line.strategy, "cells": [_cell(line, metric, best[metric.name]) for metric in board.class_metrics]}
            for line in lines
        ],
    }


def _cell(line: Line, metric: Metric, best: float | None) -> dict[str, Any]:
    """Return a strategy's figure and its interval; `best` is the best of the column."""
    found = line.estimates.get(metric.name)
    value, _, interval = estimate_text(found, metric.digits).partition(" [")
    is_best = found is not None and line.is_whole and found.mean == best
    return {"text": value, "interval": f"[{interval}" if interval else "", "best": is_best}
