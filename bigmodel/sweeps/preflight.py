"""Before anything runs: every arm is checked and counted; arms that are the same are refused."""

import contextlib
import dataclasses
import random
import sys
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from bigmodel.config import ConfigDict
from bigmodel.errors import UserError
from bigmodel.models.heads import chunk_of
from bigmodel.sweeps.budgets import build_budget
from bigmodel.sweeps.folder import SweepDir
from bigmodel.sweeps.plan import Plan, PlannedArm
from bigmodel.sweeps.pruning import build_pruning
from bigmodel.sweeps.samplers import build_sampler
from bigmodel.sweeps.spaces import as_text, from_json
from bigmodel.training.evaluate import Evaluation, judges_of
from bigmodel.training.outline import resolve
from bigmodel.training.programs import program_of
from bigmodel.training.progress import watched
from bigmodel.training.rundir import RunDir
from bigmodel.training.setup import Setup, another, build
from bigmodel.training.slots import config_spelt_out


class Builder:
    """Builds runs; those of one program share what was compiled for the first.

    `kept` programs are, at most: Linux gives a process 65,530 memory maps, what a run compiles
    takes some hundred of them, and XLA dies when there are no more.
    """

    def __init__(self, kept: int = sys.maxsize) -> None:
        self._kept = kept
        self._first: dict[str, Setup] = {}
        self._numbers: dict[str, int] = {}

    def __call__(self, config: ConfigDict) -> Setup:
        """The run of a resolved config; raises UserError for what is wrong with it."""
        program = program_of(config)
        if program in self._first:
            self._first[program] = self._first.pop(program)  # the last to go
            return another(self._first[program], config)
        setup = build(config)
        self._numbers.setdefault(program, len(self._numbers) + 1)
        while len(self._first) >= self._kept:
            del self._first[next(iter(self._first))]
        self._first[program] = setup
        return setup

    def number(self, config: ConfigDict) -> int:
        """Of the program, counted from 1 in the order of building."""
        return self._numbers[program_of(config)]


def preflight(plan: Plan) -> Plan:
    """The plan with the budget applied and the facts of every arm.

    Raises UserError, which names the arm, for the first arm that cannot run, and for two arms that
    are the same.
    """
    builder = Builder()
    for arm in plan.arms:
        with _naming(arm):
            _check_metric(plan, builder(resolve(plan.config(arm, plan.seeds[0]))))
    arms = build_budget(plan.budget).even(plan, partial(_count, plan, builder))
    _refuse_twins(plan, arms)
    ends = tuple(check_arm(plan, arm, builder) for arm in _ends_of_space(plan))
    build_pruning(plan.prune).check(plan, (*arms, *ends))
    machine = {
        'platform': jax.default_backend(),
        'devices': jax.device_count(),
        'device': jax.devices()[0].device_kind,
        'matmul_flops_per_second': matmul_flops_per_second(),
    }
    return dataclasses.replace(plan, arms=arms, machine=machine)


def check_arm(plan: Plan, arm: PlannedArm, builder: Builder) -> PlannedArm:
    """An arm of a search with its facts; raises UserError, which names it, when it cannot run."""
    return dataclasses.replace(arm, facts=_count(plan, builder, arm))


def _ends_of_space(plan: Plan) -> list[PlannedArm]:
    """Of a search, arms with one value at an end of its range and the others somewhere in theirs.

    Raises UserError where there is a search and it cannot go on.
    """
    if not plan.search:
        return []
    build_sampler(plan.search['sampler'])
    space = {key: from_json(plain) for key, plain in plan.search['space'].items()}
    draw = random.Random(0)
    some = {key: as_text(values.draw(draw)) for key, values in space.items()}
    ends = ((key, as_text(end)) for key, values in space.items() for end in values.ends())
    return [PlannedArm(f'of the search, {key}={end}', some | {key: end}) for key, end in ends]


def check_runs(sweep: SweepDir, plan: Plan) -> None:
    """Raises UserError when the directory has a run of another config than the plan's."""
    for job in plan.jobs:
        RunDir(sweep.run_dir(job)).check(resolve(plan.config(plan.arm(job.arm), job.seed)))


def _count(plan: Plan, builder: Builder, arm: PlannedArm) -> dict[str, Any]:
    """The facts of an arm; raises UserError, which names it, when it cannot run."""
    with _naming(arm):
        return _facts(plan, arm, builder)


@contextlib.contextmanager
def _naming(arm: PlannedArm) -> Iterator[None]:
    """Begins what is raised with the arm's name."""
    try:
        yield
    except UserError as e:
        text = str(e).removeprefix(f'arm {arm.name}: ')
        raise UserError(f'arm {arm.name}: {text}') from e


def _check_metric(plan: Plan, setup: Setup) -> None:
    """Raises UserError for a metric that the run would not log."""
    config, evals = setup.config, setup.config.evals
    compared = watched(f'{plan.metric}: better={plan.better}', evals, 'metric', patience=False)
    best = watched(config.checkpoint.best, evals, 'checkpoint.best', patience=False)
    patient = watched(config.stop_early, evals, 'stop_early', patience=True)

    def names(evaluation: str) -> tuple[str, ...]:
        opened = Evaluation(setup, evaluation, evals[evaluation], judges_of(setup))
        with setup.sharding.active():
            return opened.names()

    def once(evaluation: str) -> tuple[str, ...]:
        key = ('names', evaluation, str(evals[evaluation]))
        return setup.programs.once(key, partial(names, evaluation))

    for evaluation in evals:  # opens each, which raises for what it cannot read
        once(evaluation)
    compared.check(once, 'metric')
    best.check(once, 'checkpoint.best')
    patient.check(once, 'stop_early')


def _facts(plan: Plan, arm: PlannedArm, builder: Builder) -> dict[str, Any]:
    config = resolve(plan.config(arm, plan.seeds[0]))
    setup = builder(config)
    flops = setup.flops_per_token * setup.tokens_per_step * config.num_steps
    return {
        **dataclasses.asdict(setup.sizes),
        'num_steps': config.num_steps,
        'tokens_per_step': setup.tokens_per_step,
        'tokens': setup.tokens_per_step * config.num_steps,
        'flops_per_token': setup.flops_per_token,
        'flops': flops,
        'evaluation_flops': _evaluation_flops(setup),
        'memory_bytes': _memory_bytes(setup),
        'program': builder.number(config),
    }


def _memory_bytes(setup: Setup) -> int:
    """Parameters, gradients, optimizer state, and the activations of a microbatch: of each layer
    about 16 numbers a feature, and the logits with their gradient.
    """
    sizes, model = setup.sizes, setup.config.model
    tokens = setup.tokens_per_step // setup.config.accumulate
    at_once = min(tokens, chunk_of(model.head) or tokens)
    logits = 2 * at_once * setup.data.tokenizer.vocab_size
    activations = 4 * (16 * tokens * model.depth * model.width + logits)
    return 2 * sizes.param_bytes + sizes.optimizer_bytes + activations


def _evaluation_flops(setup: Setup) -> int:
    """Of all evaluations whose number of batches is known."""
    steps = setup.config.num_steps
    times = (-(-steps // e.every) * e.batches for e in setup.config.evals.values())
    return sum(times) * setup.forward_flops_per_token * setup.tokens_per_step


def _refuse_twins(plan: Plan, arms: tuple[PlannedArm, ...]) -> None:
    seen: dict[str, str] = {}
    for arm in arms:
        config = resolve(plan.config(arm, plan.seeds[0]))
        config.name = ''
        key = repr(sorted(config_spelt_out(config).items()))
        if key in seen:
            raise UserError(
                f'arms {seen[key]} and {arm.name} are the same run: '
                f'{_words(arm.changes)} changes nothing that tells them apart; remove one'
            )
        seen[key] = arm.name


def _words(changes: Mapping[str, str]) -> str:
    return ', '.join(f'{key}={text}' for key, text in changes.items()) or 'no change'


def matmul_flops_per_second(size: int = 1024, seconds: float = 0.2) -> float:
    """The speed of one device at a product of two matrices of the default precision."""
    x = jax.device_put(jnp.ones((size, size), jnp.float32), jax.local_devices()[0])
    product = jax.jit(lambda x: x @ x).lower(x).compile()
    jax.block_until_ready(product(x))
    began, times = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        jax.block_until_ready(product(x))
        times += 1
    return 2 * size**3 * times / (time.perf_counter() - began)
