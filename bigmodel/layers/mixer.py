"""What a mixer is: the part of a block through which tokens see each other."""

from flax import linen as nn
from jaxtyping import Array, Float

from bigmodel.layers.coordinates import Context


class Mixer(nn.Module):
    """Base of all mixers.

    The fields that a mixer declares say what it takes: `mask`, `position`, `kernel`, `num_heads`.
    With a mutable 'cache' collection it also remembers what later tokens need, for decoding.
    """

    contextual = False  # whether it asks its position for a `contextual_bias`

    @property
    def kernel_dim(self) -> int:
        """The width of the heads that its kernel sees, of a mixer that has one."""
        return self.head_dim

    def carries(self) -> dict[str, tuple[int, ...]]:
        """What it writes to `Context.carried` for each token: name -> shape."""
        return {}

    def refusal(self) -> str:
        """Why its own fields cannot work together ('needs …, but …'), or ''."""
        return ''

    def __call__(self, x_BLD: Float[Array, 'B L D'], context: Context) -> Float[Array, 'B L D']:
        """What each token takes from the others (and itself)."""
        raise NotImplementedError
