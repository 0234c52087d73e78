"""What came out of a run: the content of result.json."""

from typing import Any

from bigmodel import devices
from bigmodel.training.goodput import goodput
from bigmodel.training.log import Log
from bigmodel.training.rundir import RunDir
from bigmodel.training.setup import Setup
from bigmodel.training.writers import ABOUT, read_jsonl


def result_of(setup: Setup, run: RunDir, log: Log, step: int) -> dict[str, Any]:
    """The last metrics of each split, and what `step` steps took, compilation apart."""
    # Read back, so that a run killed just before this point ends with the same result.
    last = {r['split']: r for r in read_jsonl(run.metrics)}
    rates = [r['tokens_per_second'] for r in read_jsonl(run.metrics) if r['split'] == 'train']
    rates = rates or [step * setup.tokens_per_step / log.seconds]  # it ended before the first line
    rate = sorted(rates)[len(rates) // 2]
    peak = devices.peak_flops()
    return {
        'steps': step,
        'tokens': step * setup.tokens_per_step,
        'metrics': {
            split: {k: v for k, v in record.items() if k not in ABOUT}
            for split, record in last.items()
        },
        'seconds': round(log.seconds, 3),
        'tokens_per_second': rate,
        'mfu': rate * setup.flops_per_token / peak if peak else None,
        'peak_memory_bytes': devices.peak_memory_bytes(),
        'goodput': goodput(run.times),
    }
