"""Sweep directories as runs would leave them, written by hand."""

import json
import math
import pathlib
import random
from collections.abc import Callable, Mapping

from bigmodel import config as config_lib
from bigmodel.models import presets
from bigmodel.sweeps.folder import SweepDir
from bigmodel.sweeps.plan import Job, Plan, PlannedArm
from experiments import defaults

Curve = Callable[[Mapping, int], list[tuple[int, float]]]


def made_sweep(
    path: pathlib.Path, arms: Mapping[str, Mapping], seeds: tuple[int, ...], curve: Curve, **plan
) -> SweepDir:
    """A finished sweep of `arms` (name -> changes); `curve(changes, seed)` is its metric."""
    facts = {'num_steps': 100, 'flops': 1e9, 'program': 1}
    planned = tuple(
        PlannedArm(
            name, {k: v if isinstance(v, str) else repr(v) for k, v in changes.items()}, facts
        )
        for name, changes in arms.items()
    )
    options = {'metric': 'validation/loss', 'better': 'min', 'baseline': next(iter(arms))}
    sweep = SweepDir(path)
    sweep.write_plan(
        Plan(
            name='made',
            question='Does anything help?',
            source='experiments/made.py',
            overrides=(),
            budget='config',
            seeds=seeds,
            base=config_lib.to_dict(defaults.get_config()),
            arms=planned,
            **options | plan,
        )
    )
    for name, changes in arms.items():
        for seed in seeds:
            made_run(sweep.run_dir(Job(name, seed)), changes, seed, curve(changes, seed))
    return sweep


def made_run(
    path: pathlib.Path, changes: Mapping, seed: int, curve: list[tuple[int, float]], **facts
) -> None:
    """A finished run that changes the default config."""
    path.mkdir(parents=True)
    config = defaults.get_config()
    for key, value in {**changes, 'seed': seed, 'name': path.name}.items():
        config_lib.override(config, key, value if isinstance(value, str) else repr(value))
    presets.resolve(config.model, config.data.seq_len)
    (path / 'config.json').write_text(config_lib.to_json(config))
    run = {
        'git': {'commit': 'abc', 'dirty': False},
        'versions': {'jax': '0.10.2'},
        'devices': '1 × cpu',
        'kernel': 'reference',
        'data_fingerprint': 'data',
        'num_params': 1000 * changes.get('model.depth', 1),
        'flops_per_token': 6000 * changes.get('model.depth', 1),
        'tokens_per_step': 64,
    }
    (path / 'run.json').write_text(json.dumps(run | facts))
    records = [
        {'step': step, 'split': 'validation', 'loss': value, 'seconds': step / 10}
        for step, value in curve
    ]
    lines = ''.join(json.dumps(record) + '\n' for record in records)
    (path / 'metrics.jsonl').write_text(lines)
    result = {'steps': 100, 'seconds': 10.0, 'stopped_early': '', 'metrics': {}}
    (path / 'result.json').write_text(json.dumps(result))


def falling(value: float, noise: float, seed: int, steps: int = 10) -> list[tuple[int, float]]:
    """A curve that ends near `value`; runs of one seed share half of their noise."""
    own, shared = random.Random(f'{value} {seed}'), random.Random(seed)
    end = value + noise * (own.gauss(0, 1) + shared.gauss(0, 1)) / math.sqrt(2)
    every = 100 // steps
    return [(every * i, end + 2 * math.exp(-4 * i / steps)) for i in range(1, steps + 1)]
