"""Exact attention of rows that are split over devices, in whose ring keys and values go round."""

import dataclasses
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bigmodel.errors import UserError
from bigmodel.layers.blockwise import Blockwise
from bigmodel.layers.coordinates import Context, Coordinates
from bigmodel.layers.kernel import Kernel, Request
from bigmodel.layers.masks import Mask
from bigmodel.layers.names import named
from bigmodel.layers.ring_plan import Plan, gather, scatter, slots
from bigmodel.layers.running import Running, fold, gradients, gradients_before
from bigmodel.layers.weights import PLAIN, Normalised, Weights
from bigmodel.rings import on_ring, ring
from bigmodel.specs import POSITIVE

# Logical axes: of q, k, v and the output; of halves of them, heads first; of what is for all.
_WHOLE = ('batch', 'inner_length', None, None)
_HALVES = (None, 'batch', None, 'inner_length', None)


@dataclasses.dataclass(frozen=True)
class Ring(Kernel):
    """Each device holds the queries of its part of the rows; keys and values go round all devices
    of the mesh axis `context` (Liu et al. 2023), the backward pass with their gradients.

    Within a device it is `blockwise`, so memory falls with the number of devices. Blocks that a
    causal mask, a window or documents hide are skipped; for causal masks each device has an early
    and a late part of the row, so that all have as much to do (Brandon et al. 2023 interleave for
    that end). Where rows are whole, and while decoding, it is `blockwise`.
    """

    block_size: Annotated[int, POSITIVE] = 512

    def refusal(self, request: Request) -> str:
        return Blockwise(self.block_size).refusal(request)

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
        devices = ring()
        dropped = bool(dropout) and dropout_key is not None
        if devices is None or not context.aligned or dropped or not isinstance(weights, Normalised):
            rest = (mask, context, dropout, dropout_key, weights)
            return Blockwise(self.block_size)(q_BLHK, k_BSGK, v_BSGK, *rest)
        B, L, H, K = q_BLHK.shape
        G = k_BSGK.shape[2]
        if L % (2 * devices.ways):
            raise UserError(
                f'model.kernel=ring: rows of {L} tokens do not divide into 2 × {devices.ways} '
                f'parts, two for each device of axis {devices.axis!r}; change data.seq_len or '
                f'sharding.mesh'
            )
        leaves, structure = jax.tree.flatten((context.bias, weights, context.queries))
        differ = [jnp.issubdtype(x.dtype, jnp.inexact) for x in leaves]
        learned = [x if d else None for x, d in zip(leaves, differ, strict=True)]
        fixed = [None if d else x for x, d in zip(leaves, differ, strict=True)]
        half = L // (2 * devices.ways)
        size = max(n for n in range(1, min(self.block_size, half) + 1) if half % n == 0)
        plan = Plan(devices, mask, G, H // G, half, size, structure, _batched(fixed, B))
        return _attend(plan, q_BLHK * K**-0.5, k_BSGK, v_BSGK, learned, fixed)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(plan: Plan, q: Array, k: Array, v: Array, learned: list, fixed: list) -> Array:
    return _forward(plan, q, k, v, learned, fixed)[0]


def _forward(
    plan: Plan, q: Array, k: Array, v: Array, learned: list, fixed: list
) -> tuple[Array, tuple]:
    run = on_ring(
        partial(_forward_here, plan),
        [_WHOLE, _WHOLE, _WHOLE, *plan.axes()],
        [_WHOLE, *[_HALVES] * 6],
        plan.devices,
    )
    o, *mine, halves, highest, total = run(q, k, v, learned, fixed)
    o, halves, highest, total = (named('attention_out', x) for x in (o, halves, highest, total))
    return o, (*mine, halves, highest, total, learned, fixed)


def _backward(plan: Plan, saved: tuple, do: Array) -> tuple:
    run = on_ring(
        partial(_backward_here, plan),
        [*[_HALVES] * 6, *plan.axes(), _WHOLE],
        [_WHOLE, _WHOLE, _WHOLE, ()],
        plan.devices,
    )
    return *run(*saved, do), None


_attend.defvjp(_forward, _backward)


def _forward_here(
    plan: Plan, q: Array, k: Array, v: Array, learned: list, fixed: list
) -> list[Array]:
    """The forward pass of one device, from its part of the rows to its part of the output."""
    q, k, v = (scatter(plan, x) for x in (q, k, v))
    _, weights, where = plan.parts(learned, fixed)
    me = jax.lax.axis_index(plan.devices.axis)
    queries = plan.queries(where, me)

    def see(all_running: list[Running], block: tuple) -> tuple[list[Running], None]:
        k, v, first = block
        keys = slots(where, first, plan.size)

        def half(running: Running, q: Array, here: Coordinates) -> Running:
            allowed = plan.mask(here, keys)

            def look(running: Running) -> Running:
                term = plan.added(allowed, here, keys, learned, fixed)
                return fold(running, _score(weights, q, k) + term, v)

            return _where_seen(plan, allowed, look, lambda x: x, running)

        return [half(*each) for each in zip(all_running, q, queries, strict=True)], None

    def turn(carry: tuple, step: Array) -> tuple[tuple, None]:
        all_running, k, v = carry
        blocks = plan.blocks(k, v, (me - step) % plan.devices.ways)
        all_running, _ = jax.lax.scan(see, all_running, blocks)
        return (all_running, *plan.onwards((k, v))), None

    shape = (*q.shape[1:4], 1)
    start = tuple(jnp.broadcast_to(x, shape) for x in plan.before(learned, fixed))
    start = (*start, jnp.zeros(q.shape[1:], jnp.float32))
    (all_running, k, v), _ = jax.lax.scan(
        turn, ([start, start], k, v), jnp.arange(plan.devices.ways)
    )
    highest, total, o = (jnp.stack(xs) for xs in zip(*all_running, strict=True))
    o = (o / total).astype(v.dtype)
    return [gather(plan, o, plan.R), q, k, v, o, highest, total]


def _backward_here(
    plan: Plan,
    q: Array,
    k: Array,
    v: Array,
    o: Array,
    highest: Array,
    total: Array,
    learned: list,
    fixed: list,
    do: Array,
) -> list[Array | list]:
    """The backward pass of one device; gradients of keys and values go round with them."""
    do = scatter(plan, do)
    shift = jnp.sum(do.astype(jnp.float32) * o.astype(jnp.float32), -1, keepdims=True)
    _, weights, where = plan.parts(learned, fixed)
    me = jax.lax.axis_index(plan.devices.axis)
    queries = plan.queries(where, me)
    rows = [tuple(x[i] for x in (q, do, shift, highest, total)) for i in range(2)]

    def see(carry: tuple, block: tuple) -> tuple[tuple, tuple]:
        (k, v, first), (dqs, d_learned) = block, carry
        keys = slots(where, first, plan.size)
        dk, dv = (jnp.zeros(x.shape, jnp.float32) for x in (k, v))
        new = []
        for (q, *after), here, dq in zip(rows, queries, dqs, strict=True):
            allowed = plan.mask(here, keys)

            def look(
                sums: tuple, q: Array, after: list, here: Coordinates, allowed: Array
            ) -> tuple:
                found = gradients(
                    partial(_score, weights),
                    lambda x: plan.added(allowed, here, keys, x, fixed),
                    learned,
                    (q, k, v),
                    tuple(after),
                )
                return jax.tree.map(jnp.add, sums, found)

            look = partial(look, q=q, after=after, here=here, allowed=allowed)
            sums = (dq, dk, dv, d_learned)
            dq, dk, dv, d_learned = _where_seen(plan, allowed, look, lambda x: x, sums)
            new.append(dq)
        return (new, d_learned), (dk, dv)

    def turn(carry: tuple, step: Array) -> tuple[tuple, None]:
        sums, k, v, dk, dv = carry
        blocks = plan.blocks(k, v, (me - step) % plan.devices.ways)
        sums, more = jax.lax.scan(see, sums, blocks)
        dk, dv = (x + plan.joined(y) for x, y in zip((dk, dv), more, strict=True))
        return (sums, *plan.onwards((k, v, dk, dv))), None

    zeros = [jnp.zeros(x.shape, jnp.float32) for x in (q[0], q[0], k, v)]
    start = (zeros[:2], jax.tree.map(jnp.zeros_like, learned))
    carry, _ = jax.lax.scan(turn, (start, k, v, *zeros[2:]), jnp.arange(plan.devices.ways))
    (dqs, d_learned), _, _, dk, dv = carry
    for i in range(2):
        more = gradients_before(
            partial(plan.before, fixed=fixed), learned, shift[i], highest[i], total[i]
        )
        d_learned = jax.tree.map(jnp.add, d_learned, more)
    d_learned = jax.lax.psum(d_learned, plan.devices.axes)
    dq = gather(plan, jnp.stack(dqs).astype(q.dtype), plan.R)
    return [dq, *(gather(plan, x.astype(k.dtype), 1) for x in (dk, dv)), d_learned]


def _where_seen(plan: Plan, allowed: Array, look: Any, skip: Any, sums: Any) -> Any:
    """`look(sums)`, or `sums` when the mask hides all of the block.

    Only of causal masks, in which every query sees at least itself: what the reference gives for a
    query without keys needs all of them.
    """
    if not plan.causal:
        return look(sums)
    return jax.lax.cond(jnp.any(allowed), look, skip, sums)


def _score(weights: Weights, q_BGMK: Array, k_BGSK: Array) -> Float[Array, 'B G M S']:
    return weights.score(jnp.einsum('BGMK,BGSK->BGMS', q_BGMK, k_BGSK).astype(jnp.float32))


def _batched(fixed: list, rows: int) -> tuple[bool, ...]:
    return tuple(x is not None and x.ndim == 2 and len(x) == rows > 1 for x in fixed)
