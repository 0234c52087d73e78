"""The tables of a report as cells of text: arms against the baseline, and runs not compared."""

import math
import statistics
from collections.abc import Sequence

from bigmodel.reports.gathered import COMPILED, Arm, Gathered, Run
from bigmodel.reports.noise import Noise
from bigmodel.reports.statistics import FEWEST, Compared
from bigmodel.sweeps.status import duration

HEADS = (
    'arm',
    'value',
    'sd',
    'seeds',
    'difference',
    '95 % interval',
    'adjusted p',
    'verdict',
    'seeds needed',
    'parameters',
    'steps',
    'FLOPs',
    'time',
    'compilation',
)
VERDICT = HEADS.index('verdict')
LEFT_OUT = ('run', 'state', 'last step', 'value there', 'why')
METHOD = (
    'Value: mean of the last evaluation of finished runs, with the standard deviation over seeds. '
    'Seeds: finished ones that the baseline has too. Difference: to the baseline, paired by seed, '
    'with the 95 % interval of Student’s t, which is of this arm alone. Adjusted p: of the paired '
    't-test, corrected for the number of arms (Benjamini & Hochberg 1995). Better and worse: '
    f'adjusted p < 0.05 with at least {FEWEST} seeds. Seeds needed: with which a test of this arm '
    'alone would find a difference as large as this one 4 times of 5. Parameters, steps, FLOPs and '
    'time: of one run; time is of training and evaluations. Compilation: what a run took for it '
    'beside that, little where another run of the process had the same program; of older versions '
    'it is partly in the time.'
)


def filled(rows: Sequence[Sequence[str]]) -> list[int]:
    """The columns that are not empty in every row."""
    return [i for i, column in enumerate(zip(*rows, strict=True)) if any(column)]


def ranked_rows(found: Gathered, compared: Sequence[Compared]) -> list[Compared]:
    """The best first; arms without a value come last."""

    def key(c: Compared) -> float:
        return math.inf if math.isnan(c.mean) else -found.sign * c.mean

    return sorted(compared, key=key)


def cells(c: Compared, known: Noise) -> list[str]:
    """One arm, as `HEADS` names them."""
    runs = list(c.arm.done.values())
    needed = c.needed(known)
    return [
        c.arm.name,
        number(c.mean),
        number(c.deviation),
        str(len(runs) if c.verdict == 'baseline' else c.seeds),
        number(c.difference, sign='+'),
        '' if math.isnan(c.low) else f'{number(c.low, "+")} to {number(c.high, "+")}',
        '' if math.isnan(c.q) else f'{c.q:.2g}' if c.q >= 1e-4 else '< 0.0001',
        _verdict(c),
        f'{needed:,}' if needed else '',
        f'{runs[0].facts.get("num_params", 0):,}' if runs else '',
        f'{runs[0].facts["steps"]:,}' if runs else '',
        f'{runs[0].flops:.3g}' if runs else '',
        duration(statistics.fmean(r.facts['seconds'] for r in runs)) if runs else '',
        _compilation(runs),
    ]


def _compilation(runs: Sequence[Run]) -> str:
    if not all(COMPILED in run.facts for run in runs):
        return 'in the time'
    return duration(statistics.fmean(run.facts[COMPILED] for run in runs)) if runs else ''


def _verdict(c: Compared) -> str:
    """With what became of the other runs: 'better (1 of 3 failed)'."""
    outcomes = [run.outcome for run in c.arm.runs if run.outcome != 'done']
    counts = {outcome: outcomes.count(outcome) for outcome in dict.fromkeys(outcomes)}
    if c.verdict in counts and len(counts) == 1 and not c.arm.done:
        return c.verdict
    words = ', '.join(f'{n} of {len(c.arm.runs)} {outcome}' for outcome, n in counts.items())
    return f'{c.verdict} ({words})' if words else c.verdict


def settings(arm: Arm) -> str:
    """What an arm changes: 'model.position=alibi, optimizer.learning_rate=0.01'."""
    return ', '.join(f'{key}={value}' for key, value in arm.changes.items())


def best_settings(found: Gathered, compared: Sequence[Compared]) -> str:
    """Those of the arm with the best mean, whose name may be cut; '' where no arm has finished."""
    best = ranked_rows(found, compared)[0]
    changed = settings(best.arm)
    if math.isnan(best.mean) or not changed:
        return ''
    return f'Best by its mean, {best.arm.name}: {changed}.'


def left_out(found: Gathered) -> list[list[str]]:
    """Runs that are not compared, those that ended before those that may yet finish."""
    order = ('failed', 'pruned', 'stopped', 'running', 'waiting')
    runs = [run for run in found.runs if run.outcome != 'done']
    return [_left(run) for run in sorted(runs, key=lambda run: order.index(run.outcome))]


def _left(run: Run) -> list[str]:
    step = f'{run.facts["steps"]:,}' if run.facts['steps'] else ''
    there = f'{number(run.value)} at {run.step:,}' if run.curve else ''
    return [f'{run.arm}/seed{run.seed}', run.outcome, step, there, run.reason]


def number(value: float, sign: str = '') -> str:
    """Four decimals where these say enough; '' for NaN."""
    if math.isnan(value):
        return ''
    plain = not value or 1e-3 <= abs(value) < 1e5
    return f'{value:{sign}.4f}' if plain else f'{value:{sign}.3g}'


def in_columns(found: Gathered, compared: Sequence[Compared], most: int = 12) -> str:
    """The first columns and arms for a terminal; the baseline is always there."""
    ranked = ranked_rows(found, compared)
    shown = ranked[:most]
    base = next(c for c in ranked if c.verdict == 'baseline')
    shown += [] if base in shown else [base]
    width = max(len('arm'), *(len(c.arm.name) for c in shown))
    lines = [f'{"arm":<{width}} {"value":>10} {"sd":>8} {"seeds":>5} {"difference":>10}  verdict']
    lines += [
        f'{c.arm.name:<{width}} {number(c.mean):>10} {number(c.deviation):>8} '
        f'{len(c.arm.done):>5} {number(c.difference, "+"):>10}  {_verdict(c)}'
        for c in shown
    ]
    return '\n'.join(lines + [f'and {len(ranked) - len(shown)} more'] * (len(ranked) > len(shown)))
