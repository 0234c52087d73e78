"""Generation with the cache is generation without it, and draws from what it says."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel.data.formats import build_format
from bigmodel.data.plain_tokenizers import ByteTokenizer
from bigmodel.data.store import open_store
from bigmodel.errors import UserError
from bigmodel.inference.generate import Sampling, beginning, generate, generate_tokens, sample
from bigmodel.layers.masks import MASKS
from bigmodel.layers.positions import POSITIONS
from bigmodel.models.model import apply
from bigmodel.tasks.build import build_task
from experiments import defaults
from tests.small import VOCAB, random_params, small_model

PROMPT, NEW = 5, 7
CAUSAL = {
    'causal': {},
    'window(3)': {},
    'chunked(3)': {},
    'pattern': {'pattern': ('window(2)', 'causal')},
}


def test_every_mask_is_tried_or_not_causal():
    assert {name.partition('(')[0] for name in CAUSAL} - {'pattern'} == set(MASKS) - {
        'full',
        'prefix',
    }


# Every part once; tests/models holds logits of the same to each other.
STACKS = [*((p, 'causal') for p in POSITIONS), *(('rope', m) for m in CAUSAL if m != 'causal')]


@pytest.mark.parametrize(('position', 'mask'), STACKS)
def test_the_cache_gives_the_tokens_of_full_recomputation(position, mask):
    spec = {'mask': mask} if mask != 'pattern' else CAUSAL[mask]
    model = small_model(PROMPT + NEW, position=position, **spec)
    params = random_params(model)
    prompt = jax.random.randint(jax.random.key(0), (2, PROMPT), 0, VOCAB)
    greedy = Sampling(NEW, temperature=0.0)
    cached = generate_tokens(model, params, prompt, greedy)

    forward = jax.jit(functools.partial(apply, model))
    tokens = np.zeros((2, PROMPT + NEW), np.int32)
    tokens[:, :PROMPT] = prompt
    for at in range(PROMPT, PROMPT + NEW):  # a causal model does not see what is not yet there
        logits = forward(params, jnp.asarray(tokens))
        tokens[:, at] = np.argmax(logits[:, at - 1], -1)
    assert cached.tolist() == tokens[:, PROMPT:].tolist()


def test_a_prompt_that_is_a_prefix_is_read_from_both_sides():
    model = small_model(PROMPT + NEW, mask='prefix', head='lm(tied=False)')
    params = random_params(model, seed=2)
    prompt = jax.random.randint(jax.random.key(0), (2, PROMPT), 0, VOCAB)
    prefix = jnp.arange(PROMPT + NEW) < PROMPT
    greedy = Sampling(NEW, temperature=0.0)
    cached = generate_tokens(model, params, prompt, greedy, prefix=prefix[:PROMPT])
    forward = jax.jit(lambda t: apply(model, params, t, prefix=jnp.tile(prefix, (2, 1))))
    tokens = np.zeros((2, PROMPT + NEW), np.int32)
    tokens[:, :PROMPT] = prompt
    for at in range(PROMPT, PROMPT + NEW):
        tokens[:, at] = np.argmax(forward(jnp.asarray(tokens))[:, at - 1], -1)
    assert cached.tolist() == tokens[:, PROMPT:].tolist()
    assert cached.tolist() != generate_tokens(model, params, prompt, greedy).tolist()


def test_the_prompt_of_a_prefix_lm_is_its_prefix(monkeypatch):
    seen = {}

    def fake(model, params, tokens, sampling, source, prefix):
        seen.update(tokens=tokens.tolist(), prefix=prefix.tolist())
        return tokens

    monkeypatch.setattr('bigmodel.inference.generate.generate_tokens', fake)
    task = build_task('prefix_lm')
    generate(small_model(8), None, ByteTokenizer(), 'ab', Sampling(4), task=task)
    assert seen == {'tokens': [[256, *b'ab']], 'prefix': [True] * 3}


LOGITS = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05, 0.0001]]))


def frequencies(sampling: Sampling) -> np.ndarray:
    draw = jax.vmap(lambda key: sample(LOGITS, sampling, key)[0])
    drawn = draw(jax.random.split(jax.random.key(1), 20_000))
    return np.bincount(drawn, minlength=5) / 20_000


@pytest.mark.parametrize(
    ('sampling', 'expected'),
    [
        (Sampling(temperature=1.0), [0.5, 0.3, 0.15, 0.05, 0]),
        (Sampling(temperature=0.0), [1, 0, 0, 0, 0]),
        (Sampling(temperature=1.0, top_k=2), [0.625, 0.375, 0, 0, 0]),
        (Sampling(temperature=1.0, top_p=0.75), [0.625, 0.375, 0, 0, 0]),
        (Sampling(temperature=1.0, top_p=0.81), [0.526, 0.316, 0.158, 0, 0]),
        (Sampling(temperature=0.5), [0.685, 0.247, 0.062, 0.007, 0]),
    ],
)
def test_tokens_are_drawn_with_the_probabilities_asked_for(sampling, expected):
    # 20,000 draws: a standard deviation of at most 0.0036.
    np.testing.assert_allclose(frequencies(sampling), expected, atol=0.015)


def test_text_begins_with_the_prompt_and_depends_on_the_seed():
    model = small_model(16, vocab_size=320)
    params = random_params(model)
    text = functools.partial(generate, model, params, ByteTokenizer(), 'ab')
    one = text(Sampling(8, temperature=1.0, seed=3), num_samples=2)
    assert all(t.startswith('ab') for t in one)
    assert one == text(Sampling(8, temperature=1.0, seed=3), num_samples=2)
    assert one != text(Sampling(8, temperature=1.0, seed=4), num_samples=2)


@pytest.mark.parametrize(
    'wrong',
    [{'max_tokens': 0}, {'temperature': -1.0}, {'top_k': -1}, {'top_p': 0.0}, {'top_p': 1.1}],
)
def test_a_wrong_argument_is_named(wrong):
    with pytest.raises(UserError, match=f'--{next(iter(wrong))}'):
        Sampling(**wrong).check()


CHAT = [{'role': 'user', 'content': 'hi'}, {'role': 'assistant', 'content': 'yo'}]


@pytest.mark.parametrize(
    ('format', 'row'),
    [
        ('prompt', {'prompt': 'hi', 'response': 'yo'}),
        ('chat', {'messages': CHAT}),
        ('chat(template="plain")', {'messages': CHAT}),
    ],
)
def test_a_prompt_is_opened_as_training_showed_it(format, row, tmp_path):
    """What generation begins with is a training document up to its response."""
    for split in ('train', 'validation'):
        (tmp_path / f'{split}.jsonl').write_text(json.dumps(row))
    data = defaults.get_config().data
    data.update(source='jsonl', path=f'{tmp_path}/{{split}}.jsonl', format=format)
    data.update(cache_dir=str(tmp_path / 'cache'))
    store = open_store(data, 'train')
    places = np.arange(store.num_tokens)
    before = store.gather(places)[: int(np.argmax(store.marks(places) == 1))]
    task, made = build_task('instruction'), build_format(format)
    begin = beginning(task, store.tokenizer, 'hi', made)
    assert list(begin.tokens) == before.tolist() and begin.end == store.tokenizer.eos_id
