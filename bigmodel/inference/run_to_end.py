"""A run from its config to result.json: what `train` does, and what a sweep does for each arm."""

from collections.abc import Callable
from typing import Any

from bigmodel import hosts
from bigmodel.config import ConfigDict
from bigmodel.data.atomic import write_json
from bigmodel.data.formats import build_format
from bigmodel.errors import UserError
from bigmodel.inference.generate import Sampling, beginning, generate
from bigmodel.training.clock import Clock
from bigmodel.training.loop import never, train
from bigmodel.training.outline import resolve
from bigmodel.training.profiling import Profile
from bigmodel.training.restore import learned_length, refusal
from bigmodel.training.rundir import RunDir
from bigmodel.training.setup import Setup, build
from bigmodel.training.state import State

Build = Callable[[ConfigDict], Setup]


def run_to_end(
    run: RunDir,
    config: ConfigDict,
    build: Build = build,
    reason_to_stop: Callable[[RunDir], str] = never,
    began: float | None = None,
    profile: Profile | None = None,
) -> dict[str, Any]:
    """Trains `config` (resuming what is there) and writes the result, which is returned.

    After evaluations `reason_to_stop` is asked whether the run should end; '' means to go on.
    Its time is counted from `began` (of `time.time()`; default: now) on; `profile` traces some
    steps.
    Raises Interrupted after a signal, and UserError for a config that cannot run or that the
    directory's run does not have.
    """
    clock = Clock(began)
    config = resolve(config)
    if config.sample and refusal(config):
        raise UserError(f"sample={config.sample!r}: the model {refusal(config)}; set sample to ''")
    hosts.from_first(lambda: run.check(config))
    setup = build(config)
    if config.sample:  # a prompt that cannot be shows before hours of training
        format = build_format(config.data.format)
        beginning(setup.task, setup.data.tokenizer, config.sample, format)
    state, result = train(setup, run, reason_to_stop, clock, profile)
    if config.sample:
        _write_sample(setup, state, run)
    if hosts.is_first():
        write_json(run.result, result)  # last: its presence says that the run is finished
    return result


def _write_sample(setup: Setup, state: State, run: RunDir) -> None:
    prompt, most = setup.config.sample, learned_length(setup.config)
    sampling = Sampling(max_tokens=min(200, most // 2) if most else 200)
    texts = generate(
        setup.model,
        setup.optimizer.averaged(state.params, state.opt_state),
        setup.data.tokenizer,
        prompt,
        sampling,
        task=setup.task,
        format=build_format(setup.config.data.format),
    )
    if hosts.is_first():
        run.samples.write_text(''.join(texts))
    print(
        f'\nsample (temperature {Sampling().temperature}):\n'
        + '\n'.join('  | ' + line for line in texts[0].splitlines())
    )
