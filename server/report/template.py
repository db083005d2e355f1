"""The page's template, as a module: a Flower bundle ships Python files, and none of a template's own kind."""

PICTURE = r"""{% macro picture(p) %}
<figure class="picture" id="{{ p.name }}">
<h3 id="{{ p.name }}-title">{{ p.title }}</h3>
{{ p.svg }}
<figcaption>{{ p.caption }}<span class="unseen" id="{{ p.name }}-text">{{ p.text }}</span></figcaption>
</figure>
{% endmacro %}
"""
"""A drawing with its words, a macro."""

TEMPLATE = (
    r"""
{% macro table(t) %}
<div class="table-box" role="region" tabindex="0" aria-labelledby="{{ t.name }}-caption">
<table id="{{ t.name }}"{% if t.is_sortable %} class="sortable"{% endif %}>
<caption><span id="{{ t.name }}-caption">{{ t.caption }}</span></caption>
<thead><tr>
{% for column in t.columns %}
<th scope="col"{% if column.is_numeric %} class="numeric"{% endif %}>
{%- if t.is_sortable and column.label -%}
<button type="button" class="sort">{{ column.label }}</button>
{%- else -%}{{ column.label }}{%- endif -%}
{%- if column.note %}<small>{{ column.note }}</small>{% endif -%}
</th>
{% endfor %}
</tr></thead>
{% for body in t.bodies %}
<tbody>
{% if body.heading %}
<tr class="group"><th scope="rowgroup" colspan="{{ t.columns|length }}"><span>{{ body.heading }}
{%- if body.note %} <small>{{ body.note }}</small>{% endif %}</span></th></tr>
{% endif %}
{% for row in body.rows %}
<tr>
{% for cell in row %}
<{{ 'th scope="row"'|safe if cell.is_header else 'td' }}
{%- if cell.span > 1 %} colspan="{{ cell.span }}"{% endif %}
{%- if cell.sort is not none %} data-sort="{{ cell.sort }}"{% endif %}
{%- if cell.is_numeric or cell.heat is not none %} class="
{%- if cell.is_numeric %}numeric{% endif %}{% if cell.heat is not none %} heat{% endif %}"{% endif %}
{%- if cell.heat is not none %} style="--v:{{ '%.3f'|format(cell.heat) }}"{% endif %}>{{ cell.content }}
{%- if cell.note %}<small>{{ cell.note }}</small>{% endif %}
</{{ 'th' if cell.is_header else 'td' }}>
{% endfor %}
</tr>
{% endfor %}
</tbody>
{% endfor %}
</table>
</div>
{% if t.note %}<p class="note">{{ t.note }}</p>{% endif %}
{% endmacro %}

"""
    + PICTURE
    + r"""
{% macro absent(why) %}
<p class="absent"><strong>Not here.</strong> {{ why }}</p>
{% endmacro %}

{% macro table_or(t) %}
{% if t is string %}{{ absent(t) }}{% else %}{{ table(t) }}{% endif %}
{% endmacro %}

{% set parts = ([("gain-section", "What each hospital gains")] if gain_was_asked_for else []) + [
  ("verdict-section", "Verdict"), ("rounds-section", "Over the rounds"), ("samples-section", "Samples"),
  ("groups-section", "Classes and hospitals"), ("utility-section", "Predictive ability"),
  ("authenticity-section", "Authenticity"), ("speed-section", "Speed"), ("partition-section", "Who holds what"),
  ("hospitals-section", "Hospitals"), ("settings-section", "Settings"), ("terms-section", "Terms")] %}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline';
 base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{{ name }} · dermafed report</title>
<link rel="icon" href="data:,">
<style>{{ stylesheet }}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the verdict</a>
<header class="page-head">
<div class="head-line">
<p class="kicker">dermafed · report of a federated run</p>
<button type="button" id="theme" class="control needs-script" aria-live="polite">Theme: system</button>
</div>
<h1>{{ name }}</h1>
<p class="status {{ status if status in ('done', 'failed', 'interrupted') else 'unfinished' }}">
{% set signs = {'done': '✓ Done', 'failed': '✕ Failed', 'interrupted': '‖ Interrupted'} %}
<strong>{{ signs.get(status, '… Unfinished') }}</strong>
{{ status_sentence }}</p>
<dl class="facts">
{% for label, words in facts %}
<div><dt>{{ label }}</dt><dd>{{ words }}</dd></div>
{% endfor %}
</dl>
</header>
<nav aria-label="Sections" class="contents"><ol>
{% for anchor, label in parts %}
<li><a href="#{{ anchor }}">{{ label }}</a></li>
{% endfor %}
</ol></nav>
<main id="main" tabindex="-1">

{% if gain_was_asked_for %}
<section id="gain-section" aria-labelledby="gain-title">
<h2 id="gain-title">What each hospital gains</h2>
{% if no_gain %}{{ absent(no_gain) }}{% else %}
{% set said = gain_sentence.split(". ", 1) %}
<p><strong>{{ said[0] }}{{ "." if said[1:] }}</strong>{% if said[1:] %} {{ said[1] }}{% endif %}</p>
{{ table(gain_table) }}
{% if gain_picture %}{{ picture(gain_picture) }}{% endif %}
<p class="note">{{ gain.get("classifier", "A classifier") }}, {{ gain.get("steps")|exact("count") }} steps,
{{ gain.get("num_seeds")|exact("count") }} seed{{ "" if gain.get("num_seeds") == 1 else "s" }},
tested on {{ gain.get("num_test_images")|exact("count") }} real
images. In each step the same own images, rare classes as often as the others, with and without as many generated
ones beside them; every class weighs alike. A gain counts only above the best of three that need no generator: own
images alone, generated ones with permuted labels beside them, and images drawn from a Gaussian of each class's
pixels.</p>
{% endif %}
</section>
{% endif %}

<section id="verdict-section" aria-labelledby="verdict-title">
<h2 id="verdict-title">Verdict</h2>
<div class="lead">
<dl class="judgements">
{% for label, sentence, is_measured in judgements %}
<div{% if not is_measured %} class="open"{% endif %}><dt>{{ label }}</dt><dd>{{ sentence }}</dd></div>
{% endfor %}
</dl>
{% if ruler %}
{{ picture(ruler) }}
{% else %}
{{ absent("No KID was measured, so the generator has no place among images of known quality.") }}
{% endif %}
</div>
{% if privacy %}
<h3>Differential privacy</h3>
<p>{{ privacy.sentence }}{% if privacy.does_not_cover %} It does not cover:{% endif %}</p>
{% if privacy.does_not_cover %}
<ul>{% for entry in privacy.does_not_cover %}<li>{{ entry }}</li>{% endfor %}</ul>
{% endif %}
{% endif %}
{{ table(verdict) }}
<p class="note">Rank generators by KID. Figures of different extractors cannot be compared.
{% for sentence in test_sentence %}{{ sentence }} {% endfor %}</p>
<details><summary>How these sentences come about</summary>
<ul>{% for rule in rules %}<li>{{ rule }}</li>{% endfor %}</ul>
</details>
</section>

<section id="rounds-section" aria-labelledby="rounds-title">
<h2 id="rounds-title">Over the rounds</h2>
{% if no_curves %}{{ absent(no_curves) }}{% endif %}
{% if other_extractors %}
<p class="note">{{ other_extractors }} evaluated rounds are of another extractor and cannot stand beside the others.</p>
{% endif %}
{% if losses_are_left_out %}
<p class="note">Losses of training are left out, here and below: no noise covers them.</p>
{% endif %}
<div class="grid">
{% for curve in curves %}{{ picture(curve) }}{% endfor %}
</div>
{% if rounds %}
<details><summary>The numbers of these curves</summary>{{ table(rounds) }}</details>
{% endif %}
</section>

<section id="samples-section" aria-labelledby="samples-title">
<h2 id="samples-title">Samples</h2>
{% if not samples.sheets %}
{{ absent("The run left no sample sheet: the first is written at the first evaluation.") }}
{% else %}
{% set last = samples.sheets[-1] %}
{% set labels = 11 * last.width / 100 if samples.rows else 0 %}
<p>The same latents in every round{% if samples.rows %}, a row for each class{% endif %}.
{% if samples.num_rounds > samples.sheets|length %}
{{ samples.sheets|length }} of {{ samples.num_rounds }} rounds, evenly chosen, with the first and the last of them.
{% else %}All {{ samples.num_rounds }} rounds that were evaluated.
{% endif %}
{% if samples.is_reduced %}
Some sheets are reduced to keep this file small; the run directory has them in full.
{% endif %}
{% if not is_conditional %}The generator is not told the diagnosis, so that rows mean nothing.
{% elif not samples.rows %}The sheets have other rows than there are classes, so that none can be chosen.
{% endif %}
{% if may_show_real_images and samples.rows %}The row “real” shows validation images.{% endif %}</p>
<div class="player needs-script" role="group" aria-label="Choose round and class">
<button type="button" id="previous" class="control" aria-label="Previous round">←</button>
<label class="slider"><span>Round</span>
<input type="range" id="round" min="0" max="{{ samples.sheets|length - 1 }}" step="1"
 value="{{ samples.sheets|length - 1 }}" aria-valuetext="Round {{ last.round }}"></label>
<button type="button" id="next" class="control" aria-label="Next round">→</button>
{% if samples.rows %}
<label>Class <select id="class" class="control"><option value="">all</option>
{% for row in samples.rows %}<option value="{{ loop.index0 }}">{{ row }}</option>{% endfor %}
</select></label>
{% endif %}
</div>
<figure class="sheet">
<div class="table-box" role="region" tabindex="0" aria-label="Sample sheet">
<svg id="sheet" role="img" aria-labelledby="sheet-caption" data-rows="{{ samples.rows|length }}"
 data-labels="{{ labels }}" viewBox="{{ -labels }} 0 {{ last.width + labels }} {{ last.height }}">
<image id="sheet-image" x="0" y="0" width="{{ last.width }}" height="{{ last.height }}" href="{{ last.href }}"></image>
{% for row in samples.rows %}
<text class="row-label" x="{{ -0.08 * labels }}" y="{{ (loop.index0 + 0.5) * last.pitch }}" text-anchor="end"
 dominant-baseline="central" font-size="{{ 0.021 * last.width }}">{{ row|truncate(10, true, "…", 0) }}</text>
{% endfor %}
</svg>
</div>
<figcaption id="sheet-caption" aria-live="polite">Round {{ last.round }}</figcaption>
</figure>
<noscript><p class="note">The last round is shown. To move through the others, allow this page's script.</p></noscript>
{% endif %}
{% if looks_picture %}
<h3>The same lesions at each hospital</h3>
<figure class="pairs"><div class="table-box" role="region" tabindex="0" aria-label="Looks of hospitals">
<img src="{{ looks_picture }}" alt="Generated images, a row for each hospital"></div>
<figcaption>The generator is told the hospital: the same latents and classes in each row, as that hospital's images.
</figcaption></figure>
{% endif %}
{% if samples.unreadable %}
<p class="note">Could not be read: {{ samples.unreadable|join(", ") }}.</p>
{% endif %}
</section>

<section id="groups-section" aria-labelledby="groups-title">
<h2 id="groups-title">Classes and hospitals</h2>
<h3>By class</h3>
{{ table_or(per_class) }}
<h3>By hospital</h3>
{{ table_or(per_site) }}
{% if sites_summary %}{{ table(sites_summary) }}{% endif %}
</section>

<section id="utility-section" aria-labelledby="utility-title">
<h2 id="utility-title">Predictive ability</h2>
{% if no_utility %}{{ absent(no_utility) }}{% else %}
<p>Do classifiers that learn from synthetic images find real diseases?
{{ utility.get("classifier", "Classifier") }}, at most
{{ utility.get("steps")|exact("count") }} steps,
{{ utility.get("num_seeds")|exact("count") }} seed{{ "" if utility.get("num_seeds") == 1 else "s" }}; the
best state on
{{ utility.get("num_validation_images")|exact("count") }} validation images is tested once on
{{ utility.get("num_test_images")|exact("count") }} real test images.</p>
{{ table(arms) }}
<div class="lead">
<div>{% if sensitivity %}{{ table(sensitivity) }}{% endif %}</div>
{% if arms_picture %}{{ picture(arms_picture) }}{% endif %}
</div>
<h3>Is the class drawn that was asked for?</h3>
{{ table_or(confusion) }}
{% endif %}
</section>

<section id="authenticity-section" aria-labelledby="authenticity-title">
<h2 id="authenticity-title">Authenticity</h2>
{% if no_authenticity %}{{ absent(no_authenticity) }}{% else %}
{% set valid = authenticity.get("valid") is sameas true %}
<p class="{{ 'valid' if valid else 'not-valid' }}">
<strong>{{ "The figures can be read:" if valid else "Areas and distances cannot be read as evidence:" }}</strong>
{{ authenticity.get("reason") or "it is not said why" }}.</p>
{% if flag_of_copies[0] %}<p class="{{ flag_of_copies[2] }}">
<strong>{{ flag_of_copies[0] }}</strong> {{ flag_of_copies[1] }}</p>{% endif %}
<p>What the data know of patients: {{ authenticity.get("known_groups") or "not recorded" }}.</p>
{{ table(nearest) }}
<div class="lead">
<div>{{ table(membership) }}</div>
{% if membership_picture %}{{ picture(membership_picture) }}{% endif %}
</div>
{% if membership_by_class %}{{ table(membership_by_class) }}{% endif %}
<h3>Closest pairs</h3>
{% if pairs_picture %}
<figure class="pairs"><div class="table-box" role="region" tabindex="0" aria-label="Closest pairs">
<img src="{{ pairs_picture }}" alt="Generated images above the training image each is closest to"></div>
<figcaption>Generated images above the training image that each is closest to, closest first.</figcaption></figure>
{% elif not may_show_real_images %}
<p class="absent">No picture: report.show-real-images = false hides training images.</p>
{% else %}
<p class="absent">No picture: closest-pairs.png is not in the run directory.</p>
{% endif %}
{% if pairs %}{{ table(pairs) }}{% endif %}
<h3>Distances to projections</h3>
<p class="absent">{{ ("Not measured: " ~ projection ~ ".") if projection else "Not recorded." }}</p>
{% endif %}
</section>

<section id="speed-section" aria-labelledby="speed-title">
<h2 id="speed-title">Speed</h2>
{% if no_speed %}{{ absent(no_speed) }}{% else %}
{% if shares %}
<h3 id="shares-title">Where the time went</h3>
<div class="shares" aria-hidden="true">
{% for label, words, share in shares %}
<i class="share-{{ loop.index }}" style="flex-grow:{{ '%.4f'|format(share) }}"></i>
{% endfor %}
</div>
<ul class="share-list" aria-labelledby="shares-title">
{% for label, words, share in shares %}
<li><i class="share-{{ loop.index }}"></i><span>{{ label }}</span> <strong>{{ share|exact("percent") }}</strong>
<small>{{ words }}</small></li>
{% endfor %}
</ul>
{% else %}{{ absent("The shares of the wall time were not recorded.") }}{% endif %}
{{ table(time_to_kid) }}
{{ table(bytes) }}
{% endif %}
</section>

<section id="partition-section" aria-labelledby="partition-title">
<h2 id="partition-title">Who holds what</h2>
{% if partition %}{{ table(partition) }}
<p class="note">Scheme {{ scheme }}. Hash of who holds which image: {{ digest }}.</p>
{% else %}{{ absent("partition.json is missing or names no hospital.") }}{% endif %}
</section>

<section id="hospitals-section" aria-labelledby="hospitals-title">
<h2 id="hospitals-title">Hospitals</h2>
{% if hospitals %}{{ table(hospitals) }}
{% if failures %}{{ table(failures) }}{% else %}<p>Every reply was used.</p>{% endif %}
{% else %}{{ absent("hospitals.jsonl is missing or empty: no round was trained.") }}{% endif %}
</section>

<section id="settings-section" aria-labelledby="settings-title">
<h2 id="settings-title">Settings</h2>
{% if changed %}{{ table(changed) }}{% else %}<p>Every setting is the default.</p>{% endif %}
<details><summary>Every setting</summary>{{ table(settings) }}</details>
<h3>Computed with</h3>
{% if environment %}
<dl class="facts">
{% for label, words in environment %}<div><dt>{{ label }}</dt><dd>{{ words }}</dd></div>
{% endfor %}
</dl>
{% else %}{{ absent("environment.json is missing.") }}{% endif %}
<h3>How to reproduce it</h3>
<p>Seed {{ seed }}, split seed {{ split_seed }}, partition seed {{ partition_seed }}. On one type of processor the
weights are the same bit for bit.</p>
{% for label, command in commands %}
<p class="command-label">{{ label }}:</p>
<pre class="command" tabindex="0"><code>{{ command }}</code></pre>
{% endfor %}
</section>

<section id="terms-section" aria-labelledby="terms-title">
<h2 id="terms-title">Terms</h2>
<dl class="terms">
<div><dt>KID</dt><dd>Squared maximum mean discrepancy of features under a cubic kernel. Unbiased at any number of
images, so it may be slightly negative where two sets are alike.
<a href="https://arxiv.org/abs/1801.01401" rel="noreferrer">Bińkowski et al. 2018</a></dd></div>
<div><dt>FID</dt><dd>Fréchet distance of two Gaussians fitted to features. It depends on the number of images, and with
fewer images than features it compares singular covariances.
<a href="https://arxiv.org/abs/1706.08500" rel="noreferrer">Heusel et al. 2017</a></dd></div>
<div><dt>Precision, recall</dt><dd>Share of generated images in the neighbourhoods of real ones, and of real ones in
those of generated ones. Outliers among generated images can raise recall.
<a href="https://arxiv.org/abs/1904.06991" rel="noreferrer">Kynkäänniemi et al. 2019</a></dd></div>
<div><dt>Density, coverage</dt><dd>How many real neighbourhoods a generated image lies in, relative to k (it may exceed
1), and the share of real images that have a generated one in their neighbourhood.
<a href="https://arxiv.org/abs/2002.09797" rel="noreferrer">Naeem et al. 2020</a></dd></div>
<div><dt>Vendi score</dt><dd>Exponential of the entropy of the eigenvalues of a similarity matrix: how many different
images there are in effect.
<a href="https://arxiv.org/abs/2210.02410" rel="noreferrer">Friedman and Dieng 2022</a></dd></div>
<div><dt>Balanced accuracy</dt><dd>Mean sensitivity over the classes that occur in the test.</dd></div>
<div><dt>Calibration error</dt><dd>Mean distance between a classifier's confidence and its accuracy, in 15 bins.
<a href="https://arxiv.org/abs/1706.04599" rel="noreferrer">Guo et al. 2017</a></dd></div>
<div><dt>AuthPct</dt><dd>Per cent of images that lie farther from their nearest training image than that one lies from
its own nearest. <a href="https://arxiv.org/abs/2102.08921" rel="noreferrer">Alaa et al. 2022</a></dd></div>
<div><dt>Membership inference</dt><dd>Whether a score tells training images from held-out ones, as an area under the
ROC curve: from generated images alone
(<a href="https://arxiv.org/abs/1909.03935" rel="noreferrer">Chen et al. 2020</a>) or from {{ attacked_in_general }}
(<a href="https://arxiv.org/abs/1705.07663" rel="noreferrer">Hayes et al. 2019</a>).</dd></div>
</dl>
</section>
</main>
<footer>Made from the run directory alone. This page loads nothing from anywhere.</footer>
<script type="application/json" id="sheets">{{ sheets_json }}</script>
<script>{{ script }}</script>
</body>
</html>
"""
)
"""Takes what :func:`server.report.page.render_report` gives."""
