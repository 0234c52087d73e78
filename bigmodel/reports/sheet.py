"""report.csv: a line a run."""

import csv
import io
import math

from bigmodel.reports.gathered import COMPILED, GOODPUT, Gathered

COSTS = ('num_params', 'steps', 'tokens', 'seconds', COMPILED, GOODPUT)


def sheet(found: Gathered) -> str:
    """Every run with its value, its cost and every key in which arms differ."""
    out = io.StringIO()
    writer = csv.writer(out)
    heads = ['arm', 'seed', 'state', found.metric, 'at_step', *COSTS, 'flops']
    writer.writerow([*heads, *found.varied, 'directory', 'error'])
    for arm in found.arms:
        changes = [arm.changes.get(key, '') for key in found.varied]
        for run in arm.runs:
            value = '' if math.isnan(run.value) else repr(run.value)
            spent = [run.facts.get(key, '') for key in COSTS]
            own = [run.arm, run.seed, run.outcome, value, run.step or '', *spent, run.flops]
            writer.writerow([*own, *changes, run.path, run.reason])
    return out.getvalue()
