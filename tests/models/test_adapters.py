"""Adapters: the formulas by hand, what trains, and what an adapter may not do."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel import params as params_lib
from bigmodel.errors import UserError
from bigmodel.models.adapters import ADAPTERS
from bigmodel.models.counts import parameter_table
from bigmodel.models.model import apply, apply_cached, init_params
from bigmodel.models.quantised import dequantised
from bigmodel.training.outline import outline
from bigmodel.training.state import abstract_params
from tests.small import quick_jit, random_params, random_tokens, small_config, small_model

LENGTH = 8
WHERE = '.*/(mixer/(q|out)|ffn/out)/weight'
TRAINED = (('adapter/.*', True), ('.*', False))
# adapter spec -> W' of W (in, out), A (in, r), B (r, out) and DoRA's factor, as the papers have it.
FORMULAS = {
    f'lora(rank=3, alpha=6.0, where="{WHERE}")': lambda w, a, b, f: w + 6 / 3 * a @ b,
    f'dora(rank=3, alpha=6.0, where="{WHERE}")': lambda w, a, b, f: (
        f * np.linalg.norm(w, axis=0) * (v := w + 6 / 3 * a @ b) / np.linalg.norm(v, axis=0)
    ),
    # W as its codes have it, whose values have tests of their own.
    f'qlora(rank=3, alpha=6.0, where="{WHERE}", block=8)': lambda w, a, b, f: w + 6 / 3 * a @ b,
}


def test_every_adapter_has_a_formula() -> None:
    assert {'none', *(spec.split('(')[0] for spec in FORMULAS)} == set(ADAPTERS)


@pytest.mark.parametrize('spec', FORMULAS)
def test_merged_weights_are_the_papers(spec: str) -> None:
    """Also for weights of three dims: heads of q make the columns, those of out the rows."""
    model = small_model(LENGTH, adapter=spec)
    params = random_params(model)
    merged = params_lib.flatten(model.adapter.merge(params))
    base = params_lib.flatten(dequantised({k: v for k, v in params.items() if k != 'adapter'}))
    own = params_lib.flatten(params['adapter'])
    assert merged.keys() == base.keys()
    adapted = {path.rpartition('/')[0] for path in own}
    assert {p.split('/')[-2] for p in adapted} == {'q', 'out'} and len(adapted) == 3
    for path, weight in merged.items():
        if path not in adapted:
            np.testing.assert_array_equal(weight, base[path])
            continue
        for layer in range(2):
            w, a, b = (
                np.asarray(x[layer]) for x in (base[path], own[f'{path}/down'], own[f'{path}/up'])
            )
            rows = int(np.prod(a.shape[:-1]))
            factor = np.asarray(own.get(f'{path}/factor', np.ones((2, 1)))[layer]).ravel()
            want = FORMULAS[spec](w.reshape(rows, -1), a.reshape(rows, 3), b.reshape(3, -1), factor)
            np.testing.assert_allclose(weight[layer].reshape(rows, -1), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('spec', FORMULAS)
def test_it_starts_as_the_model_and_decodes_as_it_computes(spec: str) -> None:
    model, plain = small_model(LENGTH, adapter=spec), small_model(LENGTH)
    tokens = jnp.asarray(random_tokens(2, LENGTH))
    params = jax.tree.map(
        lambda b: b.value,
        init_params(model, jax.random.key(0)),
        is_leaf=lambda x: hasattr(x, 'names'),
    )
    base = dequantised({k: v for k, v in params.items() if k != 'adapter'})
    run = quick_jit(lambda p: apply(model, p, tokens))
    want = quick_jit(lambda p: apply(plain, p, tokens))(base)
    np.testing.assert_allclose(run(params), want, rtol=1e-5, atol=1e-5)
    params = random_params(model)
    decoded = quick_jit(lambda p: apply_cached(model, p, None, tokens, LENGTH)[0])(params)
    np.testing.assert_allclose(decoded, run(params), rtol=1e-4, atol=1e-4)
    exported = model.adapter.merge(params)
    np.testing.assert_allclose(run(exported), run(params), rtol=1e-5, atol=1e-5)


def test_dropout_leaves_out_input_features() -> None:
    model = small_model(LENGTH, adapter='lora(dropout=0.5, where=".*/q/weight")')
    params = random_params(model)
    path = 'backbone/layers/block_0/mixer/q/weight'
    whole = params_lib.flatten(model.adapter.merge(params))[path]
    noisy = params_lib.flatten(model.adapter.merge(params, jax.random.key(0)))[path]
    base = params_lib.flatten(params)[path]
    ratio = np.asarray((noisy - base) / (whole - base))  # (layers, in, heads, head_dim)
    np.testing.assert_allclose(
        ratio, ratio[..., :1, :1] * np.ones_like(ratio), rtol=1e-3, atol=1e-3
    )
    assert set(np.round(ratio[..., 0, 0], 2).ravel()) == {0.0, 2.0}


def config(**model: Any) -> Any:
    made = small_config(LENGTH, **model)
    made.optimizer.train, made.data.batch_size = TRAINED, 8
    return made


def test_frozen_weights_have_no_optimizer_state() -> None:
    plan = outline(config(adapter='lora(rank=2)'))
    own = params_lib.count(plan.abstract.params['adapter'])
    # AdamW's two moments, and the number of steps.
    moments = [x for x in jax.tree.leaves(plan.abstract.opt_state) if x.ndim]
    assert params_lib.count(moments) == 2 * own
    sizes, total = plan.sizes, params_lib.count(plan.abstract.params)
    assert (sizes.num_trained, sizes.num_params) == (own, total)
    assert (sizes.param_bytes, sizes.optimizer_bytes) == (4 * total, 2 * 4 * own + 4)
    assert f'{own:,} of {total:,} parameters' in str(sizes)


@pytest.mark.parametrize(('bits', 'each'), [(4, 0.5), (8, 1.0)])
def test_quantised_weights_are_small_and_count_as_before(bits: int, each: float) -> None:
    lora, qlora = (
        outline(config(adapter=f'{name}rank=2, where=".*/(mixer|ffn)/.*")'))
        for name in ('lora(', f'qlora(block=8, bits={bits}, ')
    )
    weights = [p for p in params_lib.flatten(qlora.abstract.params) if p.endswith('/codes')]
    base = params_lib.flatten(lora.abstract.params)
    number = sum(params_lib.count(base[path.removesuffix('/codes')]) for path in weights)
    saved = number * (4 - each - 4 / 8)  # a float32 scale for 8
    assert number and lora.sizes.param_bytes - qlora.sizes.param_bytes == saved
    same = ('num_params', 'num_trained', 'optimizer_bytes')
    assert all(getattr(lora.sizes, name) == getattr(qlora.sizes, name) for name in same)
    assert lora.flops_per_token == qlora.flops_per_token
    tables = [parameter_table(plan.boxed) for plan in (lora, qlora)]
    assert tables[0][-1] == tables[1][-1]


@pytest.mark.parametrize('spec', FORMULAS)
def test_ranks_are_stacked_like_the_layers_they_adapt(spec: str) -> None:
    boxed = abstract_params(small_model(LENGTH, adapter=spec))['adapter']
    weight = boxed['backbone']['layers']['block_0']['mixer']['q']['weight']
    assert weight['down'].names == ('layers', 'embed', 'rank')
    assert weight['up'].names == ('layers', 'rank', 'heads', 'head_dim')


def test_mistakes() -> None:
    with pytest.raises(UserError, match=r"where='nothing' matches no weight; there are: backbone"):
        abstract_params(small_model(LENGTH, adapter='lora(where="nothing")'))
    both = config(adapter='lora')
    both.optimizer.train = (('.*', True),)
    with pytest.raises(UserError, match=r'adapts backbone/.*, which optimizer.train trains; set'):
        outline(both)
    both.model.adapter = 'qlora(block=8)'
    with pytest.raises(UserError, match=r'adapts backbone/.*, which optimizer.train trains; set'):
        outline(both)
    with pytest.raises(UserError, match=r'block=64 does not divide the 8 numbers of a row of back'):
        outline(config(adapter='qlora'))
    with pytest.raises(UserError, match=r'bits=...\): must be one of 4, 8, got 5'):
        small_model(LENGTH, adapter='qlora(bits=5)')
    with pytest.raises(UserError, match="Did you mean 'lora'"):
        small_model(LENGTH, adapter='lorra')
