"""Every run card builds at its full size: shapes alone, nothing is computed."""

import pathlib

import jax
import numpy as np
import pytest

from bigmodel import config as config_lib
from bigmodel.data.draws import Draws
from bigmodel.data.plain_tokenizers import ByteTokenizer
from bigmodel.models import presets
from bigmodel.models.model import build_model
from bigmodel.tasks.build import build_task
from bigmodel.training.optimizers import build_optimizer
from bigmodel.training.state import abstract_params, init_state
from bigmodel.training.step import make_train_step

EXPERIMENTS = pathlib.Path(__file__).parent.parent / 'experiments'
CARDS = sorted(p for p in EXPERIMENTS.rglob('*.py') if 'def get_config(' in p.read_text())


@pytest.mark.parametrize('card', CARDS, ids=lambda p: p.relative_to(EXPERIMENTS).as_posix())
def test_card_builds_and_its_step_has_shapes(card: pathlib.Path) -> None:
    config = config_lib.load(str(card))
    presets.resolve(config.model, config.data.seq_len)
    task = build_task(config.task)
    labels = 4 if task.labelled else 0
    model = build_model(config.model, config.model.vocab_size or 256, labels, 'cpu')
    optimizer, hparams = build_optimizer(config, abstract_params(model))
    state = jax.eval_shape(lambda h: init_state(model, optimizer, h), hparams)
    rows, length = config.data.batch_size, config.data.seq_len + task.extra_tokens
    batch = dict.fromkeys(('positions', 'segments'), np.ones((rows, length), np.int32))
    inputs = model.make_inputs()
    example = inputs.example(length)
    assert inputs.key in task.reads
    batch[inputs.key] = np.ones((rows, *example.shape[1:]), example.dtype)
    batch['marks'] = batch['segments']
    if task.labelled:
        batch['label'] = np.zeros(rows, np.int32)
    batch = task.prepare(batch, Draws(np.arange(rows, dtype=np.uint64)), ByteTokenizer())
    batch = {k: jax.ShapeDtypeStruct(x.shape, x.dtype) for k, x in batch.items()}
    step = make_train_step(model, task, optimizer, config.accumulate)
    new, metrics = jax.eval_shape(step, state, batch, hparams)
    described = [jax.tree.map(lambda x: (x.shape, x.dtype), s) for s in (new, state)]
    assert described[0] == described[1]
    assert {m.total.shape for m in metrics.values()} == {()}
