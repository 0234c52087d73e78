"""The report as pages: report.html (self-contained), report.md and report.csv."""

import base64
import csv
import html
import io
import math
import pathlib
from collections.abc import Mapping, Sequence

from bigmodel.reports.flags import flags
from bigmodel.reports.gathered import Gathered
from bigmodel.reports.statistics import FEWEST, Compared, noise_floor, verdict
from bigmodel.sweeps.status import duration

Picture = Mapping[str, pathlib.Path]

HEADS = ('arm', 'value', 'sd', 'seeds', 'difference', '95 % interval', 'q', 'verdict')
COSTS = ('parameters', 'steps', 'FLOPs', 'time')


def rows(found: Gathered, compared: Sequence[Compared]) -> list[list[str]]:
    """The table of arms, the best first; arms that have not finished come last."""

    def key(c: Compared) -> float:
        return math.inf if math.isnan(c.mean) else -found.sign * c.mean

    return [_row(found, c) for c in sorted(compared, key=key)]


def _row(found: Gathered, c: Compared) -> list[str]:
    low_high = '' if math.isnan(c.low) else f'{c.low:+.4f} to {c.high:+.4f}'
    runs = list(c.arm.done.values())
    unfinished = ', '.join(dict.fromkeys(r.state for r in c.arm.runs if r.state != 'done'))
    words = c.verdict if c.verdict != 'not finished' else unfinished
    if runs and unfinished:
        words += f' ({unfinished} too)'
    seconds = sum(r.facts['seconds'] for r in runs) / max(len(runs), 1)
    return [
        c.arm.name,
        _number(c.mean),
        _number(c.deviation),
        str(len(runs) if c.verdict == 'baseline' else c.seeds),
        '' if math.isnan(c.difference) else f'{c.difference:+.4f}',
        low_high,
        '' if math.isnan(c.q) else f'{c.q:.2g}',
        words,
        f'{runs[0].facts.get("num_params", 0):,}' if runs else '',
        f'{runs[0].facts["steps"]:,}' if runs else '',
        f'{runs[0].flops:.3g}' if runs else '',
        duration(seconds) if runs else '',
    ]


def _number(value: float) -> str:
    return '' if math.isnan(value) else f'{value:.4f}'


def noise(found: Gathered, compared: Sequence[Compared]) -> str:
    """How large the noise of seeds is, in words."""
    floor = noise_floor(compared)
    if math.isnan(floor):
        return 'Every arm has one seed: how large the noise of seeds is cannot be told.'
    seeds = max(len(c.arm.done) for c in compared)
    reach = 1.96 * floor * math.sqrt(2 / seeds)
    return (
        f'Seed noise: the standard deviation over seeds is {floor:.4f} (median of the arms); two '
        f'arms that are the same would differ by up to {reach:.4f} in the means of {seeds} seeds, '
        f'19 times of 20.'
    )


METHOD = (
    'value: mean of the last evaluation of finished runs; difference: to the baseline, paired by '
    'seed, with the 95 % interval of Student’s t; q: p-value of the paired t-test, corrected for '
    f'the number of arms (Benjamini & Hochberg); better and worse: q < 0.05 of at least {FEWEST} '
    'seeds.'
)


def markdown(found: Gathered, compared: Sequence[Compared], pictures: Picture) -> str:
    """report.md."""
    lines = [f'# {found.title}', '']
    lines += [found.question, ''] if found.question else []
    lines += [verdict(found, compared), '', noise(found, compared), '']
    lines += [f'- {sentence}' for sentence in flags(found)]
    heads = [*HEADS, *COSTS]
    lines += ['', f'| {" | ".join(heads)} |', '|' + '---|' * len(heads)]
    lines += [f'| {" | ".join(cells)} |' for cells in rows(found, compared)]
    lines += ['', METHOD.replace('value', found.metric, 1), '']
    lines += [f'![{title}]({path.name})' for title, path in pictures.items()]
    failed = [run for run in found.runs if run.error]
    if failed:
        lines += ['', '## Failed', '']
        lines += [f'- {run.arm}, seed {run.seed}: {run.error}' for run in failed]
    lines += ['', '## To make it again', '', *(f'    {c}' for c in provenance(found)), '']
    lines += [f'    {command}' for command in found.commands]
    return '\n'.join(lines) + '\n'


def provenance(found: Gathered) -> list[str]:
    """Commit, versions, devices and data of the first run that has any."""
    facts = next((run.facts for run in found.runs if 'versions' in run.facts), None)
    if facts is None:
        return []
    git = facts.get('git', {})
    state = ' with uncommitted changes' if git.get('dirty') else ''
    return [
        f'commit {git.get("commit", "unknown")}{state}',
        ', '.join(f'{name} {version}' for name, version in facts['versions'].items()),
        f'{facts.get("devices")}, attention kernel {facts.get("kernel")}',
        f'data fingerprint {facts.get("data_fingerprint")}',
    ]


def table_csv(found: Gathered) -> str:
    """report.csv: a line a run, with every key in which arms differ."""
    out = io.StringIO()
    writer = csv.writer(out)
    costs = ('num_params', 'steps', 'tokens', 'seconds')
    writer.writerow(
        ['arm', 'seed', 'state', found.metric, *costs, 'flops', *found.varied, 'directory', 'error']
    )
    for arm in found.arms:
        for run in arm.runs:
            value = '' if math.isnan(run.value) else repr(run.value)
            spent = [run.facts.get(key, '') for key in costs]
            changes = [arm.changes.get(key, '') for key in found.varied]
            writer.writerow(
                [
                    run.arm,
                    run.seed,
                    run.state,
                    value,
                    *spent,
                    run.flops,
                    *changes,
                    run.path,
                    run.error,
                ]
            )
    return out.getvalue()


STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1240px; margin: 2rem auto; }
body { padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2rem; }
.question { font-size: 1.1rem; opacity: .75; margin-top: .2rem; }
.verdict { font-size: 1.15rem; border-left: 4px solid #2a7; padding: .4rem .9rem; }
.flags { border-left: 4px solid #c80; padding: .1rem .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #8884; text-align: right; }
th:first-child, td:first-child, td:nth-child(8) { text-align: left; }
th { cursor: pointer; white-space: nowrap; }
td { white-space: nowrap; }
tr.better td:nth-child(8) { color: #2a7; font-weight: 600; }
tr.worse td:nth-child(8) { color: #d33; }
tr.baseline { background: #8882; }
img { max-width: 100%; background: white; border-radius: 4px; }
pre { overflow-x: auto; background: #8882; padding: .7rem; font-size: 12px; }
small { opacity: .75; }
"""
SORT = """
for (const th of document.querySelectorAll('th')) th.onclick = () => {
  const i = th.cellIndex, body = th.closest('table').tBodies[0], up = th.dataset.up !== '1';
  const read = row => {
    const text = row.cells[i].textContent, n = parseFloat(text.replace(/,/g, ''));
    return isNaN(n) ? text : n;
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


def page(found: Gathered, compared: Sequence[Compared], pictures: Picture) -> str:
    """report.html, which needs nothing beside itself."""
    text = html.escape
    classes = {c.arm.name: c.verdict.split()[0] for c in compared}
    body = [
        f'<tr class="{classes[cells[0]]}">'
        + ''.join(f'<td>{text(c)}</td>' for c in cells)
        + '</tr>'
        for cells in rows(found, compared)
    ]
    head = ''.join(f'<th>{text(name)}</th>' for name in (*HEADS, *COSTS))
    flagged = ''.join(f'<p>{text(sentence)}</p>' for sentence in flags(found))
    failed = ''.join(
        f'<li><b>{text(run.arm)}</b>, seed {run.seed}: {text(run.error)}</li>'
        for run in found.runs
        if run.error
    )
    drawn = ''.join(
        f'<h2>{text(title)}</h2><img alt="{text(title)}" src="data:image/png;base64,'
        f'{base64.b64encode(path.read_bytes()).decode()}">'
        for title, path in pictures.items()
    )
    commands = text('\n'.join([*provenance(found), '', *found.commands]))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{text(found.title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
        f'<h1>{text(found.title)}</h1><p class="question">{text(found.question)}</p>'
        f'<p class="verdict">{text(verdict(found, compared))}</p>'
        f'<p>{text(noise(found, compared))}</p>'
        + (f'<div class="flags">{flagged}</div>' if flagged else '')
        + f'<h2>Arms by {text(found.metric)}</h2><div class="scroll"><table><thead><tr>{head}</tr>'
        f'</thead><tbody>{"".join(body)}</tbody></table></div><p><small>{text(METHOD)} A click '
        f'on a column sorts by it.</small></p>{drawn}'
        + (f'<h2>Failed</h2><ul>{failed}</ul>' if failed else '')
        + f'<h2>To make it again</h2><pre>{commands}</pre><script>{SORT}</script></html>\n'
    )
