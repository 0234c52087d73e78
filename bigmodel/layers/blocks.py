"""Residual topologies: how a mixer and a feed-forward layer join the residual stream.

Every block takes `drop`, the rate of stochastic depth of its two branches, the same for all layers
of the slot (a pattern can give each layer its own).
"""

from collections.abc import Callable
from typing import Annotated

from flax import linen as nn
from jaxtyping import Array, Float

from bigmodel.layers.coordinates import Context
from bigmodel.layers.dropout import StochasticDepth
from bigmodel.specs import POSITIVE, SHARE


class Block(nn.Module):
    """Base of all blocks: the parts that a block joins."""

    mixer: Callable[..., nn.Module]
    ffn: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    drop: Annotated[float, SHARE] = 0.0

    def __call__(self, x_BLD: Float[Array, 'B L D'], context: Context) -> Float[Array, 'B L D']:
        """The residual stream after this layer."""
        raise NotImplementedError


class PreNorm(Block):
    """x + scale·f(norm(x)) for the mixer, then for the FFN (Xiong et al. 2020; GPT-2, Llama).

    A constant `scale` other than 1 damps the branches (Szegedy et al. 2017, §3.3).
    """

    scale: Annotated[float, POSITIVE] = 1.0

    @nn.compact
    def __call__(self, x_BLD: Float[Array, 'B L D'], context: Context) -> Float[Array, 'B L D']:
        drop = StochasticDepth(self.drop)
        h_BLD = self.norm(name='mixer_norm')(x_BLD)
        x_BLD = x_BLD + drop(self.scale * self.mixer(name='mixer')(h_BLD, context))
        h_BLD = self.norm(name='ffn_norm')(x_BLD)
        return x_BLD + drop(self.scale * self.ffn(name='ffn')(h_BLD))


class PostNorm(Block):
    """norm(skip·x + f(x)) for the mixer, then for the FFN (Vaswani et al. 2017; BERT).

    A `skip` above 1 is DeepNorm's α (Wang et al. 2022): (2·depth)^¼ for a decoder.
    """

    skip: Annotated[float, POSITIVE] = 1.0

    @nn.compact
    def __call__(self, x_BLD: Float[Array, 'B L D'], context: Context) -> Float[Array, 'B L D']:
        drop = StochasticDepth(self.drop)
        h_BLD = drop(self.mixer(name='mixer')(x_BLD, context))
        x_BLD = self.norm(name='mixer_norm')(self.skip * x_BLD + h_BLD)
        h_BLD = drop(self.ffn(name='ffn')(x_BLD))
        return self.norm(name='ffn_norm')(self.skip * x_BLD + h_BLD)


class Sandwich(Block):
    """x + norm(f(norm(x))) for the mixer, then for the FFN (Ding et al. 2021, §3; Gemma 2)."""

    @nn.compact
    def __call__(self, x_BLD: Float[Array, 'B L D'], context: Context) -> Float[Array, 'B L D']:
        drop = StochasticDepth(self.drop)
        h_BLD = self.mixer(name='mixer')(self.norm(name='mixer_norm')(x_BLD), context)
        x_BLD = x_BLD + drop(self.norm(name='mixer_out_norm')(h_BLD))
        h_BLD = self.ffn(name='ffn')(self.norm(name='ffn_norm')(x_BLD))
        return x_BLD + drop(self.norm(name='ffn_out_norm')(h_BLD))


class Parallel(Block):
    """x + mixer(norm(x)) + FFN(norm(x)), one norm for both (GPT-J; Chowdhery et al. 2022, PaLM)."""

    @nn.compact
    def __call__(self, x_BLD: Float[Array, 'B L D'], context: Context) -> Float[Array, 'B L D']:
        h_BLD = self.norm(name='norm')(x_BLD)
        h_BLD = self.mixer(name='mixer')(h_BLD, context) + self.ffn(name='ffn')(h_BLD)
        return x_BLD + StochasticDepth(self.drop)(h_BLD)


class ReZero(Block):
    """x + α·f(x) with a learned α for each branch that starts at 0 (Bachlechner et al. 2020).

    The block has no norms: `model.norm` is that of the backbone's end alone.
    """

    @nn.compact
    def __call__(self, x_BLD: Float[Array, 'B L D'], context: Context) -> Float[Array, 'B L D']:
        drop = StochasticDepth(self.drop)
        zero = nn.with_logical_partitioning(nn.initializers.zeros, ())
        mixer_alpha, ffn_alpha = (self.param(f'{b}_alpha', zero, ()) for b in ('mixer', 'ffn'))
        h_BLD = self.mixer(name='mixer')(x_BLD, context)
        x_BLD = x_BLD + drop(mixer_alpha.astype(h_BLD.dtype) * h_BLD)
        h_BLD = self.ffn(name='ffn')(x_BLD)
        return x_BLD + drop(ffn_alpha.astype(h_BLD.dtype) * h_BLD)


BLOCKS = {
    'prenorm': PreNorm,
    'postnorm': PostNorm,
    'sandwich': Sandwich,
    'parallel': Parallel,
    'rezero': ReZero,
}
