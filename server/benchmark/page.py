"""The page of a benchmark: one file, everything inside, nothing fetched."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from server.benchmark.figures import Metric
from server.benchmark.leaderboard import (
    BY_CLASS_TITLE,
    REAL_IMAGES,
    Leaderboard,
    Line,
    beside_kid,
    difference_head,
    leading_cells,
    leading_heads,
    real_cells,
    shown_metrics,
    some_failed,
    title,
)
from server.benchmark.pictures import cost_picture, curve_pictures, curves_title, rank_picture, win_picture
from server.benchmark.wording import MISSING, difference_parts, estimate_parts

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
tr.real th, tr.real td { font-style: italic; }
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
{% if table.verdict %}<p>{{ table.verdict }}</p>{% endif %}
<div class="table-box" role="region" tabindex="0" aria-labelledby="table-{{ loop.index }}">
<table>
<thead><tr>{% for head in table.heads %}<th scope="col"{% if not loop.first %} class="numeric"{% endif %}>
{{- head }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in table.rows %}
<tr{% if row.is_real %} class="real"{% endif %}><th scope="row">{{ row.name }}</th>
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
        leading = [_written(text) for text in leading_cells(line, with_cells=some_failed(lines))]
        difference = _written(*difference_parts(line.differences.get("kid"), board.plan.seeds))
        found = [_cell(board, line, metric, best[metric.name]) for metric in metrics]
        rows.append(_row(line.strategy, [*leading, *beside_kid(metrics, found, difference)]))
    if real := real_cells(board, metrics, partition, model):
        cells = [*[MISSING] * len(leading_heads(lines)), *beside_kid(metrics, real, MISSING)]
        rows.append(_row(REAL_IMAGES, [_written(text) for text in cells], is_real=True))
    labels = beside_kid(metrics, [metric.label for metric in metrics], difference_head(board))
    return {
        "title": title(partition, model),
        "verdict": board.verdict(partition, model),
        "heads": ["Strategy", *(head.capitalize() for head in leading_heads(lines)), *labels],
        "rows": rows,
    }


def _class_table(board: Leaderboard, partition: str, model: str) -> dict[str, Any]:
    lines, metrics = board.lines(partition, model), board.class_metrics
    best = {metric.name: board.whole_best(lines, metric) for metric in metrics}
    rows = [
        _row(line.strategy, [_cell(board, line, metric, best[metric.name]) for metric in metrics]) for line in lines
    ]
    if real := real_cells(board, metrics, partition, model):
        rows.append(_row(REAL_IMAGES, [_written(text) for text in real], is_real=True))
    return {
        "title": f"{BY_CLASS_TITLE}: {title(partition, model)}",
        "verdict": "",
        "heads": ["Strategy", *(metric.label for metric in metrics)],
        "rows": rows,
    }


def _row(name: str, cells: list[dict[str, Any]], *, is_real: bool = False) -> dict[str, Any]:
    return {"name": name, "cells": cells, "is_real": is_real}


def _written(text: str, beside: str = "", *, is_best: bool = False) -> dict[str, Any]:
    """Return a cell; `beside` stands in small print."""
    return {"text": text, "interval": beside, "best": is_best}


def _cell(board: Leaderboard, line: Line, metric: Metric, best: float | None) -> dict[str, Any]:
    """Return a strategy's figure with its values and interval; `best` is the best of the column."""
    found = line.estimates.get(metric.name)
    text, beside = estimate_parts(found, metric.digits, board.plan.seeds)
    return _written(text, beside, is_best=found is not None and line.is_whole and found.mean == best)
