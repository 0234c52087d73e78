"""The BERT presets against Hugging Face's BertForMaskedLM, through a table of parameter paths."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel import params as params_lib
from bigmodel.models import presets
from bigmodel.models.build import build_model
from bigmodel.models.model import Model, apply
from experiments import defaults
from tests.golden.values import golden_file
from tests.small import unboxed_shapes

# Our path -> theirs, without '/weight' or '.weight'.
OUTSIDE = {
    'backbone/embed_norm': 'bert.embeddings.LayerNorm',
    'head/transform': 'cls.predictions.transform.dense',
    'head/norm': 'cls.predictions.transform.LayerNorm',
}
OF_A_LAYER = {
    'mixer/q': 'attention.self.query',
    'mixer/k': 'attention.self.key',
    'mixer/v': 'attention.self.value',
    'mixer/out': 'attention.output.dense',
    'mixer_norm': 'attention.output.LayerNorm',
    'ffn/in': 'intermediate.dense',
    'ffn/out': 'output.dense',
    'ffn_norm': 'output.LayerNorm',
}
DEPTH, LAYERS = 2, 'backbone/layers/block_0'


def small_bert(size: str, **model: Any) -> Model:
    config = defaults.get_config()
    shape = {'depth': DEPTH, 'width': 16, 'num_heads': 4, 'vocab_size': 40, 'max_length': 12}
    config.model.update({'size': size} | shape | model)
    presets.resolve(config.model, 12)
    return build_model(config.model, 40, 0, 'cpu')


def translated(model: Model, values: dict[str, np.ndarray]) -> Any:
    """Hugging Face's parameters as this model's; every one of them is used."""
    embeddings = {k: values[f'bert.embeddings.{k}_embeddings.weight'] for k in ('word', 'position')}
    # The embedding of sentence A is added to every token.
    embeddings['position'] = (
        embeddings['position'] + values['bert.embeddings.token_type_embeddings.weight'][0]
    )
    found = {
        'inputs/tokens/table': embeddings['word'],
        'backbone/position/embed/table': embeddings['position'],
        'head/bias': values['cls.predictions.bias'],
    }
    for ours, theirs in OUTSIDE.items():
        found |= {f'{ours}/{kind}': x for kind, x in _pair(values, theirs).items()}
    for ours, theirs in OF_A_LAYER.items():
        layers = [_pair(values, f'bert.encoder.layer.{i}.{theirs}') for i in range(DEPTH)]
        for kind in layers[0]:
            found[f'{LAYERS}/{ours}/{kind}'] = np.stack([layer[kind] for layer in layers])
    shapes = unboxed_shapes(model)
    assert params_lib.flatten(shapes).keys() == found.keys()
    assert sum(x.size for x in found.values()) + 2 * 16 == sum(
        x.size for k, x in values.items() if k.startswith(('bert', 'cls'))
    )
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(found[params_lib.path_of(path)].reshape(leaf.shape)), shapes
    )


def _pair(values: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Weights are (out, in) there; the weight of a norm is a scale here."""
    kind = 'scale' if name.endswith('LayerNorm') else 'weight'
    return {kind: values[f'{name}.weight'].T, 'bias': values[f'{name}.bias']}


@pytest.mark.parametrize('size', [s for s in presets.PRESETS if s.startswith('bert')])
def test_logits_are_hugging_faces(size: str) -> None:
    values = golden_file('bert')
    model = small_bert(size)
    params, segments = translated(model, values), values['segments'].astype(np.int32)
    tokens = jnp.asarray(values['tokens'].astype(np.int32))
    logits = jax.jit(lambda p, s: apply(model, p, tokens, None, s))(params, jnp.asarray(segments))
    there = segments > 0  # what padding makes of itself differs, and nobody reads it
    np.testing.assert_allclose(
        np.asarray(logits)[there], values['logits'][there], rtol=0, atol=1e-5
    )


def test_padding_and_order_matter_there() -> None:
    """The test above can fail: without its padding the second row has other logits."""
    values = golden_file('bert')
    model = small_bert('bert-base')
    params, tokens = translated(model, values), jnp.asarray(values['tokens'].astype(np.int32))
    there = values['segments'] > 0
    whole = np.asarray(jax.jit(lambda p: apply(model, p, tokens))(params))
    np.testing.assert_allclose(whole[0], values['logits'][0], rtol=0, atol=1e-5)
    assert np.abs(whole[1] - values['logits'][1])[there[1]].max() > 0.01


def test_a_modern_encoder_is_some_slots_away() -> None:
    """Rotations, norms before the branches and gated units, as ModernBERT (Warner et al. 2024)."""
    modern = {'position': 'rope', 'block': 'prenorm', 'ffn': 'gated("gelu")', 'norm': 'layernorm'}
    model = small_bert('bert-base', **modern, final_norm='layernorm')
    paths = params_lib.flatten(unboxed_shapes(model))
    assert f'{LAYERS}/ffn/gate/weight' in paths and 'backbone/final_norm/scale' in paths
    assert 'backbone/position/embed/table' not in paths
