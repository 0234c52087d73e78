"""FLOPs of a step in which not everything is trained: by hand, and as XLA counts its products."""

import jax
import jax.numpy as jnp
import pytest

from bigmodel.config import ConfigDict
from bigmodel.models.model import apply
from bigmodel.training.outline import Outline, outline
from tests.small import quick_jit, small_config

LENGTH, DEPTH, WIDTH, HIDDEN, VOCAB = 32, 4, 64, 192, 320
MIXER, FFN, HEAD = (
    4 * WIDTH**2,
    3 * WIDTH * HIDDEN,
    WIDTH * VOCAB,
)  # weights
PAIRS = 2 * WIDTH * LENGTH  # FLOPs of a pass of attention's two products, halved

LORA = 'lora(rank=2, where=".*/mixer/.*")'
# What is trained -> FLOPs a token of a weight of the mixer, the FFN and the head, in each layer.
CASES = {
    'all': ({}, [(6, 6)] * 4, 6),
    'the last layer': ({'last_layers': 1}, [(2, 2)] * 3 + [(6, 6)], 4),
    'FFNs': ({'train': (('.*/ffn/.*', True), ('.*', False))}, [(4, 6)] * 4, 4),
    'an adapter': ({'train': (('adapter/.*', True), ('.*', False))}, [(6, 4)] * 4, 4),
    'the last norm': ({'train': (('.*/final_norm/.*', True), ('.*', False))}, [(2, 2)] * 4, 4),
    'inputs': ({'train': (('inputs/.*', True), ('.*', False))}, [(4, 4)] * 4, 6),
    'layer by layer': (
        {'train': (('.*/block_1/ffn/.*', True), ('.*', False))},
        [(2, 2), (4, 6), (4, 4), (4, 6)],
        4,
    ),
}


def config(name: str) -> ConfigDict:
    heads = {'num_heads': 2, 'num_kv_heads': 2, 'unroll': 0}
    pattern = ('causal', 'causal') if name == 'layer by layer' else ()
    shape = {'depth': DEPTH, 'width': WIDTH, 'vocab_size': VOCAB, 'pattern': pattern}
    made = small_config(LENGTH, **shape, **heads, ffn=f'gated(hidden={HIDDEN})')
    made.data.seq_len = LENGTH
    made.model.adapter = LORA if name == 'an adapter' else 'none'
    made.optimizer.update(CASES[name][0])
    return made


def by_hand(name: str) -> int:
    _, layers, head = CASES[name]
    backward = [max(each) > 2 for each in layers]
    weights = sum(m * MIXER + f * FFN for m, f in layers) + head * HEAD
    return weights + sum(6 * PAIRS if back else 2 * PAIRS for back in backward)


def computed(plan: Outline) -> float:
    """A token's share of a gradient step's FLOPs, as XLA counts those of the program it made."""
    selection, shapes = plan.optimizer.selection, plan.abstract.params

    def loss(part, params, tokens):
        return jnp.sum(apply(plan.model, selection.whole(params, part), tokens) ** 2)

    part = jax.eval_shape(selection.part, shapes)
    tokens = jax.ShapeDtypeStruct((4, LENGTH), jnp.int32)
    compiled = quick_jit(jax.grad(loss)).lower(part, shapes, tokens).compile()
    return compiled.cost_analysis()['flops'] / (4 * LENGTH)


@pytest.mark.parametrize('name', CASES)
def test_frozen_weights_have_no_gradient(name: str) -> None:
    plan = outline(config(name))
    assert plan.flops_per_token == by_hand(name)
    assert plan.forward_flops_per_token == 2 * (DEPTH * (MIXER + FFN + PAIRS) + HEAD)


@pytest.mark.parametrize('name', ['the last layer', 'an adapter'])
def test_xla_computes_what_is_counted(name: str) -> None:
    """All but element-wise work, which is 3 to 6 % of so small a model."""
    plan = outline(config(name))
    assert 1 < computed(plan) / plan.flops_per_token < 1.08


def test_without_one_order_of_layers_gradients_pass_all_of_them() -> None:
    shared = config('the last norm')
    shared.model.share = 'all'
    assert outline(shared).flops_per_token == 4 * (DEPTH * (MIXER + FFN) + HEAD) + DEPTH * 6 * PAIRS
