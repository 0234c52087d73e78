"""report.html: one file that opens without a network, in light and dark."""

import base64
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape

from bigmodel.reports.best import NOTE, Best, bests
from bigmodel.reports.flags import flags
from bigmodel.reports.gathered import Gathered
from bigmodel.reports.noise import in_words, noise
from bigmodel.reports.provenance import provenance
from bigmodel.reports.statistics import Compared
from bigmodel.reports.table import (
    HEADS,
    LEFT_OUT,
    METHOD,
    VERDICT,
    best_settings,
    cells,
    filled,
    left_out,
    ranked_rows,
    settings,
)
from bigmodel.reports.verdict import verdict

STYLE = """
:root { color-scheme: light dark; --good: #178a57; --bad: #c8372d; --warn: #b87700; }
@media (prefers-color-scheme: dark) { :root { --good: #4fd39a; --bad: #ff7b72; --warn: #e3a63a; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1360px; margin: 2rem auto; }
body { padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin: 2.2rem 0 .6rem; font-size: 1.2rem; }
.question { font-size: 1.15rem; opacity: .8; margin-top: .2rem; }
.verdict { font-size: 1.15rem; border-left: 4px solid var(--good); padding: .4rem .9rem; }
.flags { border: 1px solid var(--warn); border-left-width: 4px; border-radius: 4px; }
.flags { padding: .4rem .9rem; } .flags p { margin: .25rem 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 12.5px; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .4rem; border-bottom: 1px solid #8884; text-align: right; }
th, td { white-space: nowrap; }
td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 9rem; }
th:first-child, td:first-child, .words { text-align: left; }
td.why { white-space: normal; text-align: left; overflow-wrap: anywhere; min-width: 20rem; }
th[data-sort] { cursor: pointer; } th[data-sort]:hover { text-decoration: underline; }
tr.better .words { color: var(--good); font-weight: 600; }
tr.worse .words { color: var(--bad); font-weight: 600; }
tr.baseline { background: #8882; }
svg { display: block; } svg line { stroke: currentColor; }
tr.better svg { color: var(--good); } tr.worse svg { color: var(--bad); }
img { max-width: 100%; background: white; border-radius: 4px; padding: 4px; }
pre { overflow-x: auto; background: #8882; padding: .7rem; font-size: 12px; }
dt { float: left; clear: left; width: 10rem; opacity: .75; } dd { margin-left: 10.5rem; }
summary { cursor: pointer; } small { opacity: .8; }
@media print { details > * { display: block; } .scroll { overflow: visible; } }
"""
SORT = """
for (const th of document.querySelectorAll('th[data-sort]')) th.onclick = () => {
  const i = th.cellIndex, body = th.closest('table').tBodies[0], up = th.dataset.up !== '1';
  const read = row => {
    const text = row.cells[i].dataset.value ?? row.cells[i].textContent;
    return text === '' || isNaN(text) ? text : Number(text);
  };
  th.dataset.up = up ? '1' : '';
  const rows = [...body.rows].sort((a, b) => {
    const x = read(a), y = read(b);
    if (x === '' || y === '') return (x === '') - (y === '');
    return (x < y ? -1 : x > y ? 1 : 0) * (up ? 1 : -1);
  });
  body.append(...rows);
};
"""


def page(
    found: Gathered, compared: Sequence[Compared], pictures: Mapping[str, pathlib.Path]
) -> str:
    """The whole page."""
    flagged = ''.join(f'<p>{escape(sentence)}</p>' for sentence in flags(found))
    rest = left_out(found)
    sections = [
        f'<h1>{escape(found.title)}</h1><p class="question">{escape(found.question)}</p>',
        f'<p class="verdict">{escape(verdict(found, compared))}</p>',
        f'<div class="flags"><b>Mind</b>{flagged}</div>' if flagged else '',
        f'<p>{escape(in_words(noise(found)))}</p>',
        f'<h2>Arms by {escape(found.metric)} ({found.better} is better)</h2>',
        _arms(found, compared),
        f'<p>{escape(best_settings(found, compared))}</p>',
        f'<p><small>{escape(METHOD)} A click on a head sorts by it.</small></p>',
        *(_section(f'Best of each {best.factor}', _best(best)) for best in bests(found)),
        *(_picture(title, path) for title, path in pictures.items()),
        _section('Runs that are not compared', _left_out(rest)) if rest else '',
        _section('To make it again', _origin(found)),
    ]
    body = '\n'.join(sections)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<title>{escape(found.title)}</title><meta name="viewport" content="width=device-width">'
        f'<style>{STYLE}</style>\n{body}\n<script>{SORT}</script></html>\n'
    )


def _section(title: str, body: str) -> str:
    return f'<h2>{escape(title)}</h2>{body}'


def _picture(title: str, path: pathlib.Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    image = f'<img alt="{escape(title)}" src="data:image/png;base64,{data}">'
    return _section(title, image)


def _arms(found: Gathered, compared: Sequence[Compared]) -> str:
    known, bar, ranked = noise(found), _bars(compared), ranked_rows(found, compared)
    texts = [cells(c, known) for c in ranked]
    columns, rows = filled(texts), []
    for c, row in zip(ranked, texts, strict=True):
        tds = {i: f'<td{_sort_value(row[i])}>{escape(row[i])}</td>' for i in columns}
        tds[0] = f'<td title="{escape(settings(c.arm))}">{escape(c.arm.name)}</td>'
        tds[VERDICT] = f'<td>{bar(c)}</td><td class="words">{escape(row[VERDICT])}</td>'
        rows.append(f'<tr class="{c.verdict.split()[0]}">{"".join(tds.values())}</tr>')
    heads = {i: f'<th data-sort>{escape(HEADS[i])}</th>' for i in columns}
    heads[VERDICT] = '<th></th><th data-sort class="words">verdict</th>'
    return _table(heads.values(), rows)


def _best(best: Best) -> str:
    heads = [f'<th data-sort>{escape(head)}</th>' for head in best.heads]
    cells = [[f'<td{_sort_value(text)}>{escape(text)}</td>' for text in row] for row in best.rows]
    table = _table(heads, [f'<tr>{"".join(row)}</tr>' for row in cells])
    return f'{table}<p><small>{escape(NOTE)}</small></p>'


def _sort_value(text: str) -> str:
    """Numbers as a browser reads them: without commas, units and what follows."""
    first = text.replace(',', '').replace('< ', '').partition(' ')[0]
    units = {'s': 1, 'min': 60, 'h': 3600}
    scale = units.get(text.rpartition(' ')[2], 1)
    try:
        return f' data-value="{float(first) * scale!r}"'
    except ValueError:
        return ''


def _bars(compared: Sequence[Compared]) -> Callable[[Compared], str]:
    """Draws an arm's difference with its interval on a scale that all arms share."""
    known = [c.difference for c in compared if not math.isnan(c.difference)]
    most = 1.4 * max(map(abs, known), default=0.0) or 1.0

    def place(value: float) -> float:
        return 45 + 42 * max(-1.0, min(1.0, value / most))

    def bar(c: Compared) -> str:
        if math.isnan(c.difference):
            return ''
        span = (
            ''
            if math.isnan(c.low)
            else f'<line x1="{place(c.low):.1f}" x2="{place(c.high):.1f}" y1="7" y2="7" '
            'stroke-width="2"/>'
        )
        return (
            '<svg width="90" height="14" aria-hidden="true"><line x1="45" x2="45" y1="0" y2="14" '
            f'opacity=".35"/>{span}<circle cx="{place(c.difference):.1f}" cy="7" r="3.2" '
            'fill="currentColor"/></svg>'
        )

    return bar


def _table(heads: Iterable[str], rows: Iterable[str]) -> str:
    return (
        f'<div class="scroll"><table><thead><tr>{"".join(heads)}</tr></thead>'
        f'<tbody>{"".join(rows)}</tbody></table></div>'
    )


def _left_out(rows: Sequence[Sequence[str]]) -> str:
    lines = []
    for *first, why in rows:
        tds = ''.join(f'<td>{escape(text)}</td>' for text in first)
        lines.append(f'<tr>{tds}<td class="why">{escape(why)}</td></tr>')
    heads = ''.join(f'<th>{head}</th>' for head in LEFT_OUT[:-1])
    return _table([heads, '<th class="words">why</th>'], lines)


def _origin(found: Gathered) -> str:
    facts = ''.join(f'<dt>{escape(k)}</dt><dd>{escape(v)}</dd>' for k, v in provenance(found))
    shown = f'<pre>{escape(found.whole)}</pre>' if found.whole else ''
    alone = (
        f'<details><summary>each of the {len(found.commands)} runs alone</summary>'
        f'<pre>{escape(chr(10).join(found.commands))}</pre></details>'
    )
    return f'<dl>{facts}</dl>{shown}{alone if found.commands else ""}'
