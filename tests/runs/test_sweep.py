"""A whole sweep as processes: killed, seen from outside, gone on with, reported."""

import json
import pathlib
import signal
import time
from collections.abc import Callable

CARD = '''"""Which rate?"""

from bigmodel.sweeps.arms import Sweep, grid
from experiments import quickstart


def get_config(arg=''):
    return quickstart.get_config()


def sweep():
    rates = (1e-3, 1e-2)
    return Sweep(grid({'optimizer.learning_rate': rates}), seeds=(0, 1))
'''


def results(sweep: pathlib.Path) -> dict[pathlib.Path, float]:
    return {path: path.stat().st_mtime for path in sweep.glob('*/*/result.json')}


def test_killed_and_started_again_it_does_the_rest(
    small_args: list[str], start: Callable, launch: Callable, tmp_path: pathlib.Path
) -> None:
    card, sweep = tmp_path / 'rates.py', tmp_path / 'sweep'
    card.write_text(CARD)
    args = ['sweep', f'--config={card}', *small_args, '--config.num_steps=150']
    args += ['--config.checkpoint.every=20', '--workers=1', f'--workdir={sweep}']
    process = start(*args)
    until = time.monotonic() + 100
    # The second run is under way: one is done, and one has begun.
    while time.monotonic() < until and process.poll() is None:
        if results(sweep) and len([*sweep.glob('*/*/metrics.jsonl')]) > 1:
            break
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()
    out = launch('sweep', f'--workdir={sweep}', '--status').stdout
    assert '1 done, 1 running, 2 waiting' in out
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    before = results(sweep)
    assert '1 stopped, 2 waiting' in launch('sweep', f'--workdir={sweep}', '--status').stdout

    out = launch(*args).stdout
    assert '3 of 4 runs to do' in out and '4 done' in out
    after = results(sweep)
    assert len(after) == 4 and before.items() <= after.items()
    logs = (sweep / 'logs' / 'worker-0.log').read_text()
    assert 'resumed after step' in logs
    assert '4 done' in launch(*args).stdout  # again: nothing to do
    assert results(sweep) == after

    assert 'Too few seeds' in launch('report', str(sweep)).stdout
    commands = [c for c in json.loads((sweep / 'sweep.json').read_text())['arms']]
    assert [c['name'] for c in commands] == ['learning_rate=0.001', 'learning_rate=0.01']
