"""A trace has the steps that were asked for, and no others."""

import gzip
import json
import pathlib

import jax
import jax.numpy as jnp
import pytest

from bigmodel.errors import UserError
from bigmodel.training.profiling import Profile


def traced(folder: pathlib.Path, steps: str, start: int, stop: int) -> set[int]:
    """The steps in the trace of a run of 20 that starts after `start` and ends after `stop`."""
    profile = Profile(steps, 20)
    profile.begin(folder, start)
    state, advance = jnp.zeros(()), jax.jit(lambda x: x + 1)
    for step in range(start + 1, stop + 1):
        with profile.before(step, state):
            state = advance(state)
        profile.after(step, state)
    profile.close()
    found = list(folder.glob('plugins/profile/*/*.trace.json.gz'))
    assert len(found) < 2
    events = [e for f in found for e in json.loads(gzip.decompress(f.read_bytes()))['traceEvents']]
    return {int(e['args']['step_num']) for e in events if 'step_num' in e.get('args', {})}


@pytest.mark.parametrize(
    ('steps', 'start', 'stop', 'want'),
    [
        ('3:4', 0, 6, {3, 4}),
        ('1:1', 0, 2, {1}),
        ('auto', 5, 20, {8, 9, 10, 11, 12}),  # resumed: this process compiles anew
        ('auto', 18, 20, {20}),
        ('4:9', 0, 5, {4, 5}),  # it ended within them
        ('3:4', 3, 6, set()),  # resumed after the first of them
        ('', 0, 3, set()),
    ],
)
def test_the_trace_has_the_steps_that_were_asked_for(steps, start, stop, want, tmp_path) -> None:
    assert traced(tmp_path / 'profile', steps, start, stop) == want


@pytest.mark.parametrize('steps', ['4', '9:4', '0:3', '5:21', 'a:b', '3:'])
def test_what_is_no_range_within_the_run_is_refused(steps) -> None:
    with pytest.raises(UserError, match=f'--profile={steps}'):
        Profile(steps, 20)


def test_how_to_open_it_is_said(tmp_path, capsys) -> None:
    traced(tmp_path, '1:2', 0, 3)
    said = capsys.readouterr().out
    assert 'steps 1 to 2' in said and f'xprof --logdir={tmp_path}' in said
    assert str(next(tmp_path.rglob('*.trace.json.gz'))) in said and 'ui.perfetto.dev' in said
