"""What a mixer is: the part of a block through which tokens see each other."""

from collections.abc import Sequence

from flax import linen as nn
from jaxtyping import Array, Float

from bigmodel.layers.coordinates import Context
from bigmodel.layers.dropout import Dropout
from bigmodel.layers.linear import Linear


class Mixer(nn.Module):
    """Base of all mixers.

    The fields that a mixer declares say what it takes: `mask`, `position`, `kernel`, `num_heads`.
    All have `init`, `dtype`, `output_dropout`. With a mutable 'cache' collection a mixer remembers
    what later tokens need, for decoding.
    """

    contextual = False  # whether it asks its position for a `contextual_bias`
    pair_products = 0  # products of H·K features over all query–key pairs: a kernel has two

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

    def project_out(
        self,
        y: Float[Array, 'B L *f'],
        width: int,
        axes: Sequence[str] = ('heads', 'head_dim'),
        bias: bool = False,
    ) -> Float[Array, 'B L D']:
        """The projection back to the residual stream, which ends the branch."""
        rest = (bias, 'residual', self.init, self.dtype)
        y_BLD = Linear((width,), tuple(axes), ('embed',), *rest, name='out')(y)
        return Dropout(self.output_dropout)(y_BLD)

    def __call__(self, x_BLD: Float[Array, 'B L D'], context: Context) -> Float[Array, 'B L D']:
        """What each token takes from the others (and itself)."""
        raise NotImplementedError
