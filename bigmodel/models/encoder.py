"""The encoder of an encoder–decoder: it reads a source once, for the decoder's cross-attention."""

from collections.abc import Callable

import flax.struct
from flax import linen as nn
from jaxtyping import Array, Int

from bigmodel.errors import UserError
from bigmodel.layers.cache import keep
from bigmodel.layers.coordinates import Memory
from bigmodel.layers.inputs import Inputs
from bigmodel.models.backbone import Backbone


@flax.struct.dataclass
class Source:
    """What an encoder reads: inputs of S tokens in each of the decoder's rows.

    The decoder's queries see the source of their own segment.
    """

    inputs: Array
    positions: Int[Array, 'B S'] | None = None
    segments: Int[Array, 'B S'] | None = None


class Encoder(nn.Module):
    """A backbone over the source (Vaswani et al. 2017, §3.1); run once while decoding."""

    make_backbone: Callable[..., Backbone]
    unroll: int = 0  # 0: the backbone's own

    @nn.compact
    def __call__(self, inputs: Inputs, source: Source | None) -> Memory:
        return keep(self, 'memory', lambda: self._read(inputs, source))

    @nn.nowrap
    def example(self, inputs: Array) -> Source:
        """A source of these inputs."""
        return Source(inputs)

    def _read(self, inputs: Inputs, source: Source | None) -> Memory:
        if source is None:
            raise UserError('this model has an encoder: it needs a source')
        own = {'unroll': self.unroll} if self.unroll else {}
        x_BSD, positions = inputs(source.inputs, source.positions)
        backbone = self.make_backbone(**own, name='backbone')
        context = backbone.context(x_BSD.shape[:2], positions, source.segments)
        return Memory(backbone(x_BSD, context), context.keys)


class NoEncoder(nn.Module):
    """A decoder, or an encoder, alone."""

    unroll: int = 0

    def __call__(self, inputs: Inputs, source: Source | None) -> None:
        if source is not None:
            raise UserError('this model has no encoder for a source: set model.encoder_depth')

    @nn.nowrap
    def example(self, inputs: Array) -> None:
        """None: there is no source."""
