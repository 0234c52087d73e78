"""A trace of some steps, of the host and its devices, for xprof and Perfetto."""

import contextlib
import pathlib
import re
from typing import Any

import jax

from bigmodel import hosts
from bigmodel.errors import UserError

AUTO = 'auto'
SKIPPED, TRACED = 2, 5  # steps after the compilation, and then so many


class Profile:
    """Traces steps first to last of a run, on the first host.

    The steps are 'first:last', as `metrics.jsonl` counts them, or 'auto': 5 steps after the first
    2 that this process makes, which take longer than others; '' traces none. Raises UserError for
    what is no range within the `num_steps` of the run.
    """

    def __init__(self, steps: str = '', num_steps: int = 0) -> None:
        self._num_steps, self._steps = num_steps, steps
        self._range, self._tracing, self._last = range(0), False, 0
        if steps in ('', AUTO):
            return
        found = re.fullmatch(r'(\d+):(\d+)', steps)
        if not found:
            raise UserError(f'--profile={steps}: give the first and the last step, --profile=10:15')
        first, last = map(int, found.groups())
        if not 1 <= first <= last <= num_steps:
            raise UserError(
                f'--profile={steps}: the steps are 1 to num_steps={num_steps}, the first one first'
            )
        self._range = range(first, last + 1)

    def begin(self, folder: pathlib.Path, start: int) -> None:
        """Takes where it is written to, and after which step the run starts.

        It traces nothing where its first step is made already: the same command resumes a run.
        """
        self._folder = folder
        if self._steps == AUTO:
            first = max(min(start + 1 + SKIPPED, self._num_steps), start + 1)
            self._range = range(first, min(first + TRACED, self._num_steps + 1))
        elif self._range and self._range[0] <= start:
            print(f'{"profile":>9}  none: step {self._range[0]} is made already', flush=True)
            self._range = range(0)

    def before(self, step: int, newest: Any) -> contextlib.AbstractContextManager:
        """Starts before the first of the steps, when `newest` is computed; to be entered for each
        step, which it names in the trace.
        """
        if self._range and step == self._range[0] and hosts.is_first():
            jax.block_until_ready(newest)
            jax.profiler.start_trace(self._folder)
            self._tracing = True
        return jax.profiler.StepTraceAnnotation('step', step_num=step)

    def after(self, step: int, newest: Any) -> None:
        """Ends after the last of the steps, when `newest` is computed, and says how to look."""
        self._last = step
        if self._tracing and step == self._range[-1]:
            jax.block_until_ready(newest)
            self.close()

    def close(self) -> None:
        """Writes what was traced, also of a run that ended within the steps."""
        if not self._tracing:
            return
        self._tracing = False
        jax.profiler.stop_trace()
        traces = sorted(self._folder.glob('plugins/profile/*/*.trace.json.gz'))
        whose = f', first of {hosts.count()} hosts' * (hosts.count() > 1)
        print(
            f'profile of steps {self._range[0]} to {self._last}{whose}: pip install xprof && xprof '
            f'--logdir={self._folder} --port=6006\n'
            f'  or open {"".join(map(str, traces[-1:]))} in https://ui.perfetto.dev',
            flush=True,
        )
