"""Every two values of two slots: the model trains, or is refused by a sentence that names both."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bigmodel.errors import UserError
from bigmodel.models.build import SLOTS
from bigmodel.models.heads import HEADS
from bigmodel.models.model import Model, apply_with_losses
from tests.small import (
    CPU_KERNELS,
    quick_jit,
    random_params,
    random_tokens,
    small_model,
    unboxed_shapes,
)

LENGTH, LABELS = 8, 3
# Of parts that need some, or whose defaults are for longer rows.
ARGUMENTS = {
    'window': '(4)',
    'chunked': '(4)',
    'prefix': '(4)',
    't5': '(num_buckets=8, max_distance=10)',
    'qlora': '(block=2)',
}
# A slot that is an argument of another.
INSIDE = {
    'weights': lambda name: ('mixer', f'attention(weights="{name}")'),
}
# What other slots must be for a value to make sense, where they are not chosen.
NEEDS = {
    ('cross', 'attention'): {
        'encoder_depth': 2,
        'encoder_pattern': ('layer(mixer="attention", position="none")',),
    },
    ('ffn', 'expert_choice'): {'mask': 'full'},
    ('head', 'pixels'): {'inputs': 'patches(size=2, channels=1)'},
}
# Batches of another kind; functions of one number, whatever is around them.
APART = ('inputs', 'activation')
Choice = tuple[str, str]  # slot of the config, spec


def choices(slot: str) -> list[Choice]:
    """The values of a slot as what the config says."""
    make = INSIDE.get(slot, lambda name: (slot, name + ARGUMENTS.get(name, '')))
    return [make(name) for name in (CPU_KERNELS if slot == 'kernel' else SLOTS[slot])]


ALL = {slot: choices(slot) for slot in SLOTS if slot not in APART}
PAIRS = [
    (one, two)
    for a, b in itertools.combinations(ALL, 2)
    for one, two in itertools.product(ALL[a], ALL[b])
    if one[0] != two[0]
]


@functools.cache
def build(chosen: frozenset[Choice]) -> Model | str:
    """The model with these values, or why it is refused."""
    values = {'position': 'none', 'num_kv_heads': 4}
    for choice in chosen & NEEDS.keys():
        values |= NEEDS[choice]
    values |= dict(chosen)
    labels = 0 if hasattr(HEADS[values.get('head', 'lm').split('(')[0]], 'tied') else LABELS
    try:
        return small_model(LENGTH, labels, **values)
    except UserError as e:
        return str(e)


@functools.cache
def accepted() -> list[tuple[Choice, Choice]]:
    return [pair for pair in PAIRS if isinstance(build(frozenset(pair)), Model)]


def test_what_cannot_be_is_refused_by_a_sentence_that_names_both() -> None:
    for pair in set(PAIRS) - set(accepted()):
        sentence = build(frozenset(pair))
        named = [
            f'model.{slot}' in sentence or spec.split('(')[0] in sentence for slot, spec in pair
        ]
        # Two parts may ask for different masks.
        assert all(named) or (any(named) and 'model.mask' in sentence), (pair, sentence)


def covering() -> list[frozenset[Choice]]:
    """Few models in which every accepted pair occurs: each grows by what adds the most pairs."""
    left, found = dict.fromkeys(frozenset(pair) for pair in accepted()), []
    while left:
        chosen = set(next(iter(left)))
        taken = {slot for slot, _ in chosen}

        def new_pairs(choice: Choice, chosen: set[Choice] = chosen) -> int:
            return sum(frozenset([choice, old]) in left for old in chosen)

        for values in sorted(ALL.values(), key=len, reverse=True):
            for choice in sorted(values, key=new_pairs, reverse=True):
                useful = choice[0] not in taken and new_pairs(choice)
                if useful and isinstance(build(frozenset([*chosen, choice])), Model):
                    chosen.add(choice)
                    taken.add(choice[0])
                    break
        for pair in itertools.combinations(chosen, 2):
            left.pop(frozenset(pair), None)
        found.append(frozenset(chosen))
    return found


def rows(model: Model) -> jax.Array:
    """Two rows of random tokens or pixels."""
    example = model.example(LENGTH)[0]
    drawn = random_tokens(2, example[0].size).reshape(2, *example.shape[1:])
    return jnp.asarray(drawn, example.dtype)


def loss(model: Model, params: Any, inputs: jax.Array) -> jax.Array:
    _, source = jax.tree.map(lambda x: jnp.repeat(x, len(inputs), 0), model.example(LENGTH))
    outputs, losses, _ = apply_with_losses(model, params, inputs, source=source)
    means = [jnp.mean(jax.nn.logsumexp(x, -1)) for x in jax.tree.leaves(outputs)]
    return sum(means) + sum(losses.values(), jnp.float32(0))


def test_every_accepted_pair_trains() -> None:
    """All are traced with their gradients; some are also computed."""
    for i, chosen in enumerate(covering()):
        model = build(chosen)
        # Integers are of frozen weights.
        step = jax.value_and_grad(functools.partial(loss, model), allow_int=True)
        try:
            jax.eval_shape(step, unboxed_shapes(model), rows(model))
            if i % 30 == 0:
                value, grads = quick_jit(step)(random_params(model), rows(model))
                assert np.isfinite(value)
                floats = [g for g in jax.tree.leaves(grads) if g.dtype != jax.dtypes.float0]
                assert all(np.isfinite(g).all() for g in floats)
        except Exception as e:
            raise AssertionError(f'{sorted(chosen)} does not train') from e
