"""Position encodings that are added to the attention logits."""

import math
from typing import Annotated

import flax.struct
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from bigmodel.layers.coordinates import Bias, Coordinates
from bigmodel.layers.initializers import Init, fan_in
from bigmodel.layers.linear import Embed
from bigmodel.layers.position import Position
from bigmodel.specs import POSITIVE


class Alibi(Position):
    """Adds −slope·distance to the logits, one fixed slope a head (Press et al. 2021)."""

    def bias(self, num_heads: int) -> Bias:
        return AlibiBias(jnp.asarray(alibi_slopes(num_heads), jnp.float32))


class T5(Position):
    """Adds a learned scalar for each head and bucket of distance (Raffel et al. 2019, §2.1).

    Half of the buckets are exact distances, the rest grow logarithmically to `max_distance`; with a
    mask that is not causal, half of each are for keys that follow the query. The table is shared by
    all layers, as in the paper.
    """

    num_buckets: Annotated[int, POSITIVE] = 32
    max_distance: Annotated[int, POSITIVE] = 128
    bidirectional: bool = False
    init: Init = fan_in

    def __post_init__(self) -> None:
        super().__post_init__()
        exact = self.num_buckets // (4 if self.bidirectional else 2)
        if exact < 1:
            raise ValueError(
                f'num_buckets={self.num_buckets} must be at least {4 if self.bidirectional else 2}'
            )
        if self.max_distance <= exact:
            raise ValueError(
                f'max_distance={self.max_distance} must exceed the {exact} distances that have a '
                f'bucket each'
            )

    @nn.compact
    def bias(self, num_heads: int) -> Bias:
        table = Embed(
            self.num_buckets, num_heads, ('positions', 'heads'), self.init, name='buckets'
        )
        return T5Bias(table.table_VD.astype(jnp.float32), self.max_distance, self.bidirectional)


class Kerple(Position):
    """Adds −a·log(1 + b·distance) to the logits, with learned a, b > 0 for each head: KERPLE's
    logarithmic kernel (Chi et al. 2022).
    """

    @nn.compact
    def bias(self, num_heads: int) -> Bias:
        ones = nn.with_logical_partitioning(nn.initializers.ones, ('heads',))
        a, b = (self.param(name, ones, (num_heads,)) for name in 'ab')
        return KerpleBias(nn.softplus(a), nn.softplus(b))


class Fire(Position):
    """Adds f(ψ(distance) / ψ(max(t, i))) to the logits of the query at position i, where
    ψ(x) = log(1 + |c|·x), and f is a small MLP from a number to one for each head (Li et al. 2023).

    c and the threshold t, which starts at `threshold`, are learned; all layers share f, as in the
    paper's shared variant. Distances grow with the text, but what f sees stays in [0, 1].
    """

    hidden: Annotated[int, POSITIVE] = 32
    threshold: Annotated[float, POSITIVE] = 512.0
    init: Init = fan_in

    @nn.compact
    def bias(self, num_heads: int) -> Bias:
        def vector(name: str, size: int, init: nn.initializers.Initializer) -> Array:
            return self.param(name, nn.with_logical_partitioning(init, ('positions',)), (size,))

        normal, constant = nn.initializers.normal(1.0), nn.initializers.constant
        out = Embed(self.hidden, num_heads, ('positions', 'heads'), self.init, name='out')
        return FireBias(
            vector('in_slope', self.hidden, normal),
            vector('in_bias', self.hidden, normal),
            out.table_VD.astype(jnp.float32),
            vector('c', 1, constant(0.1)),  # as in the paper's code
            self.threshold * vector('t', 1, constant(1.0)),
        )


@flax.struct.dataclass
class AlibiBias(Bias):
    """`−slope·|distance|`."""

    slopes_H: Float[Array, ' H']

    def __call__(self, queries: Coordinates, keys: Coordinates) -> Float[Array, 'B H L S']:
        distance = jnp.abs(queries.distance(keys)).astype(jnp.float32)
        return -self.slopes_H[None, :, None, None] * distance


@flax.struct.dataclass
class T5Bias(Bias):
    """The table's entry for the bucket of each distance."""

    table_NH: Float[Array, 'N H']
    max_distance: int = flax.struct.field(pytree_node=False)
    bidirectional: bool = flax.struct.field(pytree_node=False)

    def __call__(self, queries: Coordinates, keys: Coordinates) -> Float[Array, 'B H L S']:
        bucket_LS = t5_bucket(
            queries.distance(keys), self.table_NH.shape[0], self.max_distance, self.bidirectional
        )
        return jnp.take(self.table_NH.T, bucket_LS, axis=1)[None]


@flax.struct.dataclass
class KerpleBias(Bias):
    """`−a·log(1 + b·|distance|)`."""

    a_H: Float[Array, ' H']
    b_H: Float[Array, ' H']

    def __call__(self, queries: Coordinates, keys: Coordinates) -> Float[Array, 'B H L S']:
        distance = jnp.abs(queries.distance(keys))[None, None]
        a, b = self.a_H[None, :, None, None], self.b_H[None, :, None, None]
        return -a * jnp.log1p(b * distance)


@flax.struct.dataclass
class FireBias(Bias):
    """The MLP of FIRE, one ReLU layer of N units, at each query–key pair.

    The query's position is that in its document, so packed rows cost a bias each.
    """

    slope_N: Float[Array, ' N']
    bias_N: Float[Array, ' N']
    out_NH: Float[Array, 'N H']
    c: Float[Array, ' 1']
    threshold: Float[Array, ' 1']

    def __call__(self, queries: Coordinates, keys: Coordinates) -> Float[Array, 'B H L S']:
        distance = jnp.abs(queries.distance(keys)).astype(jnp.float32)
        longest = jnp.maximum(jnp.abs(self.threshold), queries.position.astype(jnp.float32))
        c = jnp.abs(self.c)
        # As in the paper's code, so that c = 0 does not divide by 0.
        whole = jnp.log1p(c * longest)[:, :, None] + 1e-6
        ratio = (jnp.log1p(c * distance)[None] / whole)[..., None]
        hidden = nn.relu(ratio * self.slope_N + self.bias_N)
        return jnp.einsum('BLSN,NH->BHLS', hidden, self.out_NH)


def alibi_slopes(num_heads: int) -> list[float]:
    """2^(−8i/n) for i = 1..n; other than powers of two interleave, as in the paper's code."""
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    finer = [2 ** (-4 * (i + 1) / power) for i in range(0, 2 * power, 2)]
    return slopes + finer[: num_heads - power]


def t5_bucket(
    distance: Int[Array, 'L S'], num_buckets: int, max_distance: int, bidirectional: bool
) -> Int[Array, 'L S']:
    """The bucket of each distance (query slot − key slot)."""
    offset = jnp.zeros_like(distance)
    if bidirectional:
        num_buckets //= 2
        offset = jnp.where(distance < 0, num_buckets, 0)
        distance = jnp.abs(distance)
    distance = jnp.maximum(distance, 0)
    exact = num_buckets // 2
    # Distances up to `exact` have a bucket each; max(…, 1) keeps the unused branch's log finite.
    ratio = jnp.log(jnp.maximum(distance, 1) / exact) / math.log(max_distance / exact)
    far = exact + (ratio * (num_buckets - exact)).astype(jnp.int32)
    far = jnp.minimum(far, num_buckets - 1)
    return offset + jnp.where(distance < exact, distance, far)
