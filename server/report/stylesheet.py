"""The page's style: light and dark, wide and narrow, screen and paper."""

_LIGHT = """
  color-scheme: light;
  --surface: #ffffff; --page: #fbfaf7; --ink: #1c2127; --muted: #5a6470; --rule: #d9d8d2; --soft: #f1efe9;
  --accent: #0b5c8a; --focus: #0b5c8a; --heat: 22 112 160; --heat-most: .55;
  --good: #1d6b43; --bad: #a1271f; --wait: #805500;
  --series-1: #0b5c8a; --series-2: #b4520a; --series-3: #1d7a55; --series-4: #8c3a86;
  --series-5: #5b6770; --series-6: #946c00; --series-7: #b0283c; --series-8: #4a54b0;
"""
_DARK = """
  color-scheme: dark;
  --surface: #191d22; --page: #13161a; --ink: #e6e8ea; --muted: #a3acb6; --rule: #363d45; --soft: #20252b;
  --accent: #7cc0ec; --focus: #9ad2f6; --heat: 70 150 205; --heat-most: .6;
  --good: #7fd0a3; --bad: #f0938b; --wait: #e2bb62;
  --series-1: #7cc0ec; --series-2: #f0a05e; --series-3: #6fd0a6; --series-4: #dd97d6;
  --series-5: #b4bec8; --series-6: #dfc05a; --series-7: #f08c9a; --series-8: #a9b2f5;
"""

STYLESHEET = (
    ":root {"
    + _LIGHT
    + "}\n@media screen and (prefers-color-scheme: dark) { :root:not([data-theme=light]) {"
    + _DARK
    + "} }\n:root[data-theme=dark] {"
    + _DARK
    + "}"
    + r"""
:root {
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif;
  --serif: Charter, "Bitstream Charter", "Sitka Text", Cambria, Georgia, "Liberation Serif", serif;
  --mono: ui-monospace, "Cascadia Code", Menlo, Consolas, "Liberation Mono", monospace;
}
*, *::before, *::after { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; scroll-padding-top: 1rem; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 400 1rem/1.5 var(--sans); overflow-wrap: break-word;
  display: grid; grid-template-columns: minmax(0, 1fr); padding: 0 clamp(1rem, 4vw, 3rem);
}
.page-head, main, footer { min-width: 0; max-width: 74rem; }
h1, h2, h3 { font-family: var(--serif); font-weight: 600; line-height: 1.2; text-wrap: balance; }
h1 { font-size: clamp(1.9rem, 1.4rem + 2.4vw, 3rem); margin: .2rem 0 .6rem; letter-spacing: -.01em; }
h2 { font-size: 1.6rem; margin: 0 0 1.1rem; }
h3 { font-size: 1.08rem; margin: 1.8rem 0 .5rem; }
p { margin: 0 0 .8rem; max-width: 46rem; }
small { font-size: .8125rem; color: var(--muted); font-weight: 400; }
a { color: var(--accent); text-underline-offset: .15em; }
:focus-visible { outline: 3px solid var(--focus); outline-offset: 2px; border-radius: 2px; }
main:focus { outline: none; }
.skip {
  position: absolute; left: 1rem; top: -6rem; z-index: 3; padding: .6rem 1rem;
  background: var(--surface); border: 1px solid var(--rule);
}
.skip:focus { top: 1rem; }
.unseen {
  position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap;
}

/* Head */
.page-head { padding: 2rem 0 1.4rem; }
.head-line { display: flex; gap: 1rem; justify-content: space-between; align-items: center; flex-wrap: wrap; }
.kicker { margin: 0; color: var(--muted); font-size: .875rem; letter-spacing: .02em; }
.status { font-size: 1.05rem; margin-bottom: 1.2rem; max-width: 60rem; }
.status strong { margin-right: .4rem; white-space: nowrap; }
.status.done strong, .valid strong { color: var(--good); }
.status.failed strong, .not-valid strong { color: var(--bad); }
.status.interrupted strong, .status.unfinished strong { color: var(--wait); }
.facts { display: flex; flex-wrap: wrap; gap: .6rem 2rem; margin: 0; }
.facts div { min-width: 0; max-width: 100%; }
.facts dt { font-size: .8125rem; color: var(--muted); }
.facts dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }

/* Contents */
.contents { border-block: 1px solid var(--rule); padding: .5rem 0; max-width: 74rem; }
.contents ol { list-style: none; margin: 0; padding: 0; display: flex; flex-wrap: wrap; gap: .1rem 1.3rem; }
.contents a { display: block; padding: .3rem 0; color: var(--ink); text-decoration: none; font-size: .9rem; }
.contents a:hover { color: var(--accent); text-decoration: underline; }
section { padding: 2.6rem 0 1.4rem; border-bottom: 1px solid var(--rule); }
section:last-child { border-bottom: 0; }

/* Judgements */
.lead { display: grid; gap: 1.5rem 2.5rem; grid-template-columns: minmax(0, 1fr); margin-bottom: 1.6rem; }
.judgements { margin: 0; }
.judgements div { padding: .75rem 0; border-top: 1px solid var(--rule); }
.judgements div:first-child { border-top: 2px solid var(--ink); }
.judgements dt { font-weight: 600; font-size: .9rem; }
.judgements dd {
  margin: .1rem 0 0; font-family: var(--serif); font-size: 1.0625rem; line-height: 1.45; max-width: 46rem;
}
.judgements .open dd { color: var(--muted); }
@media (min-width: 62rem) {
  #verdict-section .lead { grid-template-columns: minmax(0, 1fr) minmax(0, 27rem); align-items: start; }
  .lead:has(.table-box) { grid-template-columns: minmax(0, 1fr) minmax(0, 23rem); align-items: start; }
}

/* Tables */
.table-box { position: relative; overflow-x: auto; margin: 0 0 .6rem; max-width: 100%; }
table { border-collapse: collapse; font-size: .9rem; line-height: 1.35; min-width: min(100%, 30rem); }
#verdict { width: 100%; }
caption { text-align: left; font-weight: 600; padding: .3rem 0 .5rem; }
th, td { text-align: left; vertical-align: top; padding: .42rem .75rem .42rem 0; border-bottom: 1px solid var(--rule); }
th:last-child, td:last-child { padding-right: .25rem; }
caption span, .group span {
  position: sticky; left: 0; display: block; width: fit-content; max-width: min(46rem, calc(100vw - 2.2rem));
}
thead th { border-bottom: 2px solid var(--ink); vertical-align: bottom; font-weight: 600; }
tbody th { font-weight: 500; }
th small, td small { display: block; line-height: 1.3; max-width: 22rem; }
.numeric { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th.numeric small { white-space: normal; margin-left: auto; max-width: 9rem; }
.interval { color: var(--muted); font-size: .8125rem; }
td .interval:only-child { color: inherit; font-size: inherit; }
#arms .interval, #confusion .interval { display: block; }
.heat .interval { display: block; color: inherit; opacity: .85; }
.group th { padding-top: 1.3rem; border-bottom-color: var(--ink); font-family: var(--serif); font-size: 1.05rem; }
.group small { display: inline; font-family: var(--sans); margin-left: .4rem; }
.missing { color: var(--muted); font-style: italic; white-space: normal; }
.heat {
  background: rgb(var(--heat) / calc(var(--v) * var(--heat-most)));
  padding-left: .6rem; padding-right: .6rem; border: 1px solid var(--page);
}
.sort {
  font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; text-align: inherit;
  border-radius: 2px;
}
.sort:hover { color: var(--accent); }
.sort::after { content: "↕"; color: var(--muted); font-weight: 400; margin-left: .25em; }
[aria-sort=ascending] .sort::after { content: "↑"; color: var(--ink); }
[aria-sort=descending] .sort::after { content: "↓"; color: var(--ink); }
html:not(.script) .sort::after { content: none; }
.note { font-size: .875rem; color: var(--muted); max-width: 60rem; }
.absent { padding: .7rem 1rem; border-left: 3px solid var(--rule); background: var(--soft); }
.changed { color: var(--wait); }
#settings tbody th, #changed tbody th { font-family: var(--mono); font-size: .85rem; }
#settings th small, #changed th small { font-family: var(--sans); max-width: 34rem; }
#settings td, #changed td { overflow-wrap: anywhere; }
#failures td { max-width: 34rem; }
#arms tbody th { min-width: 14rem; }
#nearest tbody th, #verdict tbody th { min-width: 13rem; }

/* Pictures */
.grid { display: grid; gap: 1.6rem 2.2rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20.5rem), 1fr)); }
figure { margin: 0; min-width: 0; }
.picture h3 { margin: 0 0 .3rem; }
.picture svg { display: block; width: 100%; height: auto; overflow: visible; color: var(--ink); }
.picture svg * { stroke-linejoin: round; stroke-linecap: butt; }
figcaption { font-size: .8125rem; color: var(--muted); margin-top: .4rem; position: relative; max-width: 46rem; }

/* Samples */
.control {
  font: inherit; font-size: .9rem; color: var(--ink); background: var(--surface); border: 1px solid var(--muted);
  border-radius: 4px; padding: .35rem .75rem; min-height: 2.4rem; cursor: pointer;
}
.control:hover { border-color: var(--ink); }
.control:disabled { opacity: .45; cursor: default; }
.player { display: flex; flex-wrap: wrap; gap: .6rem .9rem; align-items: center; margin: 0 0 1rem; }
.player label { display: flex; align-items: center; gap: .6rem; min-width: 0; }
.slider { flex: 1 1 12rem; max-width: 30rem; }
.slider input { flex: 1; min-width: 0; height: 2.4rem; accent-color: var(--accent); }
html:not(.script) .needs-script { display: none; }
#sheet { display: block; width: 100%; min-width: 36rem; max-width: 66rem; height: auto; }
#sheet-image { image-rendering: pixelated; }
.row-label { fill: var(--ink); font-family: var(--sans); }
#sheet-caption { font-size: .9rem; color: var(--ink); font-variant-numeric: tabular-nums; }
.pairs img { display: block; background: #fff; }

/* Speed */
.shares { display: flex; height: 1.6rem; gap: 2px; max-width: 46rem; margin-bottom: .8rem; }
.shares i, .share-list i { background: var(--series-1); }
.shares i { min-width: 2px; }
.share-list { list-style: none; padding: 0; margin: 0 0 1.4rem; display: flex; flex-wrap: wrap; gap: .5rem 1.8rem; }
.share-list i { display: inline-block; width: .9rem; height: .9rem; margin-right: .45rem; vertical-align: -.1rem; }
.share-list small { display: block; margin-left: 1.35rem; }
i.share-2 { background: repeating-linear-gradient(45deg, var(--series-2) 0 4px, transparent 4px 7px), var(--soft); }
i.share-3 { background: var(--series-3); }
i.share-4 { background: repeating-linear-gradient(90deg, var(--series-4) 0 2px, transparent 2px 5px), var(--soft); }
i.share-5 { background: var(--soft); border: 1px solid var(--muted); }

/* Hospitals */
.strip { display: inline-flex; gap: 2px; align-items: center; min-height: 1rem; }
.strip i { position: relative; width: 5px; height: 14px; flex: none; font-style: normal; }
.strip .ok { background: var(--series-1); width: 3px; margin: 0 1px; }
.strip .failed::before { content: "✕"; position: absolute; inset: -4px 0 0 -2px; font-size: 11px; color: var(--bad); }
.strip .late { border: 1.5px solid var(--wait); border-radius: 50%; width: 9px; height: 9px; }
.strip .refused { border: 1.5px solid var(--wait); width: 7px; height: 9px; }
.strip .none { width: 3px; height: 3px; border-radius: 50%; background: var(--muted); margin: 0 1px; }

/* Words */
details { margin: 1rem 0; }
summary { cursor: pointer; color: var(--accent); padding: .3rem 0; }
details ul { max-width: 48rem; padding-left: 1.2rem; }
details li { margin-bottom: .5rem; }
.command-label { margin: 1rem 0 .3rem; font-weight: 600; font-size: .9rem; }
.command {
  margin: 0; padding: .8rem 1rem; background: var(--soft); overflow-x: auto; font: .85rem/1.5 var(--mono);
  border-radius: 4px;
}
.terms div { padding: .5rem 0; border-top: 1px solid var(--rule); max-width: 52rem; }
.terms dt { font-weight: 600; font-size: .9rem; }
.terms dd { margin: 0; font-size: .9rem; }
footer { padding: 1.5rem 0 3rem; color: var(--muted); font-size: .875rem; }

@media (max-width: 40rem) {
  .page-head { padding-top: 1.2rem; }
  section { padding-top: 2rem; }
  h2 { font-size: 1.4rem; }
  .facts { gap: .5rem 1.4rem; }
  table { font-size: .85rem; }
  th, td { padding-right: .6rem; }
  tbody th { min-width: 7.5rem; }
  #nearest tbody th, #verdict tbody th, #arms tbody th { min-width: 9.5rem; max-width: 9.5rem; }
  tr:not(.group) > th:first-child { position: sticky; left: 0; z-index: 1; background: var(--page); }
}
@media (prefers-reduced-motion: no-preference) { html { scroll-behavior: smooth; } }

@media print {
  :root, :root[data-theme] {"""
    + _LIGHT
    + r"""
    --page: #ffffff;
  }
  @page { margin: 16mm 14mm; }
  html { font-size: 9.5pt; }
  body { display: block; padding: 0; }
  .contents, .control, .player, .skip, summary { display: none !important; }
  .page-head, main, footer { max-width: none; }
  .page-head { padding-top: 0; }
  section { padding: 1.2rem 0 .6rem; }
  h2, h3, caption, .group, thead { break-after: avoid; }
  h1, h2, h3 { break-inside: avoid; }
  figure, tr, .judgements div, .terms div, .absent, .command { break-inside: avoid; }
  thead { display: table-header-group; }
  .table-box, .command { overflow: visible; }
  .command code { white-space: pre-wrap; }
  table { font-size: .82rem; width: 100%; min-width: 0; }
  th small, td small, .note, .interval { font-size: .76rem; }
  .interval { white-space: nowrap; }
  #arms tbody th, #nearest tbody th, #verdict tbody th { min-width: 0; }
  #sensitivity, #sites-summary, #pairs, #time-to-kid, #bytes, #confusion { width: auto; }
  th, td { padding: .25rem .4rem .25rem 0; }
  .numeric { white-space: normal; }
  .sort::after { content: none !important; }
  #sheet { min-width: 0; max-width: 100%; }
  .lead, #verdict-section .lead, .lead:has(.table-box) { display: block; }
  .lead .picture { max-width: 11cm; margin: 1rem 0; }
  .grid { grid-template-columns: 1fr 1fr; gap: 1rem 1.4rem; }
  .heat, .shares i, .share-list i, .strip i { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  a { color: inherit; }
}
"""
)
"""Inserted as it stands: it holds nothing from a run."""
