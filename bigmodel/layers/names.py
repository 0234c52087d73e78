"""Names of what a layer computes, by which a policy of `model.remat` says what is kept."""

from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Shaped

# What bears the name; kernels and branches that are nothing of the kind have none of it.
NAMES = {
    'block_input': 'the residual stream that a block reads',
    'queries': 'of attention, normed and rotated, as the kernel takes them',
    'keys': 'of attention, normed and rotated',
    'values': 'of attention',
    'attention_out': "a kernel's output, and the sums over keys that its backward pass reads",
    'mixer_out': 'what a mixer (or cross-attention) adds to the residual stream',
    'ffn_in': 'the products that make hidden units, before the activation',
    'ffn_hidden': 'hidden units, as the last product of a feed-forward layer takes them',
    'ffn_out': 'what a feed-forward layer adds to the residual stream',
}


def named(name: str, x: Shaped[Array, '...']) -> Shaped[Array, '...']:
    """`x`, called `name` in the eyes of a policy; that and nothing else."""
    assert name in NAMES, name
    return checkpoint_name(x, name)
