"""How activations are multiplied with weights: as they are, or as int8 or fp8 codes, by qwix.

A product quantises both of its factors, each number divided by a scale that makes the largest one
fill the type, multiplies the codes, adds in int32 or float32, and multiplies by the scales. Weights
and what is saved for the backward pass stay as they are: the two products of the backward pass
quantise anew, as they sum over other dims.

qwix's own way in, `quantize_model`, replaces `dot_general` while a model is traced; it would not
see the gradients of `contract`, whose backward pass is written out and traced later. So its
`quantize` and `dot_general` are called here; a test compares with what its `QtProvider` calls.
"""

import contextlib
import contextvars
import dataclasses
import math
import re
import types
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from bigmodel.errors import UserError
from bigmodel.layers import products
from bigmodel.rings import ring
from bigmodel.specs import NOT_NEGATIVE

# An int32 holds this many products of two int8, -128·-128 at most.
MOST_TERMS = 2**31 // 2**14 - 1
FLOATS = (jnp.float8_e4m3fn, jnp.float8_e5m2)
# The largest number becomes 127. For qwix's own 'absmax' it is 127.5, which the last bit rounds up
# or down: losses of two meshes would differ (seen: in the fourth digit, at a width of 16).
CALIBRATION = {jnp.int8: f'absmax,{127.5 / 127}', **dict.fromkeys(FLOATS, 'absmax')}
EXCLUDED = ('head/', 'inputs/', '.*/router/', '.*/filter/')


@dataclasses.dataclass(frozen=True)
class Full:
    """All products in `model.dtype`."""

    full = ()  # regexes of weights that are not quantised, where others are

    def quantises(self, path: str) -> bool:
        """Whether the products of the weight at `path` are of codes."""
        return False

    def contract(
        self,
        x: Float[Array, '...'],
        w: Float[Array, '...'],
        n: int,
        axes: tuple[str | None, ...] = (),
        key: Array | None = None,
    ) -> Float[Array, '...']:
        """`products.contract`; the `key` is for rounding of gradients."""
        return products.contract(x, w, n, axes)

    def contract_each(
        self, x_BEPD: Float[Array, 'B E P D'], w_EDF: Float[Array, 'E D F']
    ) -> Float[Array, 'B E P F']:
        """`products.contract_each`."""
        return products.contract_each(x_BEPD, w_EDF)

    def contract_groups(
        self, x_ND: Float[Array, 'N D'], w_EDF: Float[Array, 'E D F'], sizes_E: Int[Array, ' E']
    ) -> Float[Array, 'N F']:
        """`products.contract_groups`."""
        return products.contract_groups(x_ND, w_EDF, sizes_E)

    def key(self, module: nn.Module) -> Array | None:
        """The key of a module's products, where they need one."""
        return None

    def check_keyless(self, what: str, pattern: str) -> None:
        """Raises UserError where products of `what`, weights of paths like `pattern`, would need a
        key: they have none.
        """


class Quantised(Full):
    """Base of those that multiply codes. Fields of both: `full`, `gradients`, `scale`, `tile`."""

    forward: DTypeLike
    backward: DTypeLike
    stochastic = False

    def __post_init__(self) -> None:
        for pattern in self.full:
            try:
                re.compile(pattern)
            except (re.error, TypeError) as e:
                raise ValueError(f'full: {pattern!r} is not a regular expression: {e}') from e
        if self.tile and self.scale != 'channel':
            raise ValueError(f"tile={self.tile} needs scale='channel'")
        if self.stochastic and self.gradients == 'none':
            raise ValueError(
                "stochastic=True rounds gradients, which are in full: gradients='none'"
            )
        _qwix()

    def quantises(self, path: str) -> bool:
        return not any(re.match(pattern, path) for pattern in self.full)

    def contract(
        self,
        x: Float[Array, '...'],
        w: Float[Array, '...'],
        n: int,
        axes: tuple[str | None, ...] = (),
        key: Array | None = None,
    ) -> Float[Array, '...']:
        lead, out = x.shape[: x.ndim - n], w.shape[n:]
        w_IO = w.reshape(math.prod(w.shape[:n]), math.prod(out))
        # Of rows that are split, XLA would gather what is merged (see products.py).
        x_MI = x.reshape(*(lead if ring() else (math.prod(lead),)), len(w_IO))
        self._check(*w_IO.shape)
        return _product(self, x_MI, w_IO, key).reshape(*lead, *out)

    def contract_each(
        self, x_BEPD: Float[Array, 'B E P D'], w_EDF: Float[Array, 'E D F']
    ) -> Float[Array, 'B E P F']:
        B, E, P, D = x_BEPD.shape
        y_ERF = self._each(x_BEPD.swapaxes(0, 1).reshape(E, B * P, D), w_EDF)
        return y_ERF.reshape(E, B, P, -1).swapaxes(0, 1)

    def contract_groups(
        self, x_ND: Float[Array, 'N D'], w_EDF: Float[Array, 'E D F'], sizes_E: Int[Array, ' E']
    ) -> Float[Array, 'N F']:
        # In blocks on every platform: `ragged_dot` of codes has no gradient.
        return products.in_blocks(x_ND, w_EDF, sizes_E, self._each)

    def _each(self, x_ERD: Array, w_EDF: Array) -> Array:
        self.check_keyless('experts', '.*/ffn/')
        self._check(*w_EDF.shape[1:])
        return jax.vmap(lambda x, w: _product(self, x, w, None))(x_ERD, w_EDF)

    def key(self, module: nn.Module) -> Array | None:
        return module.make_rng('dropout') if self.stochastic and module.has_rng('dropout') else None

    def check_keyless(self, what: str, pattern: str) -> None:
        if self.stochastic:
            raise UserError(
                f'model.matmul: stochastic=True has no keys for the gradients of {what}; leave '
                f'them in full, full=({pattern!r}, …), or set stochastic=False'
            )

    def _check(self, *sizes: int) -> None:
        for size in sizes:
            if self.tile and size % self.tile:
                raise UserError(
                    f'model.matmul: tile={self.tile} does not divide the {size} numbers that a '
                    f"product of a weight sums; choose a divisor, or add the weight to 'full'"
                )

    def codes(
        self, x: Array, summed: Sequence[int], dtype: DTypeLike, key: Array | None, tile: int
    ) -> Any:
        """A qwix array: one scale for all numbers, or for those along the dims that are `summed`,
        or of those for each `tile` of the last one. With a `key` rounded up or down at random, with
        the number itself for a mean.
        """
        x, last = x.astype(jnp.float32), summed[-1]  # scales of float16 would underflow
        channels = [i for i in range(x.ndim) if i not in summed] if self.scale == 'channel' else []
        tiles = {last: tile} if tile else {}
        where = {'channelwise_axes': channels, 'tiled_axes': tiles}
        coded = _qwix().quantize(x, dtype, calibration_method=CALIBRATION[dtype], **where)
        if key is None:
            return coded
        scale = jnp.repeat(coded.scale, tile, last) if tile else coded.scale
        noise = jax.random.uniform(key, x.shape, jnp.float32, -0.5, 0.5)
        rounded = jnp.clip(jnp.round(x / scale + noise), -128, 127).astype(dtype)
        return dataclasses.replace(coded, qvalue=rounded)

    def dot(
        self,
        a: tuple[Array, DTypeLike],
        b: tuple[Array, DTypeLike],
        summed: tuple[Sequence[int], Sequence[int]],
        keys: tuple[Array | None, Array | None] = (None, None),
        tile: int = 0,
    ) -> Array:
        """Σ a·b over dims of each, each as codes of a type; float32."""
        terms = tile or math.prod(a[0].shape[i] for i in summed[0])
        if jnp.issubdtype(a[1], jnp.integer) and terms > MOST_TERMS:
            raise UserError(
                f'model.matmul: a sum of {terms:,} products of int8 may exceed int32; at most '
                f"{MOST_TERMS:,} fit: set gradients='inputs', or a larger accumulate"
            )
        coded = [
            self.codes(x, dims, dtype, key, tile)
            for (x, dtype), dims, key in zip((a, b), summed, keys, strict=True)
        ]
        return _qwix().dot_general(*coded, (summed, ((), ())))


Gradients = Literal['all', 'inputs', 'none']
Scale = Literal['channel', 'tensor']


@dataclasses.dataclass(frozen=True)
class Int8(Quantised):
    """Products of int8, of weights whose path no regex of `full` matches from its start.

    `gradients` says which products of the backward pass are too: those for the `inputs` alone, as
    sums over a whole batch for weights lose more (Wortsman et al. 2023, SwitchBack), 'all' or
    'none'. A scale is of a row of activations and of a column of weights ('channel'), there of each
    `tile` numbers of a sum (0: of all), or one of each 'tensor'. `stochastic` rounds gradients at
    random, without bias.
    """

    full: tuple[str, ...] = EXCLUDED
    gradients: Gradients = 'inputs'
    scale: Scale = 'channel'
    tile: Annotated[int, NOT_NEGATIVE] = 0
    stochastic: bool = False

    forward = backward = jnp.int8


@dataclasses.dataclass(frozen=True)
class Fp8(Quantised):
    """Products of 8-bit floats, e4m3 forward and e5m2 for gradients, each tensor with a scale of
    its own (Micikevicius et al. 2022). Where there is no such unit, XLA computes in a wider type.

    Arguments are those of `int8`. A scale of all rows lets a token's output depend on later tokens
    and other rows, by rounding alone; `scale="channel"` does not.
    """

    full: tuple[str, ...] = EXCLUDED
    gradients: Gradients = 'all'
    scale: Scale = 'tensor'
    tile: Annotated[int, NOT_NEGATIVE] = 0

    forward, backward = FLOATS


MATMULS = {'full': Full, 'int8': Int8, 'fp8': Fp8}

_active: contextvars.ContextVar[Full | None] = contextvars.ContextVar('matmul', default=None)


@contextlib.contextmanager
def using(matmul: Full) -> Iterator[None]:
    """Within this context `matmul_of` weights is this one."""
    token = _active.set(matmul)
    try:
        yield
    finally:
        _active.reset(token)


def matmul_of(module: nn.Module, name: str) -> Full:
    """What multiplies with the parameter `name` of `module`."""
    matmul = _active.get() or Full()
    return matmul if matmul.quantises('/'.join((*module.path, name))) else Full()


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(
    how: Quantised, x: Float[Array, '*M I'], w_IO: Float[Array, 'I O'], key: Array | None
) -> Float[Array, '*M O']:
    return _of_codes(how, x, w_IO)


def _of_codes(how: Quantised, x: Array, w_IO: Array) -> Array:
    last = x.ndim - 1
    y = how.dot((x, how.forward), (w_IO, how.forward), ((last,), (0,)), tile=how.tile)
    return y.astype(x.dtype)


def _forward(how: Quantised, x: Array, w_IO: Array, key: Array | None) -> tuple[Array, tuple]:
    # Not `_product`, in which policies of recomputation see no product.
    return _of_codes(how, x, w_IO), (x, w_IO, key)


def _backward(how: Quantised, saved: tuple, dy: Array) -> tuple[Array, Array, None]:
    x, w_IO, key = saved
    for_x, for_w = (None, None) if key is None else jax.random.split(key)
    rows, last = tuple(range(x.ndim - 1)), x.ndim - 1
    if how.gradients == 'none':
        dx = jax.lax.dot_general(dy, w_IO, (((last,), (1,)), ((), ())))
    else:
        factors = (dy, how.backward), (w_IO, how.forward)
        dx = how.dot(*factors, ((last,), (1,)), (for_x, None), how.tile)
    if how.gradients != 'all':
        dw_IO = jax.lax.dot_general(x, dy, ((rows, rows), ((), ())))
    else:
        factors = (x, how.forward), (dy, how.backward)
        dw_IO = how.dot(*factors, (rows, rows), (None, for_w))
    return dx.astype(x.dtype), dw_IO.astype(w_IO.dtype), None


_product.defvjp(_forward, _backward)


def _qwix() -> types.ModuleType:
    try:
        import qwix
    except ImportError as e:
        raise UserError('model.matmul of int8 or fp8 needs qwix: pip install qwix') from e
    return qwix
