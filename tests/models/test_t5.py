"""The T5 presets against Hugging Face's T5, through a table of parameter paths."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel import params as params_lib
from bigmodel.models import presets
from bigmodel.models.build import build_model
from bigmodel.models.encoder import Source
from bigmodel.models.model import Model, apply
from experiments import defaults
from tests.golden.values import golden_file
from tests.small import unboxed_shapes

WIDTH, HEADS, HEAD_DIM, HIDDEN, VOCAB = 12, 2, 4, 20, 24
DEPTHS = {'encoder': 2, 'decoder': 3}
# Our stack -> their names; the decoder has one branch more.
STACKS = {'encoder/backbone': 'encoder', 'backbone': 'decoder'}
SELF, CROSS = 'layer.0.SelfAttention', 'layer.1.EncDecAttention'
# Our path within a block -> theirs, of attention and of both kinds of feed-forward layers.
BRANCHES = {
    'encoder': {
        'mixer': SELF,
        'mixer_norm': 'layer.0.layer_norm',
        'ffn_norm': 'layer.1.layer_norm',
    },
    'decoder': {
        'mixer': SELF,
        'mixer_norm': 'layer.0.layer_norm',
        'cross': CROSS,
        'cross_norm': 'layer.1.layer_norm',
        'ffn_norm': 'layer.2.layer_norm',
    },
}
FFN = {
    't5-base': {'in': 'wi', 'out': 'wo'},
    't5-v1_1-base': {'gate': 'wi_0', 'in': 'wi_1', 'out': 'wo'},
}
SIZES = {'t5-small': 't5-base', 't5-base': 't5-base', 't5-v1_1-base': 't5-v1_1-base'}
FFN_SPECS = {
    't5-base': f'mlp(activation="relu", hidden={HIDDEN})',
    't5-v1_1-base': f'gated(activation="gelu_tanh", hidden={HIDDEN})',
}


def small_t5(size: str, **model: Any) -> Model:
    """The preset with the shape of the golden values."""
    config = defaults.get_config()
    shape = {'depth': DEPTHS['decoder'], 'encoder_depth': DEPTHS['encoder'], 'width': WIDTH}
    shape |= {'num_heads': HEADS, 'head_dim': HEAD_DIM, 'vocab_size': VOCAB}
    shape |= {'position': 't5(num_buckets=8, max_distance=10)', 'ffn': FFN_SPECS[SIZES[size]]}
    config.model.update({'size': size} | shape | model)
    presets.resolve(config.model, 16)
    return build_model(config.model, VOCAB, 0, 'cpu')


def translated(model: Model, values: dict[str, np.ndarray], version: str) -> Any:
    """Hugging Face's parameters as this model's; every one of them is used once."""
    left = {k.partition('/')[2]: v for k, v in values.items() if k.startswith(f'{version}/')}
    del left['logits']
    found = {'inputs/tokens/table': left.pop('shared.weight')}
    if 'lm_head.weight' in left:
        found['head/out/weight'] = left.pop('lm_head.weight').T
    for ours, theirs in STACKS.items():
        bias = f'{theirs}.block.0.{SELF}.relative_attention_bias.weight'
        found[f'{ours}/position/buckets/table'] = left.pop(bias)
        found[f'{ours}/final_norm/scale'] = left.pop(f'{theirs}.final_layer_norm.weight')
        layers = [_layer(left, theirs, i, version) for i in range(DEPTHS[theirs])]
        for path in layers[0]:
            found[f'{ours}/layers/block_0/{path}'] = np.stack([layer[path] for layer in layers])
    assert not left
    shapes = unboxed_shapes(model)
    assert params_lib.flatten(shapes).keys() == found.keys()
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(found[params_lib.path_of(path)].reshape(leaf.shape)), shapes
    )


def _layer(left: dict[str, np.ndarray], stack: str, i: int, version: str) -> dict[str, np.ndarray]:
    """The parameters of one block by our paths; weights are (out, in) there."""
    found = {}
    for ours, theirs in BRANCHES[stack].items():
        name = f'{stack}.block.{i}.{theirs}'
        if ours.endswith('norm'):
            found[f'{ours}/scale'] = left.pop(f'{name}.weight')
            continue
        for part, letter in (('q', 'q'), ('k', 'k'), ('v', 'v'), ('out', 'o')):
            # Kernels here divide logits by √K, those of T5 do not.
            scale = math.sqrt(HEAD_DIM) if part == 'q' else 1.0
            found[f'{ours}/{part}/weight'] = scale * left.pop(f'{name}.{letter}.weight').T
    ffn = len(BRANCHES[stack]) // 2
    for ours, theirs in FFN[version].items():
        name = f'{stack}.block.{i}.layer.{ffn}.DenseReluDense.{theirs}.weight'
        found[f'ffn/{ours}/weight'] = left.pop(name).T
    return found


def logits(model: Model, params: Any, values: dict[str, np.ndarray], padded: bool = True) -> Any:
    tokens, source, segments = (
        jnp.asarray(values[k].astype(np.int32)) for k in ('tokens', 'source', 'segments')
    )
    read = Source(source, None, segments if padded else None)
    return np.asarray(jax.jit(lambda p: apply(model, p, tokens, source=read))(params))


def test_every_t5_is_compared() -> None:
    assert set(SIZES) == {size for size in presets.PRESETS if size.startswith('t5')}


@pytest.mark.parametrize('size', SIZES)
def test_logits_are_hugging_faces(size: str) -> None:
    values, model = golden_file('t5'), small_t5(size)
    params = translated(model, values, SIZES[size])
    want = values[f'{SIZES[size]}/logits']
    np.testing.assert_allclose(logits(model, params, values), want, rtol=0, atol=2e-5)
    # What pads the source matters where it is not said to be padding.
    unmasked = np.abs(logits(model, params, values, padded=False) - want).max((1, 2))
    assert unmasked[0] < 2e-5 and unmasked[1] > 0.01


def test_a_tied_table_gives_logits_divided_by_the_root_of_the_width() -> None:
    values = golden_file('t5')
    scaled, plain = small_t5('t5-base'), small_t5('t5-base', head='lm(tied=True)')
    params = translated(scaled, values, 't5-base')
    got, want = logits(scaled, params, values), logits(plain, params, values) / math.sqrt(WIDTH)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
