"""Rotary position encodings: queries and keys turn by angles that grow with their position."""

import math
from collections.abc import Callable
from typing import Annotated, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bigmodel.layers.coordinates import Context
from bigmodel.layers.position import Position
from bigmodel.specs import NOT_NEGATIVE, POSITIVE, Range

FRACTION = Range(lambda x: 0 < x <= 1, 'in (0, 1]')


class Rope(Position):
    """Rotates pairs (x_i, x_{i+W/2}) by pos·theta^(−2i/W) (Su et al. 2021; this is GPT-NeoX's and
    Llama's layout of the pairs; `interleaved` is GPT-J's, (x_2i, x_{2i+1})).

    W is `fraction` of the head's features, the first ones; the others stay (GPT-NeoX, Phi).
    `scaling` stretches a model of `original_length` tokens (0: the model's max_length) by `factor`:

    - 'linear': all frequencies / factor (Chen et al. 2023, position interpolation);
    - 'ntk': theta·factor^(W/(W−2)), which keeps the highest frequency (bloc97 2023);
    - 'dynamic_ntk': 'ntk' with the factor that the row needs, factor·length/original − factor + 1
      beyond the original length (emozilla 2023); length is that of the keys, so a cache decodes
      like a row of its whole length;
    - 'llama3': frequency / factor below `low_frequency` turns in the original length, unchanged
      above `high_frequency`, linear between (Llama Team 2024);
    - 'yarn': the same between `beta_slow` and `beta_fast` turns, linear in the feature's number,
      and cos and sin times `attention_factor` (0: 0.1·ln(factor) + 1) (Peng et al. 2023).
    """

    theta: Annotated[float, POSITIVE] = 10000.0
    fraction: Annotated[float, FRACTION] = 1.0
    interleaved: bool = False
    scaling: Literal['none', 'linear', 'ntk', 'dynamic_ntk', 'llama3', 'yarn'] = 'none'
    factor: Annotated[float, POSITIVE] = 1.0
    original_length: Annotated[int, NOT_NEGATIVE] = 0
    low_frequency: Annotated[float, POSITIVE] = 1.0
    high_frequency: Annotated[float, POSITIVE] = 4.0
    beta_fast: Annotated[float, POSITIVE] = 32.0
    beta_slow: Annotated[float, POSITIVE] = 1.0
    attention_factor: Annotated[float, NOT_NEGATIVE] = 0.0
    max_length: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in sorted({name for names in TAKES.values() for name in names}):
            value = getattr(self, name)
            if value != getattr(type(self), name) and name not in TAKES[self.scaling]:
                users = ' or '.join(repr(s) for s, names in TAKES.items() if name in names)
                raise ValueError(f'{name}={value} needs scaling={users}, not {self.scaling!r}')
        if self.factor < 1:
            raise ValueError(f'factor={self.factor} must be at least 1')
        if self.scaling in ('dynamic_ntk', 'llama3', 'yarn') and not self._original:
            raise ValueError(f'scaling={self.scaling!r} needs original_length=')
        for low, high in (('low_frequency', 'high_frequency'), ('beta_slow', 'beta_fast')):
            if getattr(self, low) >= getattr(self, high):
                raise ValueError(f'{low}={getattr(self, low)} must be below {high}')

    def rotate(
        self,
        q_BLHK: Float[Array, 'B L H K'],
        k_BLGK: Float[Array, 'B L G K'],
        context: Context,
    ) -> tuple[Float[Array, 'B L H K'], Float[Array, 'B L G K']]:
        frequency, scale = self.frequencies(q_BLHK.shape[-1], context.keys.index.shape[0])
        angle = context.queries.position[:, :, None, None].astype(jnp.float32) * frequency
        rotate = turn_neighbours if self.interleaved else turn
        return rotate(q_BLHK, angle, scale), rotate(k_BLGK, angle, scale)

    def frequencies(self, head_dim: int, length: int) -> tuple[Float[np.ndarray, ' k'], float]:
        """The angle a position of each pair, and what multiplies cos and sin."""
        width = self._width(head_dim)
        frequency = powers(self.theta, width)
        scaled = SCALINGS[self.scaling](self, frequency, width, length)
        scale = 1.0
        if self.scaling == 'yarn':
            scale = self.attention_factor or 0.1 * math.log(self.factor) + 1
        return scaled.astype(np.float32), scale

    def refusal(self, head_dim: int) -> str:
        width = self._width(head_dim)
        what = 'head_dim' if self.fraction == 1 else f'fraction={self.fraction} of head_dim'
        if width % 2 or not width:
            return f'rotates pairs of features, but {what}={width} is odd or 0'
        if self.scaling in ('ntk', 'dynamic_ntk') and width == 2:
            return f'keeps one frequency of several with scaling={self.scaling!r}, but {what}=2'
        return ''

    @property
    def _original(self) -> int:
        return self.original_length or self.max_length

    def _width(self, head_dim: int) -> int:
        return int(head_dim * self.fraction)


class XPos(Position):
    """Rotates as RoPE does, and multiplies pair i of queries by ζ_i^(pos/scale_base) and of keys by
    ζ_i^(−pos/scale_base), ζ_i = (2i/K + γ)/(1 + γ), so that scores fade with distance: for causal
    masks (Sun et al. 2022).
    """

    theta: Annotated[float, POSITIVE] = 10000.0
    scale_base: Annotated[float, POSITIVE] = 512.0
    gamma: Annotated[float, POSITIVE] = 0.4
    for_causal = True

    def rotate(
        self,
        q_BLHK: Float[Array, 'B L H K'],
        k_BLGK: Float[Array, 'B L G K'],
        context: Context,
    ) -> tuple[Float[Array, 'B L H K'], Float[Array, 'B L G K']]:
        width, length = q_BLHK.shape[-1], context.keys.index.shape[0]
        zeta = (np.arange(0, width, 2) / width + self.gamma) / (1 + self.gamma)
        pos = context.queries.position[:, :, None, None].astype(jnp.float32)
        angle = pos * powers(self.theta, width).astype(np.float32)
        # From the middle of the row, as in the paper's code: half the range of the powers.
        power = (pos - length // 2) / self.scale_base * np.log(zeta).astype(np.float32)
        return turn(q_BLHK, angle, jnp.exp(power)), turn(k_BLGK, angle, jnp.exp(-power))

    def refusal(self, head_dim: int) -> str:
        return f'rotates pairs of features, but head_dim={head_dim} is odd' if head_dim % 2 else ''


class Rope2D(Position):
    """Rotates the first half of the head's features by the patch's row and the second by its
    column, each half as RoPE does, position = row·columns + column (Heo et al. 2024, "axial").
    """

    theta: Annotated[float, POSITIVE] = 100.0  # as there: an image has few rows
    columns: Annotated[int, POSITIVE] = 14  # of 16-pixel patches in an image of 224

    def rotate(
        self,
        q_BLHK: Float[Array, 'B L H K'],
        k_BLGK: Float[Array, 'B L G K'],
        context: Context,
    ) -> tuple[Float[Array, 'B L H K'], Float[Array, 'B L G K']]:
        half, pos = q_BLHK.shape[-1] // 2, context.queries.position[:, :, None, None]
        frequency = powers(self.theta, half).astype(np.float32)
        row, column = pos // self.columns * frequency, pos % self.columns * frequency

        def both(x_BLHK: Array) -> Array:
            turned = turn(x_BLHK[..., :half], row), turn(x_BLHK[..., half:], column)
            return jnp.concatenate(turned, -1)

        return both(q_BLHK), both(k_BLGK)

    def refusal(self, head_dim: int) -> str:
        if head_dim % 4:
            return f'needs a head_dim that 4 divides, for pairs in two halves, but it is {head_dim}'
        return ''


def powers(theta: float, width: int) -> Float[np.ndarray, ' k']:
    """theta^(−2i/width) for each pair i, in float64: the angles of far positions need it."""
    return theta ** (-np.arange(0, width, 2) / width)


def _none(rope: Rope, frequency: np.ndarray, width: int, length: int) -> np.ndarray:
    return frequency


def _linear(rope: Rope, frequency: np.ndarray, width: int, length: int) -> np.ndarray:
    return frequency / rope.factor


def _ntk(rope: Rope, frequency: np.ndarray, width: int, length: int) -> np.ndarray:
    return powers(rope.theta * rope.factor ** (width / (width - 2)), width)


def _dynamic_ntk(rope: Rope, frequency: np.ndarray, width: int, length: int) -> np.ndarray:
    beyond = max(length / rope._original, 1.0)
    factor = rope.factor * beyond - (rope.factor - 1)
    return powers(rope.theta * factor ** (width / (width - 2)), width)


def _llama3(rope: Rope, frequency: np.ndarray, width: int, length: int) -> np.ndarray:
    turns = rope._original * frequency / (2 * math.pi)
    keep = (turns - rope.low_frequency) / (rope.high_frequency - rope.low_frequency)
    return _blend(frequency, rope.factor, np.clip(keep, 0, 1))


def _yarn(rope: Rope, frequency: np.ndarray, width: int, length: int) -> np.ndarray:
    def pair(turns: float) -> float:
        """The (fractional) number of the pair that makes so many turns in the original length."""
        ratio = rope._original / (turns * 2 * math.pi)
        return width * math.log(ratio) / (2 * math.log(rope.theta))

    low = max(math.floor(pair(rope.beta_fast)), 0)
    high = min(math.ceil(pair(rope.beta_slow)), width - 1)
    # Two equal ends make a step; 0.001 as in the paper's code.
    ramp = (np.arange(width // 2) - low) / (high - low if high != low else 0.001)
    return _blend(frequency, rope.factor, 1 - np.clip(ramp, 0, 1))


def _blend(frequency: np.ndarray, factor: float, keep: np.ndarray) -> np.ndarray:
    """The share `keep` of each frequency as it is, the rest divided by `factor`."""
    return frequency * (keep + (1 - keep) / factor)


SCALINGS: dict[str, Callable[[Rope, np.ndarray, int, int], np.ndarray]] = {
    'none': _none,
    'linear': _linear,
    'ntk': _ntk,
    'dynamic_ntk': _dynamic_ntk,
    'llama3': _llama3,
    'yarn': _yarn,
}

# The arguments of Rope that each scaling reads.
TAKES: dict[str, tuple[str, ...]] = {
    'none': (),
    'linear': ('factor',),
    'ntk': ('factor',),
    'dynamic_ntk': ('factor', 'original_length'),
    'llama3': ('factor', 'original_length', 'low_frequency', 'high_frequency'),
    'yarn': ('factor', 'original_length', 'beta_fast', 'beta_slow', 'attention_factor'),
}


def turn(
    x_BLHK: Float[Array, 'B L H K'],
    angle: Float[Array, 'P L 1 k'],
    scale: float | Float[Array, 'P L 1 k'] = 1.0,
) -> Float[Array, 'B L H K']:
    """Rotates the pairs (x_i, x_{i+k}) of the first 2k features by `angle`, in float32, and
    multiplies them by `scale`.
    """
    k = angle.shape[-1]
    cos, sin = jnp.cos(angle) * scale, jnp.sin(angle) * scale
    a, b, rest = x_BLHK[..., :k], x_BLHK[..., k : 2 * k], x_BLHK[..., 2 * k :]
    turned = [a * cos - b * sin, b * cos + a * sin]
    return jnp.concatenate([t.astype(x_BLHK.dtype) for t in turned] + [rest], -1)


def turn_neighbours(
    x_BLHK: Float[Array, 'B L H K'],
    angle: Float[Array, 'P L 1 k'],
    scale: float | Float[Array, 'P L 1 k'] = 1.0,
) -> Float[Array, 'B L H K']:
    """`turn` of the pairs (x_2i, x_{2i+1})."""
    width = 2 * angle.shape[-1]
    halves = jnp.concatenate([x_BLHK[..., 0:width:2], x_BLHK[..., 1:width:2]], -1)
    turned = jnp.stack(jnp.split(turn(halves, angle, scale), 2, -1), -1)
    turned = turned.reshape(*x_BLHK.shape[:-1], width)
    return jnp.concatenate([turned, x_BLHK[..., width:]], -1)
