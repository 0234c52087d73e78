"""Instruction tuning: the loss is of responses and of nothing else, packed or apart."""

import json
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from bigmodel.commands.main import main
from bigmodel.data.draws import Draws
from bigmodel.data.pipeline import open_data
from bigmodel.data.plain_tokenizers import ByteTokenizer
from bigmodel.models.build import build_model
from bigmodel.tasks.build import build_task
from bigmodel.training.step import make_loss_fn
from tests.commands.conftest import CARD
from tests.small import assert_trees_close, quick_jit, random_params, small_config

LENGTH, IDS = 160, 258
PROMPTS = [{'prompt': 'ab' * i, 'response': 'XYZ'[: 1 + i % 3]} for i in range(1, 9)]
TURNS = [
    [
        {'role': 'user', 'content': 'hi'},
        {'role': 'assistant', 'content': 'YO'},
        {'role': 'user', 'content': 'go on'},
        {'role': 'assistant', 'content': 'Z' * (i + 1)},
    ]
    for i in range(2)
]
SYSTEM = [{'role': 'system', 'content': 'be brief'}]
EXAMPLES = {
    'prompt': PROMPTS,
    'chat(template="plain")': [{'messages': SYSTEM[:i] + turns} for i, turns in enumerate(TURNS)],
}


@pytest.fixture
def batch(tmp_path) -> Callable[..., dict[str, jax.Array]]:
    """All rows of examples, as the task prepares them."""

    def read(format: str, rows: list[dict[str, Any]], packing: str) -> dict[str, jax.Array]:
        (tmp_path / 'train.jsonl').write_text('\n'.join(map(json.dumps, rows)))
        config = ConfigDict(
            {
                'source': 'jsonl',
                'mixture': (),
                'path': f'{tmp_path}/{{split}}.jsonl',
                'format': format,
                'tokenizer': 'bytes',
                'packing': packing,
                'seq_len': LENGTH,
                'batch_size': 2 * len(rows),
                'workers': 1,
                'cache_dir': str(tmp_path / 'cache'),
            }
        )
        task = build_task('instruction')
        data = open_data(
            config, 'train', length=LENGTH + 1, overlap=1, shuffle=False, prepare=task.prepare
        )
        assert data.batches.num_batches == 1
        return {k: jnp.asarray(v) for k, v in data.batches(0).items()}

    return read


def learned(batch: dict[str, jax.Array]) -> list[str]:
    """The text of each row of which the loss is a mean, with $ for the end token."""
    tokens, weights, segments, valid = (
        np.asarray(batch[name]) for name in ('tokens', 'weights', 'segments', 'valid')
    )
    counts = (weights[:, 1:] > 0) & (segments[:, 1:] == segments[:, :-1])
    return [
        ''.join('$' if t == 257 else chr(t) for t in row[1:][counted])
        for row, counted in zip(tokens[valid > 0], counts[valid > 0], strict=True)
    ]


def test_what_is_learned_is_the_responses_and_their_ends(batch):
    got = learned(batch('prompt', PROMPTS, 'pad'))
    assert got == [row['response'] + '$' for row in PROMPTS]
    chat = 'chat(template="plain")'
    assert learned(batch(chat, EXAMPLES[chat], 'pad')) == ['YO\n\nZ\n\n$', 'YO\n\nZZ\n\n$']


@pytest.mark.parametrize('format', EXAMPLES)
@pytest.mark.parametrize('packing', ['first_fit', 'pad'])
def test_the_loss_is_the_mean_over_responses_and_has_no_gradient_elsewhere(batch, format, packing):
    rows = batch(format, EXAMPLES[format], packing)
    logits = np.random.default_rng(0).standard_normal((*rows['tokens'][:, 1:].shape, IDS))

    def loss(logits: jax.Array) -> jax.Array:
        mean = build_task('instruction')(lambda *args: logits, rows, None)['loss']
        return mean.total / mean.weight

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(logits, jnp.float32))
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    tokens, marks = np.asarray(rows['tokens']), np.asarray(rows['marks'])
    places = [(b, i) for b in range(len(tokens)) for i in range(LENGTH) if marks[b, i + 1] == 1]
    want = np.mean([-log_p[b, i, tokens[b, i + 1]] for b, i in places])
    assert value == pytest.approx(want, rel=1e-5)
    touched = np.abs(np.asarray(gradient)).sum(-1) > 0
    assert set(zip(*map(list, np.nonzero(touched)), strict=True)) == set(places)


@pytest.fixture(scope='module')
def evaluated() -> Callable[[dict[str, jax.Array]], tuple]:
    """Loss, how many tokens count, and gradients of a small model of bytes."""
    config = small_config(LENGTH, vocab_size=IDS, depth=1)
    model = build_model(config.model, IDS, 0, 'cpu')
    params = random_params(model)
    run = quick_jit(
        jax.value_and_grad(make_loss_fn(model, build_task('instruction')), has_aux=True)
    )

    def evaluate(batch: dict[str, jax.Array]) -> tuple[float, float, Any]:
        (_, metrics), grads = run(params, batch, None)
        mean = metrics['loss']
        return mean.value(), float(mean.weight), jax.tree.map(lambda g: g / mean.weight, grads)

    return evaluate


@pytest.mark.parametrize('format', EXAMPLES)
def test_packed_examples_have_the_loss_and_gradients_of_separate_rows(batch, evaluated, format):
    packed, apart = (batch(format, EXAMPLES[format], p) for p in ('first_fit', 'pad'))
    used = lambda b: int((np.asarray(b['segments']).max(1) > 0).sum())  # noqa: E731
    assert used(packed) < used(apart)
    (loss, count, grads), (want, wanted, want_grads) = evaluated(packed), evaluated(apart)
    assert count == wanted
    assert loss == pytest.approx(want, rel=1e-5)
    # Float32 sums of some 60 tokens, in another order.
    assert_trees_close(grads, want_grads, rtol=1e-4, atol=1e-5)


def test_prompts_are_read(batch, evaluated):
    other = [row | {'prompt': row['prompt'].upper()} for row in PROMPTS]
    first, second = (evaluated(batch('prompt', rows, 'pad')) for rows in (PROMPTS, other))
    assert first[1] == second[1]
    assert abs(first[0] - second[0]) > 1e-3


def test_a_response_that_is_cut_to_the_next_row_is_learned_once(batch):
    rows = [{'prompt': 'a' * 120, 'response': 'R' * 90}] * 2
    assert sum(map(len, learned(batch('prompt', rows, 'first_fit')))) == 2 * 91


def test_mark_1_is_what_counts():
    rows, draws = {'marks': np.array([[0, 1, 2, 1]])}, Draws(np.zeros(1, np.uint64))
    made = build_task('instruction').prepare(rows, draws, ByteTokenizer())
    assert made['weights'].tolist() == [[0, 1, 0, 1]]


def flags(path: Any, **changes: Any) -> list[str]:
    keys = {
        'data.source': 'jsonl',
        'data.path': path,
        'data.format': 'prompt',
        'data.packing': 'first_fit',
        'data.seq_len': 16,
        'data.batch_size': 8,
        'model.depth': 1,
        'model.width': 16,
        'model.num_heads': 2,
        'num_steps': 2,
        'evals.validation.batches': 1,
        'task': 'instruction',
        'sample': '',
    }
    keys |= {k.replace('__', '.'): v for k, v in changes.items()}
    return ['train', f'--config={CARD}', *(f'--config.{k}={v}' for k, v in keys.items())]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / 'rows.jsonl'
    rows = [{'prompt': 'what is ' + 'a' * 20, 'response': f'b{i}'} for i in range(200)]
    path.write_text('\n'.join(map(json.dumps, rows)))
    return path


def test_it_trains_and_is_evaluated_by_the_commands(file, tmp_path):
    scored = flags(file, data__seq_len=32, evals__validation__scores="('rouge',)")
    assert main([*scored, f'--workdir={tmp_path / "run"}']) == 0
    result = json.loads((tmp_path / 'run' / 'result.json').read_text())
    metrics = result['metrics']['validation']
    assert np.isfinite(metrics['loss']) and 'bits_per_byte' not in metrics
    assert 0 <= metrics['rougeL'] <= metrics['rouge1'] <= 1

    out = tmp_path / 'texts.jsonl'
    rows = '--config.evals.validation.generate_rows=3'
    argv = ['evaluate', f'--workdir={tmp_path / "run"}', f'--predictions={out}', rows]
    assert main([*argv, '--config.evals.validation.max_tokens=4']) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    texts = [line['target'] for line in lines]
    written = [json.loads(line)['response'] for line in file.read_text().splitlines()]
    assert len(set(texts)) == 3 and texts == [r for r in written if r in texts]
    assert all(len(line['prediction']) <= 4 for line in lines)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            {'data__format': 'text("prompt")'},
            "task='instruction' needs data.format=prompt or chat, which teach responses; not",
        ),
        (
            {'data__packing': 'pad(truncate=True)'},
            'learns responses, of which 64 rows have no token within data.seq_len=16',
        ),
        ({'data__source': 'copying'}, "data.source='copying' has none"),
        ({'model__ahead': 'mtp'}, "task='instruction' responses alone; set model.ahead='none'"),
        (
            {'data__format': 'preference("prompt", "response", "prompt")', 'task': 'causal_lm'},
            'reads one document of an example, but .* makes 2',
        ),
    ],
)
def test_mistakes_are_refused_with_the_fix(file, tmp_path, capsys, changes, message):
    capsys.readouterr()
    assert main([*flags(file, **changes), f'--workdir={tmp_path / "run"}']) == 2
    line = capsys.readouterr().err
    assert re.search(message, line) and line.count('\n') == 1, line
