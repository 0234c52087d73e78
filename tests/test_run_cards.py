"""Every run card builds at its full size: shapes alone, nothing is computed."""

import pathlib

import jax
import numpy as np
import pytest

from bigmodel import config as config_lib
from bigmodel.data.draws import Draws
from bigmodel.data.plain_tokenizers import ByteTokenizer
from bigmodel.layers.positions import POSITIONS
from bigmodel.models import presets
from bigmodel.models.build import build_model
from bigmodel.sweeps.plan import read_plan
from bigmodel.tasks.build import build_task
from bigmodel.training.optimizers import build_optimizer
from bigmodel.training.outline import resolve
from bigmodel.training.programs import program_of
from bigmodel.training.state import abstract_params, init_state
from bigmodel.training.step import make_train_step
from experiments import probes
from experiments.ablations import positions
from experiments.finetune import cifar, glue, preferences, squad
from experiments.pretrain import tfds_text
from tests.small import unboxed_shapes

EXPERIMENTS = pathlib.Path(__file__).parent.parent / 'experiments'
SWEEPS = sorted(p for p in EXPERIMENTS.rglob('*.py') if 'def sweep(' in p.read_text())
CARDS = sorted(p for p in EXPERIMENTS.rglob('*.py') if 'def get_config(' in p.read_text())

ARMS = [
    *(f'probes.py:{name}' for name in probes.PROBES),
    *(f'ablations/mixers.py:{name}' for name in probes.PROBES),
    *(f'finetune/preferences.py:{name}' for name in preferences.TASKS),
    *(f'finetune/glue.py:{name}' for name in glue.TASKS),
    *(f'finetune/squad.py:{version}' for version in squad.ROWS),
    *(f'finetune/cifar.py:{name}' for name in cifar.SETS),
    *(f'pretrain/tfds_text.py:{name}' for name in tfds_text.TEXTS),
]


@pytest.mark.parametrize('arm', ARMS)
def test_every_argument_of_a_card_has_a_model_and_a_name_of_its_own(arm: str) -> None:
    path, _, name = arm.partition(':')
    config = config_lib.load(f'{EXPERIMENTS / path}:{name}')
    assert config.name.endswith(f'-{name}')
    presets.resolve(config.model, config.data.seq_len)
    labels = 4 if build_task(config.task).predicts != 'tokens' else 0
    assert abstract_params(build_model(config.model, 256, labels, 'cpu'))


def test_the_card_of_encodings_has_all_of_sequences() -> None:
    assert set(positions.ENCODINGS) == {name for name in POSITIONS if not name.endswith('_2d')}


def programs_of_arms() -> dict[str, config_lib.ConfigDict]:
    """The config of the first arm of each program of each sweep file, by file and arm."""
    found = {}
    for path in SWEEPS:
        plan = read_plan(str(path))
        seen = set()
        for arm in plan.arms:
            config = resolve(plan.config(arm, 0))
            if program_of(config) not in seen:
                seen.add(program_of(config))
                found[f'{path.relative_to(EXPERIMENTS).as_posix()}:{arm.name}'] = config
    return found


@pytest.mark.parametrize('config', [pytest.param(c, id=n) for n, c in programs_of_arms().items()])
def test_every_arm_of_a_sweep_builds(config: config_lib.ConfigDict) -> None:
    check_shapes_of_a_step(config)


@pytest.mark.parametrize('card', CARDS, ids=lambda p: p.relative_to(EXPERIMENTS).as_posix())
def test_card_builds_and_its_step_has_shapes(card: pathlib.Path) -> None:
    check_shapes_of_a_step(config_lib.load(str(card)))


# What a companion is -> its head.
COMPANION_HEADS = {'decoder': 'lm', 'masked_lm': 'mlm'}


def check_shapes_of_a_step(config: config_lib.ConfigDict) -> None:
    presets.resolve(config.model, config.data.seq_len)
    task = build_task(config.task)
    labels = 4 if task.predicts != 'tokens' else 0
    model = build_model(config.model, config.model.vocab_size or 256, labels, 'cpu')
    optimizer, hparams = build_optimizer(config, abstract_params(model))
    state = jax.eval_shape(lambda h: init_state(model, optimizer, h), hparams)
    theirs = config.model.copy_and_resolve_references()
    theirs.head = COMPANION_HEADS[task.companions_are]
    theirs = build_model(theirs, config.model.vocab_size or 256, 0, 'cpu')
    models = dict.fromkeys(task.companions, theirs)
    shapes = {name: unboxed_shapes(frozen) for name, frozen in models.items()}
    state = state.replace(companions=shapes)
    rows, length = config.data.batch_size, config.data.seq_len + task.extra_tokens
    groups = (task.group,) if task.group > 1 else ()
    batch = dict.fromkeys(('positions', 'segments'), np.ones((rows, *groups, length), np.int32))
    inputs = model.make_inputs()
    example = inputs.example(length)
    assert inputs.key in task.reads
    batch[inputs.key] = np.ones((rows, *groups, *example.shape[1:]), example.dtype)
    batch['marks'] = batch['segments']
    if task.labelled:
        batch['label'] = np.zeros(rows, np.int32)
    batch = task.prepare(batch, Draws(np.arange(rows, dtype=np.uint64)), ByteTokenizer())
    batch = {k: jax.ShapeDtypeStruct(x.shape, x.dtype) for k, x in batch.items()}
    step = make_train_step(model, task, optimizer, config.accumulate, models)
    new, metrics = jax.eval_shape(step, state, batch, hparams)
    described = [jax.tree.map(lambda x: (x.shape, x.dtype), s) for s in (new, state)]
    assert described[0] == described[1]
    assert {m.total.shape for m in metrics.values()} == {()}
