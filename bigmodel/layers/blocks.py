"""Residual topologies: how mixers and a feed-forward layer join the residual stream.

Every block takes `drop`, the rate of stochastic depth of its branches, the same for all layers
of the slot (a pattern can give each layer its own).
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated

from flax import linen as nn
from jaxtyping import Array, Float

from bigmodel.layers.coordinates import Context
from bigmodel.layers.dropout import StochasticDepth
from bigmodel.layers.names import named
from bigmodel.sharding import from_branch, into_branch
from bigmodel.specs import POSITIVE, SHARE

Branch = Callable[[Float[Array, 'B L D']], Float[Array, 'B L D']]


def _placed(branch: Branch, name: str, x_BLD: Float[Array, 'B L D']) -> Float[Array, 'B L D']:
    return named(name, from_branch(branch(into_branch(x_BLD))))


class Block(nn.Module):
    """Base of all blocks: the branches that a block joins to the residual stream.

    `mixers` are those before the FFN by name: 'mixer', and in a decoder that reads an encoder also
    'cross'.
    """

    mixers: Mapping[str, Callable[..., nn.Module]]
    ffn: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    drop: Annotated[float, SHARE] = 0.0

    def branches(self, context: Context) -> dict[str, Branch]:
        """The mixers in order, then the FFN, by name."""
        made = {name: make(name=name) for name, make in self.mixers.items()}
        mixing = {name: partial(mixer, context=context) for name, mixer in made.items()}
        found = mixing | {'ffn': self.ffn(name='ffn')}
        outs = {name: 'ffn_out' if name == 'ffn' else 'mixer_out' for name in found}
        return {name: partial(_placed, branch, outs[name]) for name, branch in found.items()}

    def __call__(self, x_BLD: Float[Array, 'B L D'], context: Context) -> Float[Array, 'B L D']:
        """The residual stream after this layer."""
        raise NotImplementedError


class PreNorm(Block):
    """x + scale·f(norm(x)) for each branch f in turn (Xiong et al. 2020; GPT-2, Llama).

    A constant `scale` other than 1 damps the branches (Szegedy et al. 2017, §3.3).
    """

    scale: Annotated[float, POSITIVE] = 1.0

    @nn.compact
    def __call__(self, x_BLD: Float[Array, 'B L D'], context: Context) -> Float[Array, 'B L D']:
        drop = StochasticDepth(self.drop)
        for name, branch in self.branches(context).items():
            h_BLD = branch(self.norm(name=f'{name}_norm')(x_BLD))
            x_BLD = x_BLD + drop(self.scale * h_BLD)
        return x_BLD


class PostNorm(Block):
    """norm(skip·x + f(x)) for each branch f in turn (Vaswani et al. 2017; BERT).

    A `skip` above 1 is DeepNorm's α (Wang et al. 2022): (2·depth)^¼ for a decoder.
    """

    skip: Annotated[float, POSITIVE] = 1.0

    @nn.compact
    def __call__(self, x_BLD: Float[Array, 'B L D'], context: Context) -> Float[Array, 'B L D']:
        drop = StochasticDepth(self.drop)
        for name, branch in self.branches(context).items():
            h_BLD = drop(branch(x_BLD))
            x_BLD = self.norm(name=f'{name}_norm')(self.skip * x_BLD + h_BLD)
        return x_BLD


class Sandwich(Block):
    """x + norm(f(norm(x))) for each branch f in turn (Ding et al. 2021, §3; Gemma 2)."""

    @nn.compact
    def __call__(self, x_BLD: Float[Array, 'B L D'], context: Context) -> Float[Array, 'B L D']:
        drop = StochasticDepth(self.drop)
        for name, branch in self.branches(context).items():
            h_BLD = branch(self.norm(name=f'{name}_norm')(x_BLD))
            x_BLD = x_BLD + drop(self.norm(name=f'{name}_out_norm')(h_BLD))
        return x_BLD


class Parallel(Block):
    """x + mixer(norm(x)) + FFN(norm(x)), one norm for all (GPT-J; Chowdhery et al. 2022, PaLM)."""

    @nn.compact
    def __call__(self, x_BLD: Float[Array, 'B L D'], context: Context) -> Float[Array, 'B L D']:
        h_BLD = self.norm(name='norm')(x_BLD)
        h_BLD = sum(branch(h_BLD) for branch in self.branches(context).values())
        return x_BLD + StochasticDepth(self.drop)(h_BLD)


class ReZero(Block):
    """x + α·f(x) with a learned α for each branch that starts at 0 (Bachlechner et al. 2020).

    The block has no norms: `model.norm` is that of the backbone's end alone.
    """

    @nn.compact
    def __call__(self, x_BLD: Float[Array, 'B L D'], context: Context) -> Float[Array, 'B L D']:
        drop = StochasticDepth(self.drop)
        zero = nn.with_logical_partitioning(nn.initializers.zeros, ())
        for name, branch in self.branches(context).items():
            alpha = self.param(f'{name}_alpha', zero, ())
            h_BLD = branch(x_BLD)
            x_BLD = x_BLD + drop(alpha.astype(h_BLD.dtype) * h_BLD)
        return x_BLD


BLOCKS = {
    'prenorm': PreNorm,
    'postnorm': PostNorm,
    'sandwich': Sandwich,
    'parallel': Parallel,
    'rezero': ReZero,
}
