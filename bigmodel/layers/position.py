"""What a position encoding is: four hooks, of which each encoding overrides what it needs.

`embed` is called once by the backbone, `rotate` by attention on queries and keys, `bias` once by
the backbone, whose result attention adds to the logits, and `contextual_bias` by attention, for a
bias that depends on what the tokens are.
"""

from flax import linen as nn
from jaxtyping import Array, Float, Int

from bigmodel.layers.coordinates import Bias, Context
from bigmodel.layers.masks import Mask


class Position(nn.Module):
    """No position encoding: what the model learns of order comes from the causal mask alone.

    For decoders see Kazemnejad et al. 2023 ("NoPE").
    """

    columns = 0  # in a row of patches, for encodings in two dimensions; 0: along a line
    for_causal = False  # whether it needs a mask that hides the future

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

    def contextual_bias(
        self,
        q_BLHK: Float[Array, 'B L H K'],
        k_BSGK: Float[Array, 'B S G K'],
        mask: Mask,
        context: Context,
    ) -> Bias | None:
        """The bias for these rotated queries and keys: by default what `bias` made, for all layers.

        Called by each attention layer; parameters that it makes are the layer's own.
        """
        return context.bias

    def refusal(self, head_dim: int) -> str:
        """Why heads of this width cannot use the encoding ('cannot …'), or ''."""
        return ''
