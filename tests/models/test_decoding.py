"""A batch of prompts of different lengths has the texts of each prompt alone."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel.inference.generate import Sampling, generate_tokens
from bigmodel.layers.masks import MASKS, Mask
from bigmodel.layers.mixers import MIXERS
from bigmodel.layers.positions import POSITIONS
from bigmodel.models.decoding import greedy
from bigmodel.models.encoder import Source
from bigmodel.specs import make
from tests.inference.test_encoder_decoder import T5
from tests.models.test_model import ARGUMENTS
from tests.small import quick_jit, random_params, random_tokens, small_model

NEW, LENGTHS = 5, (6, 2, 4)
PROMPTS = random_tokens(len(LENGTHS), max(LENGTHS), seed=3)
GREEDY = Sampling(NEW, temperature=0.0)


def causal(spec: str) -> bool:
    mask: Mask = make(MASKS, spec, 'mask')
    return mask.causal


# Every encoding, mixer and mask once; a prompt of learned vectors; layers of two kinds.
STACKS = [
    *({'position': name + ARGUMENTS.get(name, '')} for name in POSITIONS if '2d' not in name),
    *({'mixer': name, 'position': 'none'} for name in MIXERS if name != 'attention'),
    *({'mask': s} for s in (n + ARGUMENTS.get(n, '') for n in MASKS) if causal(s)),
    {'prompt': 'soft(length=3)'},
    {'pattern': ('window(2)', 'layer(mixer="rglru")')},
]


# As generation does it, of one prompt without any padding.
one_by_one = quick_jit(generate_tokens.__wrapped__, static_argnames=('model', 'sampling'))


@pytest.mark.parametrize('stack', STACKS, ids=lambda stack: '-'.join(map(str, stack.values())))
def test_a_prompt_in_a_batch_has_the_text_that_it_has_alone(stack: dict) -> None:
    changes = {'head': 'lm(tied=False)', 'max_length': max(LENGTHS) + NEW} | stack
    groups = {'num_kv_heads': 4} if stack.get('mixer', '').startswith('mla') else {}
    model = small_model(max(LENGTHS) + NEW, **changes, **groups)
    params = random_params(model, seed=2)
    # What follows a prompt in its row is not read.
    together = quick_jit(functools.partial(greedy, model, max_tokens=NEW, shortest=2))(
        params, jnp.asarray(PROMPTS), jnp.asarray(LENGTHS)
    )
    # Neither the shortest prompt nor the longest one.
    alone = one_by_one(model, params, jnp.asarray(PROMPTS[2:, : LENGTHS[2]]), GREEDY)
    assert together[2].tolist() == alone[0].tolist()
    assert len(set(map(tuple, together.tolist()))) > 1  # prompts are read


def test_a_source_in_a_batch_has_the_text_that_it_has_alone() -> None:
    model = small_model(NEW, **T5, head='lm(tied=False)')
    params = random_params(model, seed=2)
    start, ones = jnp.zeros((len(LENGTHS), 1), jnp.int32), jnp.ones(len(LENGTHS), jnp.int32)
    read = np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]
    source = Source(jnp.asarray(PROMPTS), None, jnp.asarray(read.astype(np.int32)))
    together = quick_jit(functools.partial(greedy, model, max_tokens=NEW, shortest=1))(
        params, start, ones, source=source
    )
    own = Source(jnp.asarray(PROMPTS[2:, : LENGTHS[2]]))
    alone = one_by_one(model, params, start[:1], GREEDY, own)
    assert together[2].tolist() == alone[0].tolist()
    assert len(set(map(tuple, together.tolist()))) > 1
