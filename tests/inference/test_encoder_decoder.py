"""Generation with an encoder: the source is read once; extra ids are written in text."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel.data.plain_tokenizers import ByteTokenizer, CharTokenizer
from bigmodel.errors import UserError
from bigmodel.inference.extra_ids import ExtraIds
from bigmodel.inference.generate import Sampling, beginning, generate, generate_tokens
from bigmodel.models.encoder import Source
from bigmodel.models.model import apply
from bigmodel.tasks.build import build_task
from tests.small import random_params, random_tokens, small_model

NEW, SOURCE = 7, 9
T5 = {'size': 't5-small', 'encoder_depth': 2, 'position': 't5(num_buckets=8, max_distance=10)'}
TASK = build_task('span_corruption(sentinels=4)')


def test_the_cache_gives_the_tokens_of_full_recomputation() -> None:
    # A tied table of such random vectors repeats each token.
    model = small_model(NEW, **T5, head='lm(tied=False)')
    params = random_params(model, seed=2)  # its tokens vary
    start, read = (jnp.asarray(random_tokens(2, n, seed=n)) for n in (1, SOURCE))
    got = generate_tokens(model, params, start, Sampling(NEW, temperature=0.0), Source(read))
    forward = jax.jit(lambda p, t: apply(model, p, t, source=Source(read)))
    tokens = np.zeros((2, 1 + NEW), np.int32)
    tokens[:, :1] = start
    for at in range(1, 1 + NEW):
        tokens[:, at] = np.argmax(forward(params, jnp.asarray(tokens))[:, at - 1], -1)
    assert got.tolist() == tokens[:, 1:].tolist()
    other = Source(jnp.asarray(random_tokens(2, SOURCE, seed=5)))
    moved = generate_tokens(model, params, start, Sampling(NEW, temperature=0.0), other)
    assert moved.tolist() != got.tolist()


def test_a_text_is_what_the_decoder_spells_up_to_the_sentinel_that_no_span_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenizer, spelt = ByteTokenizer(), [258, *b'for', 259, *b'last', 260, *b'more']
    seen = {}

    def fake(model, params, tokens, sampling, source):
        seen.update(tokens=tokens.tolist(), source=source.inputs.tolist())
        return jnp.asarray([spelt])

    monkeypatch.setattr('bigmodel.inference.generate.generate_tokens', fake)
    prompt = 'you <extra_id_0> me <extra_id_1>'
    texts = generate(small_model(**T5), None, tokenizer, prompt, Sampling(20), task=TASK)
    assert texts == ['<extra_id_0>for<extra_id_1>last']
    assert seen == {'tokens': [[0]], 'source': [[*b'you ', 258, *b' me ', 259]]}


def test_a_sample_of_a_small_model_depends_on_source_and_seed() -> None:
    model = small_model(16, vocab_size=320, **T5)
    model = model.clone(make_head=functools.partial(model.make_head, num_ids=262))
    sample = functools.partial(generate, model, random_params(model), ByteTokenizer(), task=TASK)
    one = sample('ab<extra_id_0>', Sampling(8, 1.0, seed=3), num_samples=2)
    assert one == sample('ab<extra_id_0>', Sampling(8, 1.0, seed=3), num_samples=2)
    assert one != sample('ab<extra_id_0>', Sampling(8, 1.0, seed=4), num_samples=2)
    assert one != sample('ba<extra_id_0>', Sampling(8, 1.0, seed=3), num_samples=2)


@pytest.mark.parametrize('tokenizer', [ByteTokenizer(), CharTokenizer(' 0<>_abdeirtx')])
def test_extra_ids_survive_the_way_there_and_back(tokenizer) -> None:
    text, first = '<extra_id_3> a<extra_id_0><extra_id_1>b <extra_id_>', tokenizer.vocab_size
    ids = ExtraIds(tokenizer, 4).encode(text)
    assert [i - first for i in ids if i >= first] == [3, 0, 1]
    assert ExtraIds(tokenizer, 4).decode(ids) == text
    # Without extra ids that is plain text.
    plain = ExtraIds(tokenizer, 0).encode('<extra_id_0>')
    assert plain == tokenizer.encode('<extra_id_0>').tolist()
    assert ExtraIds(tokenizer, 0).decode(plain) == '<extra_id_0>'


@pytest.mark.parametrize(
    ('task', 'prompt', 'message'),
    [
        (TASK, '', 'the prompt is empty, but it is the source that is read'),
        (TASK, 'a <extra_id_4>', 'has <extra_id_4>, but the task has only .* to <extra_id_3>'),
        (build_task('causal_lm'), '', 'the prompt is empty, and this tokenizer has no start'),
    ],
)
def test_prompts_that_cannot_be_are_refused(task, prompt: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        beginning(task, CharTokenizer(' 4<>_adeirtx'), prompt)


def test_a_source_longer_than_the_learned_positions_is_refused() -> None:
    with pytest.raises(UserError, match=r'the prompt has 40 tokens .* positions for 32'):
        generate(small_model(**T5), None, ByteTokenizer(), 'x' * 40, Sampling(8), 1, 32, TASK)
