"""A ViT against Hugging Face's, through a table of parameter paths; and how it reads an image."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel import params as params_lib
from bigmodel.errors import UserError
from bigmodel.layers.positions import POSITIONS
from bigmodel.models.model import Model, apply
from tests.small import quick_jit, random_params, small_model, unboxed_shapes

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'vit_values.npz'
HEADS, PATCH = 4, 4
PATCHES = f'patches(size={PATCH}, class_token=True)'
FOR_ANY_MASK = [name for name in POSITIONS if name != 'xpos']  # which is for causal masks
Array = np.ndarray
BLOCK = 'backbone/layers/block_0/'


def plain(x: Array) -> Array:
    return x


def heads_out(w: Array) -> Array:
    """(out, in) -> (in, heads, head_dim)."""
    return w.T.reshape(-1, HEADS, w.shape[0] // HEADS)


def heads_in(w: Array) -> Array:
    return w.T.reshape(HEADS, w.shape[1] // HEADS, -1)


# Our path in a block -> theirs in a layer, and what makes ours of it.
LAYER: dict[str, tuple[str, Callable[[Array], Array]]] = {
    'mixer_norm/scale': ('layernorm_before.weight', plain),
    'mixer_norm/bias': ('layernorm_before.bias', plain),
    'ffn_norm/scale': ('layernorm_after.weight', plain),
    'ffn_norm/bias': ('layernorm_after.bias', plain),
    **{f'mixer/{x}/weight': (f'attention.{x}_proj.weight', heads_out) for x in 'qkv'},
    **{f'mixer/{x}/bias': (f'attention.{x}_proj.bias', lambda b: b.reshape(4, -1)) for x in 'qkv'},
    'mixer/out/weight': ('attention.o_proj.weight', heads_in),
    'mixer/out/bias': ('attention.o_proj.bias', plain),
    'ffn/in/weight': ('mlp.fc1.weight', np.transpose),
    'ffn/in/bias': ('mlp.fc1.bias', plain),
    'ffn/out/weight': ('mlp.fc2.weight', np.transpose),
    'ffn/out/bias': ('mlp.fc2.bias', plain),
}


def golden() -> dict[str, Array]:
    with np.load(GOLDEN) as archive:
        return dict(archive)


def converted(theirs: dict[str, Array]) -> dict[str, Array]:
    """Our parameters by path, of theirs."""
    found = {k.removeprefix('params/'): v for k, v in theirs.items() if k.startswith('params/')}
    projection = found['embeddings.patch_embeddings.projection.weight']
    positions = found['embeddings.position_embeddings'][0]
    ours = {
        # Ours shares position 0 with the first patch, so its own vector makes up for it.
        'inputs/class_token': found['embeddings.cls_token'][0, 0] + positions[0] - positions[1],
        'inputs/patch/weight': projection.transpose(2, 3, 1, 0).reshape(-1, len(projection)),
        'inputs/patch/bias': found['embeddings.patch_embeddings.projection.bias'],
        # The last row is never read.
        'backbone/position/embed/table': np.roll(positions, -1, 0),
        'backbone/final_norm/scale': found['layernorm.weight'],
        'backbone/final_norm/bias': found['layernorm.bias'],
    }
    for path, (name, make) in LAYER.items():
        ours[BLOCK + path] = np.stack([make(found[f'layers.{i}.{name}']) for i in range(2)])
    return ours


def vit(**model: Any) -> Model:
    shape = {'size': 'vit-s16', 'num_kv_heads': HEADS, 'inputs': PATCHES} | model
    return small_model(7, 10, **shape)


def test_the_last_hidden_state_is_hugging_faces() -> None:
    values, model = golden(), vit()
    ours = converted(values)
    shapes = unboxed_shapes(model)
    backbone = {k: shapes[k] for k in ('inputs', 'backbone')}
    assert {k: v.shape for k, v in params_lib.flatten(backbone).items()} == {
        k: v.shape for k, v in ours.items()
    }
    params = jax.tree_util.tree_map_with_path(
        lambda path, _: jnp.asarray(ours[params_lib.path_of(path)]), backbone
    )
    images = jnp.asarray(values['pixels'].transpose(0, 2, 3, 1))
    headless = model.clone(make_head=lambda: lambda x_BLD, *args, **kwargs: x_BLD)
    got = jax.jit(lambda p: apply(headless, p, images))(params)
    np.testing.assert_allclose(got, values['last_hidden_state'], rtol=1e-5, atol=1e-5)


def images(rows: int = 2, size: int = 8, channels: int = 3) -> jax.Array:
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.integers(0, 256, (rows, size, size, channels)), jnp.uint8)


@pytest.mark.parametrize(
    ('position', 'pool'), [*((name, 'first') for name in FOR_ANY_MASK), ('none', 'mean')]
)
def test_every_encoding_serves_patches(position: str, pool: str) -> None:
    """The label depends on every patch, and, where the encoding tells, on which is where."""
    argument = '(columns=2)' if position.endswith('2d') else ''
    model = vit(position=position + argument, head=f'classifier(pool={pool!r})')
    params, x = random_params(model), images()
    run = quick_jit(lambda p, x: apply(model, p, x))
    base = run(params, x)
    for row, column in ((0, 0), (0, 5), (7, 3), (4, 7)):
        changed = run(params, x.at[0, row, column].set(255 - x[0, row, column]))
        assert np.abs(changed - base)[0].max() > 1e-4
        np.testing.assert_array_equal(changed[1], base[1])
    mirrored = run(params, jnp.roll(x, PATCH, 2))  # the patches of each row change places
    moved = np.abs(mirrored - base).max()
    # Order reaches the label through positions alone.
    assert moved < 1e-4 if position == 'none' else moved > 1e-3


def test_images_that_do_not_fit_are_refused_where_they_are_read() -> None:
    model = vit()
    for x, message in ((images(size=10), 'does not divide'), (images(channels=1), 'channels=1')):
        with pytest.raises(UserError, match=message):
            jax.eval_shape(lambda p, x=x: apply(model, p, x), unboxed_shapes(model))


def test_a_tied_head_has_no_table_to_be_tied_to() -> None:
    with pytest.raises(UserError, match=r"lm\(tied=True\)' needs a table of tokens"):
        unboxed_shapes(vit(head='lm(tied=True)'))
