"""Weights that are split as rows are gathered once a pass, and their gradients stay in parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bigmodel import gathering
from bigmodel.layers.linear import Linear
from bigmodel.sharding import make_sharding
from tests.collectives import collectives
from tests.small import quick_jit

LAYERS, ROWS, WIDTH, HEADS, HEAD_DIM = 3, 16, 16, 4, 8


class Layer(nn.Module):
    """Two products whose weights have the axes of attention's."""

    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        into = Linear((HEADS, HEAD_DIM), ('embed',), ('heads', 'head_dim'), name='into')
        back = Linear((WIDTH,), ('heads', 'head_dim'), ('embed',), name='back')
        return x + back(jnp.tanh(into(x))), None


def compiled(mesh: str, rules: str, remat: bool) -> tuple[str, list, object]:
    """The gradient of a scan of layers: its program, its collectives, its value."""
    layer = nn.remat(Layer, prevent_cse=False) if remat else Layer
    stack = nn.scan(
        layer,
        variable_axes={'params': 0},
        split_rngs={'params': True},
        length=LAYERS,
        metadata_params={nn.PARTITION_NAME: 'layers'},
    )()
    x = jnp.asarray(np.random.default_rng(0).normal(size=(ROWS, 4, WIDTH)), jnp.float32)
    boxed = jax.eval_shape(lambda: stack.init(jax.random.key(0), x, None))
    params = nn.unbox(jax.jit(lambda: stack.init(jax.random.key(0), x, None))())
    sharding = make_sharding(mesh, rules)
    places = sharding.of_params(boxed)

    def loss(params: dict, x: jax.Array) -> jax.Array:
        return jnp.sum(stack.apply(params, x, None)[0] ** 2)

    with sharding.active():
        params, x = jax.device_put((params, x), (places, sharding.batch(x.shape)))
        run = quick_jit(jax.grad(loss), out_shardings=places).lower(params, x).compile()
    return run.as_text(), collectives(run.as_text(), sharding.mesh), run(params, x)


@pytest.mark.parametrize('remat', [False, True])
def test_a_pass_gathers_each_weight_once(remat: bool) -> None:
    _, calls, got = compiled('data=2,fsdp=4', 'fsdp', remat)
    gathered = sum(len(c.arrays) for c in calls if c.kind == 'all-gather')
    assert gathered == 2 * 2  # weights, forward and backward
    _, _, want = compiled('data=8', 'dp', remat)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, want)


def test_nothing_is_kept_whole_between_the_passes() -> None:
    """The loops' carries have weights and gradients of all layers in parts alone."""
    hlo, _, _ = compiled('fsdp=8', 'fsdp', remat=False)
    carried = ''.join(line.split(' while(')[0] for line in hlo.splitlines() if ' while(' in line)
    assert f'f32[{LAYERS},{WIDTH // 8},{HEADS},{HEAD_DIM}]' in carried
    assert f'f32[{LAYERS},{WIDTH},{HEADS},{HEAD_DIM}]' not in carried


def test_weights_that_rows_do_not_share_are_left_alone() -> None:
    w = jnp.ones((WIDTH, 8))
    with make_sharding('data=4,tensor=2', 'tensor').active():
        assert gathering.gathered(w, ('embed', 'mlp')) is w
        assert gathering.scattered(w, ('embed', 'mlp')) is w
    assert gathering.gathered(w, ('embed', 'mlp')) is w
