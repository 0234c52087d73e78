"""A config for a number of parameters: the shape of a preset, stretched."""

import dataclasses
import math

from bigmodel.models.presets import PRESETS

# Decoders of one kind, from which others differ in size alone.
LADDER = ('tiny', 'mini', 'small', 'llama-1b', 'llama-7b')
MOST_LAYERS = 200
VOCAB_MULTIPLE = 64  # what a vocabulary is rounded up to (models/build.py)


@dataclasses.dataclass(frozen=True)
class Shape:
    """A decoder with the parts of the preset `size`."""

    size: str
    depth: int
    width: int
    num_heads: int
    num_kv_heads: int
    hidden: int
    vocab_size: int

    @property
    def layers(self) -> int:
        """Parameters of all layers: attention, a gated FFN and two norms each; the last norm."""
        head_dim = self.width // self.num_heads
        attention = 2 * self.width * head_dim * (self.num_heads + self.num_kv_heads)
        layer = attention + 3 * self.width * self.hidden + 2 * self.width
        return self.depth * layer + self.width

    @property
    def embeddings(self) -> int:
        """Parameters of the table of tokens."""
        return self.width * math.ceil(self.vocab_size / VOCAB_MULTIPLE) * VOCAB_MULTIPLE

    @property
    def params(self) -> int:
        """All parameters; a head that is not tied is as large as the table."""
        tied = PRESETS[self.size]['head'] == 'lm(tied=True)'
        return self.layers + self.embeddings * (1 if tied else 2)

    def count(self, counts: str) -> int:
        """All parameters, or those that are no embeddings."""
        return self.params if counts == 'all' else self.params - self.embeddings

    @property
    def flags(self) -> str:
        """The shape as a command line has it."""
        changes = {
            'size': self.size,
            'depth': self.depth,
            'width': self.width,
            'num_heads': self.num_heads,
            'num_kv_heads': self.num_kv_heads,
            'ffn': f"'gated(hidden={self.hidden})'",
        }
        return ' '.join(f'--config.model.{key}={value}' for key, value in changes.items())


def preset(size: str, vocab_size: int) -> Shape:
    """A row of the ladder as it is."""
    row = PRESETS[size]
    heads = row['num_heads']
    hidden = _hidden(row['ffn'], row['width'])
    kv_heads = row.get('num_kv_heads', heads)
    return Shape(size, row['depth'], row['width'], heads, kv_heads, hidden, vocab_size)


def nearest(params: float | int, vocab_size: int, counts: str = 'all') -> Shape:
    """The shape with nearly so many parameters; its width and depth keep the ratio of the preset
    that is nearest in size.
    """
    ladder = [preset(size, vocab_size) for size in LADDER]
    base = min(ladder, key=lambda shape: _apart(shape.count(counts), params))
    ratio = base.width / base.depth
    shapes = [_of_depth(base, depth, params, counts) for depth in range(1, MOST_LAYERS + 1)]
    close = [shape for shape in shapes if _apart(shape.width / shape.depth, ratio) < math.log(1.5)]
    return min(close or shapes, key=lambda shape: _apart(shape.count(counts), params))


def _of_depth(base: Shape, depth: int, params: float | int, counts: str) -> Shape:
    """The width that comes nearest at this depth, in whole groups of heads."""
    low, high = 1, 4096
    while low < high:
        middle = (low + high) // 2
        enough = _stretched(base, depth, middle).count(counts) >= params
        low, high = (low, middle) if enough else (middle + 1, high)
    tried = [_stretched(base, depth, groups) for groups in (max(low - 1, 1), low)]
    return min(tried, key=lambda shape: _apart(shape.count(counts), params))


def _stretched(base: Shape, depth: int, groups: int) -> Shape:
    """`groups` heads of keys, as many queries to each, and hidden units as the base has them."""
    heads = groups * (base.num_heads // base.num_kv_heads)
    width = heads * (base.width // base.num_heads)
    hidden = 64 * max(1, round(base.hidden / base.width * width / 64))
    return Shape(base.size, depth, width, heads, groups, hidden, base.vocab_size)


def _hidden(ffn: str, width: int) -> int:
    """Of 'gated(hidden=8192)'; of 'gated' 8/3·width rounded up to a multiple of 64."""
    digits = ''.join(c for c in ffn if c.isdigit())
    return int(digits) if digits else -(-8 * width // (3 * 64)) * 64


def _apart(a: float | int, b: float | int) -> float:
    return abs(math.log(a / b))
