"""The look of the page: one style sheet, for light and dark screens, for paper and for narrow windows."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1b2126; --soft: #59636c; --ground: #fbfbfa; --card: #ffffff; --line: #dfe3e6; --grid: #d9dde0;
  --link: #0b5c99; --paper: #f6f0e2; --paper-ink: #73571a; --measured: #e9f2f8; --measured-ink: #155a85;
  --series-1: #0072b2; --series-2: #d55e00; --series-3: #009e73; --series-4: #a5528c; --series-5: #8c6d00;
  --series-6: #3a9bd4;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e4e8eb; --soft: #9aa5ad; --ground: #14181b; --card: #1b2024; --line: #323a40; --grid: #343c42;
    --link: #7cc0f2; --paper: #2b2619; --paper-ink: #dcc07f; --measured: #182732; --measured-ink: #8cc7ec;
    --series-1: #4fb0e8; --series-2: #f0853a; --series-3: #35c79c; --series-4: #d791c0; --series-5: #d4b23c;
    --series-6: #9ad4f5;
  }
}
* { box-sizing: border-box }
html { scroll-behavior: smooth }
body {
  margin: 0 auto; padding: 3rem 1.25rem 4rem; max-width: 78rem; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif;
}
h1 { margin: 0 0 .6rem; font-size: 2.1rem; line-height: 1.2; letter-spacing: -.02em }
h2 { margin: 0 0 .4rem; font-size: 1.4rem; line-height: 1.3; letter-spacing: -.01em }
h2 a { color: inherit; text-decoration: none }
a { color: var(--link) }
.intro { max-width: 52rem; margin: 0 0 1.2rem; color: var(--soft) }
nav {
  margin: 1.6rem 0 0; padding: 1rem 1.4rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .7rem;
}
nav ol { margin: 0; padding-left: 1.3rem }
nav li { margin: .25rem 0 }
nav ul { margin: 0; padding: 0; list-style: none; color: var(--soft); font-size: .88rem }
nav ul li { margin: 0 }
section {
  margin: 2rem 0; padding: 1.6rem; background: var(--card); border: 1px solid var(--line); border-radius: .7rem;
}
.scroll { overflow-x: auto; margin: 1rem 0 1.6rem }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
caption { padding: 0 0 .5rem .6rem; text-align: left; font-weight: 600 }
th, td { padding: .4rem .55rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: baseline }
thead th { font-weight: 600; font-size: .82rem; color: var(--soft); vertical-align: bottom }
tbody th { font-weight: 500; min-width: 10rem }
tbody tr:last-child > * { border-bottom: 0 }
.groups th { vertical-align: top }
.short { white-space: nowrap }
td.number, th.number { text-align: right }
td.number { white-space: nowrap }
td small { display: block; color: var(--soft); font-size: .75rem; line-height: 1.3 }
.groups > * { border-bottom: 0; padding-bottom: .1rem; vertical-align: top }
.groups th { font-size: .9rem; padding-top: .5rem }
.groups small { display: block; font-weight: 400; font-size: .78rem }
td.paper, th.paper { background: var(--paper) }
td.measured, th.measured { background: var(--measured) }
.groups th.paper { color: var(--paper-ink) }
.groups th.measured { color: var(--measured-ink) }
colgroup.measured, colgroup.paper { border-left: .5rem solid var(--card) }
figure { margin: 1.4rem 0 }
figure svg { display: block; width: 100%; height: auto }
figure svg text { font-family: inherit !important }
figure img { display: block; max-width: 100%; height: auto; border-radius: .4rem }
figcaption { margin-top: .5rem; max-width: 52rem; color: var(--soft); font-size: .88rem }
.notes { margin: 1.4rem 0 0; padding-top: 1rem; border-top: 1px solid var(--line); font-size: .85rem;
  display: grid; grid-template-columns: minmax(5.5rem, max-content) 1fr; gap: .4rem .8rem }
.notes div { display: contents }
.notes dt { color: var(--soft) }
.notes dd { margin: 0; overflow-wrap: anywhere }
.made { display: grid; grid-template-columns: 5.5rem 1fr; gap: .8rem; margin-top: .8rem; font-size: .85rem }
.made span { color: var(--soft); padding-top: .45rem }
pre { margin: 0; padding: .45rem .8rem; overflow-x: auto; border-radius: .4rem; background: var(--ground) }
code { font: .95em/1.5 ui-monospace, "Cascadia Code", Menlo, Consolas, "DejaVu Sans Mono", monospace }
footer { color: var(--soft); font-size: .85rem }
@media (max-width: 40rem) {
  body { padding: 1.5rem .8rem }
  section { padding: 1rem }
  .notes, .made { grid-template-columns: 1fr; gap: 0 }
}
@media print {
  body { max-width: none; padding: 0 }
  section { break-inside: avoid-page; border: 0; padding: 0 }
}
"""

RUN_STYLE = """
.eyebrow { margin: 0; color: var(--soft); font-size: .85rem; letter-spacing: .06em; text-transform: uppercase }
h1 { overflow-wrap: anywhere }
h3 { margin: 1.8rem 0 .3rem; font-size: 1.05rem }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: 1rem; margin: 1.6rem 0 0 }
.figures div { padding: .9rem 1.1rem; background: var(--card); border: 1px solid var(--line); border-radius: .7rem }
.figures dt { color: var(--soft); font-size: .85rem }
.figures dd { margin: 0; font-size: 2rem; font-weight: 600; line-height: 1.2; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums }
.figures dd span { font-size: 1rem; font-weight: 400; letter-spacing: 0; color: var(--soft) }
.figures p { margin: .1rem 0 0; color: var(--soft); font-size: .82rem }
nav.inline { padding: 0; border: 0; background: none; margin: 1.4rem 0 0 }
nav.inline ol { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .3rem 1.2rem }
.said { margin: .4rem 0 0; padding-left: 1.2rem }
.said li { margin: .3rem 0 }
.warn { padding: .7rem 1rem; border-left: .25rem solid var(--series-2); background: var(--ground); margin: 1rem 0 }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); gap: 1.6rem 1.8rem;
  margin-top: 1rem }
.chart { margin: 0 }
.chart figcaption { margin: 0 0 .3rem; color: var(--ink); font-weight: 600; font-size: .92rem }
.chart svg text { font-size: 11px; fill: var(--soft); font-variant-numeric: tabular-nums }
.chart .grid { stroke: var(--grid); stroke-width: 1 }
.chart .line { fill: none; stroke: var(--c); stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round }
.chart .dashed { stroke-dasharray: 5 4 }
.chart .dot { fill: var(--c) }
.chart .strip { fill: transparent }
.chart .strip:hover { fill: var(--soft); fill-opacity: .14 }
.chart .note { margin: .3rem 0 0; color: var(--soft); font-size: .82rem }
.legend { list-style: none; margin: .3rem 0 0; padding: 0; display: flex; flex-wrap: wrap; gap: .15rem 1rem;
  font-size: .82rem; color: var(--soft) }
.legend i { display: inline-block; width: 1.1rem; height: 0; margin-right: .4rem; vertical-align: .25em;
  border-top: .16rem solid var(--c) }
.legend i.dashed { border-top-style: dashed }
td.bar { width: 40%; min-width: 7rem; vertical-align: middle }
td.bar div { height: .7rem; border-radius: .15rem; background: var(--series-1); min-width: 1px }
td.bar div.weak { background: var(--series-2) }
table.wide { width: 100% }
.kinds th, .kinds td { vertical-align: middle }
.kinds td.bar { width: 24% }
.beside { display: flex; flex-wrap: wrap; gap: 0 3.5rem; align-items: flex-end }
table.wide td.text { color: var(--soft); min-width: 16rem }
.confusion th[scope=col] { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left;
  padding: .55rem .4rem; vertical-align: top; font-weight: 500; max-height: 12rem }
.confusion td { text-align: center; min-width: 2.5rem; padding: .35rem .3rem; border-bottom: 1px solid var(--line);
  background: color-mix(in srgb, var(--series-1) calc(55% * var(--share, 0)), transparent) }
.confusion td.right { background: color-mix(in srgb, var(--series-3) calc(55% * var(--share, 0)), transparent) }
.confusion td.none { color: var(--grid) }
.confusion .edge { border-left: 2px solid var(--line) }
.confusion tr.last > * { border-top: 2px solid var(--line) }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); gap: 1.4rem }
.pairs figure { margin: 0; break-inside: avoid }
.pairs img { width: 100% }
.pairs figcaption { display: flex; justify-content: space-between; gap: 1rem; margin-top: .35rem; max-width: none }
.pairs figcaption b { color: var(--ink); font-weight: 600; font-variant-numeric: tabular-nums }
details { margin: 1rem 0 0 }
summary { cursor: pointer; color: var(--link) }
@media print {
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact }
  nav { display: none }
  .pairs { grid-template-columns: 1fr 1fr }
  .charts { grid-template-columns: 1fr 1fr 1fr }
}
"""
"""What the report of a run has beside."""
