"""Attention on a TPU by the splash kernel of JAX, which skips blocks that a mask leaves out."""

import dataclasses
from functools import partial
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bigmodel.errors import UserError
from bigmodel.layers.coordinates import Context, Coordinates
from bigmodel.layers.kernel import Kernel, Request
from bigmodel.layers.masks import Flags, Mask, flags
from bigmodel.layers.reference import Reference
from bigmodel.layers.weights import PLAIN, Normalised, Weights
from bigmodel.sharding import by_shard
from bigmodel.specs import POSITIVE

_LANES = 128  # of a TPU's vector unit: blocks are multiples of it


@dataclasses.dataclass(frozen=True)
class Splash(Kernel):
    """Sparse flash attention on a TPU, in Pallas (Dao et al. 2022).

    Rows are padded to a multiple of 128 and cut into the largest blocks up to `block_size` that
    divide that. While decoding, a causal mask's few queries are the reference's: they are not the
    keys' own tokens, which is what the kernel takes a mask to mean. `interpret` computes on any
    device what the kernel would, slowly.
    """

    block_size: Annotated[int, POSITIVE] = 512
    interpret: bool = False

    decoder = 'reference'

    def refusal(self, request: Request) -> str:
        if request.platform != 'tpu' and not self.interpret:
            return f'it needs a TPU, this is {request.platform}'
        if self.block_size % _LANES:
            return f'block_size={self.block_size} is not a multiple of {_LANES}'
        if request.dropout:
            return f'it has no dropout of attention weights (asked: {request.dropout})'
        if request.bias or request.given_bias:
            return 'it takes no bias, and model.position adds one to the logits'
        if flags(request.mask) is None:
            return f'it knows causal, window and full masks, not {request.mask}'
        if not request.weights.normalised:
            return (
                f'it needs weights that are divided by their sum, but attention asks for '
                f'{request.weights.described}'
            )
        return ''

    def __call__(
        self,
        q_BLHK: Float[Array, 'B L H K'],
        k_BSGK: Float[Array, 'B S G K'],
        v_BSGK: Float[Array, 'B S G K'],
        mask: Mask,
        context: Context,
        dropout: float = 0.0,
        dropout_key: jax.Array | None = None,
        weights: Weights = PLAIN,
    ) -> Float[Array, 'B L H K']:
        named = flags(mask)
        if dropout and dropout_key is not None:
            raise UserError('model.kernel: splash has no dropout of attention weights')
        if not isinstance(weights, Normalised):
            raise UserError('model.kernel: splash has weights that are divided by their sum only')
        if context.bias is not None:
            raise UserError('model.kernel: splash takes no bias')
        if named is None:
            raise UserError(f'model.kernel: splash has causal, window and full masks, not {mask}')
        if named.causal and not context.aligned:
            return Reference()(q_BLHK, k_BSGK, v_BSGK, mask, context, weights=weights)
        B, L, _, K = q_BLHK.shape
        q_BHLK = _padded((q_BLHK * K**-0.5).swapaxes(1, 2), 2)
        k_BGSK, v_BGSK = (_padded(x.swapaxes(1, 2), 2) for x in (k_BSGK, v_BSGK))
        # Padding is a document of its own, which no query that counts may look at.
        segments = (_segments(x, B, named) for x in (context.queries, context.keys))
        run = by_shard(
            partial(_attend, self, named, weights.cap),
            [
                ('batch', 'heads', None, 'head_dim'),
                ('batch', 'kv_heads', None, 'head_dim'),
                ('batch', 'kv_heads', None, 'head_dim'),
                ('batch', None),
                ('batch', None),
                ('heads',),
            ],
            ('batch', 'heads', None, 'head_dim'),
        )
        sink_H = None if weights.sink_H is None else weights.sink_H.astype(jnp.float32)
        return run(q_BHLK, k_BGSK, v_BGSK, *segments, sink_H)[:, :, :L].swapaxes(1, 2)

    def block(self, length: int) -> int:
        """The largest block up to `block_size` that divides a padded length."""
        fit = range(_LANES, min(self.block_size, length) + 1, _LANES)
        return max(size for size in fit if length % size == 0)


def _padded(x: Array, axis: int, value: int = 0) -> Array:
    pad = [(0, 0)] * x.ndim
    pad[axis] = (0, -x.shape[axis] % _LANES)
    return jnp.pad(x, pad, constant_values=value)


def _segments(where: Coordinates, B: int, named: Flags) -> Int[Array, 'B L']:
    """The documents of the padded rows; without flags for documents all are one."""
    length = len(where.index)
    one = where.segment is None or not named.segments
    segment_BL = jnp.ones((B, length), jnp.int32) if one else where.segment
    return _padded(segment_BL.astype(jnp.int32), 1, -1)


def _attend(
    splash: Splash,
    named: Flags,
    cap: float,
    q_BHLK: Array,
    k_BGSK: Array,
    v_BGSK: Array,
    q_segment_BL: Array,
    k_segment_BS: Array,
    sink_H: Array | None,
) -> Float[Array, 'B H L K']:
    """The kernel on what one device has."""
    # 0.4 s to import, which runs without it need not wait for.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    H, L = q_BHLK.shape[1:3]
    S = k_BGSK.shape[2]
    q_block, k_block = splash.block(L), splash.block(S)
    if named.window is not None:
        mask = masks.LocalMask((L, S), (named.window - 1, 0), 0)
    else:
        mask = masks.CausalMask((L, S)) if named.causal else masks.FullMask((L, S))
    attend = kernels.make_splash_mha(
        masks.MultiHeadMask([mask] * H),
        block_sizes=kernels.BlockSizes(
            block_q=q_block,
            block_kv=k_block,
            block_q_dkv=q_block,
            block_kv_dkv=k_block,
            block_q_dq=q_block,
            block_kv_dq=k_block,
        ),
        attn_logits_soft_cap=cap or None,
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name='attention_out',
        interpret=splash.interpret,
    )

    def row(q: Array, k: Array, v: Array, q_segment: Array, k_segment: Array) -> Array:
        return attend(q, k, v, kernels.SegmentIds(q_segment, k_segment), sink_H)

    return jax.vmap(row)(q_BHLK, k_BGSK, v_BGSK, q_segment_BL, k_segment_BS)
