"""Residual topologies: how a mixer and a feed-forward layer join the residual stream."""

from collections.abc import Callable

from flax import linen as nn
from jaxtyping import Array, Float

from bigmodel.layers.coordinates import Context


class PreNorm(nn.Module):
    """x + f(norm(x)) for the mixer, then for the FFN (Xiong et al. 2020; GPT-2, Llama)."""

    mixer: Callable[..., nn.Module]
    ffn: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x_BLD: Float[Array, 'B L D'], context: Context) -> Float[Array, 'B L D']:
        h_BLD = self.norm(name='mixer_norm')(x_BLD)
        x_BLD = x_BLD + self.mixer(name='mixer')(h_BLD, context)
        h_BLD = self.norm(name='ffn_norm')(x_BLD)
        return x_BLD + self.ffn(name='ffn')(h_BLD)


class PostNorm(nn.Module):
    """norm(x + f(x)) for the mixer, then for the FFN (Vaswani et al. 2017; BERT)."""

    mixer: Callable[..., nn.Module]
    ffn: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x_BLD: Float[Array, 'B L D'], context: Context) -> Float[Array, 'B L D']:
        x_BLD = self.norm(name='mixer_norm')(x_BLD + self.mixer(name='mixer')(x_BLD, context))
        return self.norm(name='ffn_norm')(x_BLD + self.ffn(name='ffn')(x_BLD))


BLOCKS = {'prenorm': PreNorm, 'postnorm': PostNorm}
