"""Position encodings: three hooks, of which each encoding overrides what it needs.

`embed` is called once by the backbone, `rotate` by attention on queries and keys, `bias` once by
the backbone, whose result attention adds to the logits. To add an encoding, write one class here
and one line in `POSITIONS`.
"""

import math
from typing import Annotated

import flax.struct
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from bigmodel.layers.coordinates import Bias, Context, Coordinates
from bigmodel.layers.initializers import Init, fan_in
from bigmodel.layers.linear import Embed
from bigmodel.specs import POSITIVE


class Position(nn.Module):
    """No position encoding: what the model learns of order comes from the causal mask alone.

    For decoders see Kazemnejad et al. 2023 ("NoPE").
    """

    def embed(self, x_BLD: Float[Array, 'B L D'], pos: Int[Array, 'P L']) -> Float[Array, 'B L D']:
        """Adds to the embedded tokens at positions `pos` (P is B or 1)."""
        return x_BLD

    def rotate(
        self,
        q_BLHK: Float[Array, 'B L H K'],
        k_BLGK: Float[Array, 'B L G K'],
        context: Context,
    ) -> tuple[Float[Array, 'B L H K'], Float[Array, 'B L G K']]:
        """Transforms the queries and keys of the tokens `context.queries`."""
        return q_BLHK, k_BLGK

    def bias(self, num_heads: int) -> Bias | None:
        """What is added to the attention logits, or None."""
        return None

    def refusal(self, head_dim: int) -> str:
        """Why heads of this width cannot use the encoding ('cannot …'), or ''."""
        return ''


class Sinusoidal(Position):
    """PE(pos, 2i) = sin(pos / base^(2i/D)), PE(pos, 2i+1) = cos(same), added to the embeddings.

    Vaswani et al. 2017, §3.5.
    """

    base: Annotated[float, POSITIVE] = 10000.0

    def embed(self, x_BLD: Float[Array, 'B L D'], pos: Int[Array, 'P L']) -> Float[Array, 'B L D']:
        return x_BLD + sinusoids(pos, x_BLD.shape[-1], self.base).astype(x_BLD.dtype)


class Learned(Position):
    """One learned vector for each of `max_length` positions (Devlin et al. 2018, GPT-2)."""

    max_length: int
    init: Init = fan_in

    @nn.compact
    def embed(self, x_BLD: Float[Array, 'B L D'], pos: Int[Array, 'P L']) -> Float[Array, 'B L D']:
        width = x_BLD.shape[-1]
        table = Embed(self.max_length, width, ('positions', 'embed'), self.init, name='embed')
        return x_BLD + table(pos).astype(x_BLD.dtype)


class Rope(Position):
    """Rotates pairs (x_i, x_{i+K/2}) by pos·theta^(−2i/K) (Su et al. 2021; this is GPT-NeoX's and
    Llama's layout of the pairs).
    """

    theta: Annotated[float, POSITIVE] = 10000.0

    def rotate(
        self,
        q_BLHK: Float[Array, 'B L H K'],
        k_BLGK: Float[Array, 'B L G K'],
        context: Context,
    ) -> tuple[Float[Array, 'B L H K'], Float[Array, 'B L G K']]:
        half = q_BLHK.shape[-1] // 2
        frequency = self.theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
        angle = context.queries.position[:, :, None, None].astype(jnp.float32) * frequency
        return turn(q_BLHK, angle), turn(k_BLGK, angle)

    def refusal(self, head_dim: int) -> str:
        return f'rotates pairs of features, but head_dim={head_dim} is odd' if head_dim % 2 else ''


class Alibi(Position):
    """Adds −slope·distance to the logits, one fixed slope a head (Press et al. 2021)."""

    def bias(self, num_heads: int) -> Bias:
        return AlibiBias(jnp.asarray(alibi_slopes(num_heads), jnp.float32))


class T5(Position):
    """Adds a learned scalar for each head and bucket of distance (Raffel et al. 2019, §2.1).

    Half of the buckets are exact distances, the rest grow logarithmically to `max_distance`; the
    table is shared by all layers, as in the paper.
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
        return T5Bias(table.table_VD, self.max_distance, self.bidirectional)


POSITIONS = {
    'none': Position,
    'sinusoidal': Sinusoidal,
    'learned': Learned,
    'rope': Rope,
    'alibi': Alibi,
    't5': T5,
}


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


def turn(
    x_BLHK: Float[Array, 'B L H K'], angle: Float[Array, 'P L 1 k']
) -> Float[Array, 'B L H K']:
    """Rotates the pairs (x_i, x_{i+K/2}) by `angle` (k = K/2), in float32."""
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    a, b = jnp.split(x_BLHK, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x_BLHK.dtype)


def sinusoids(pos: Int[Array, 'P L'], width: int, base: float) -> Float[Array, 'P L D']:
    """The table of Vaswani et al. 2017: sines in even features, cosines in odd ones."""
    frequency = base ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    angle = pos[..., None].astype(jnp.float32) * frequency
    pairs = jnp.stack([jnp.sin(angle), jnp.cos(angle)], -1)
    return pairs.reshape(*pos.shape, -1)[..., :width]


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
