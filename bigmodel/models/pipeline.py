"""Layers as stages through which microbatches pass (Huang et al. 2019, GPipe), as one program that
is mapped over stages (Xu et al. 2021, GSPMD, §3.3).

At each tick every stage runs its layers on the microbatch that it has, and hands it on. Stages that
have none yet, or no more, compute on what lies there; nothing of it is kept. The backward pass is
that of autodiff: the same ticks in reverse.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from bigmodel.layers.coordinates import Context
from bigmodel.sharding import ROWS
from bigmodel.stages import Stages, shifted

# (weights of one layer, (x, along), constants, number of the layer, and of the block of rows) ->
# ((x, along), what it sows).
Layer = Callable[[Any, Any, Any, Array, Array], tuple[Any, Any]]
Policy = Callable[..., Any] | None  # of jax.checkpoint, None: all is kept
_HANDED_ON = 'handed_on'


class _Turn(NamedTuple):
    """What a stage does at a tick: which pass of which microbatch, and whether there is one."""

    stage: Array
    repeat: Array
    microbatch: Array
    busy: Array


class _Carry(NamedTuple):
    """What ticks hand on: arrays of stages.

    `state` is what a stage works on: rows, and what travels with them. `inbox` are the microbatches
    of a group that are still to enter, `outbox` the rows of those that have left; at each tick one
    enters or leaves, and the others move up. `done` are the rows of whole groups.
    """

    state: Any
    inbox: Any
    outbox: Array
    done: Array


def pipelined(
    stages: Stages,
    layer: Layer,
    weights: Any,
    x: Float[Array, 'B L D'],
    along: Any,
    constants: Any,
    unroll: int,
    policy: Policy,
) -> tuple[Float[Array, 'B L D'], Any]:
    """`x` after `layer` with each of the stacked `weights` in turn, and the means over microbatches
    of what layers sow, stacked.

    Trees of arrays of as many rows: `along` travels with x from stage to stage, and layers may
    change it; `constants` are small and lie on all stages. `policy` is that of the checkpoint that
    each layer is.
    """
    plan = stages.plan
    around = plan.stages * plan.repeats
    weights = jax.tree.map(stages.weights, weights)
    queue = jax.tree.map(stages.queued, (x, along))
    constants = jax.tree.map(stages.everywhere, constants)
    stage = _stage(stages, layer, unroll)
    if plan.repeats > 1:
        # Else each tick would keep a copy of the weights of its pass.
        policy = _all_but(weights, policy)
        stage = jax.checkpoint(stage, prevent_cse=False, policy=policy)
    work = stages.map(stage)

    def tick(carry: _Carry, now: Int[Array, '']) -> tuple[_Carry, Any]:
        turn = _turn(stages, now)
        here = stages.own(jax.tree.map(lambda a: a[turn.microbatch], constants))
        entering = jnp.minimum(now // around, plan.groups - 1)
        inbox = _choose(now % around == 0, _group(queue, entering), carry.inbox)
        state = _choose((turn.stage == 0) & (turn.repeat == 0), inbox, carry.state)
        state, sown = work(weights, state, here, turn)
        outbox = _choose(turn.stage == plan.stages - 1, state[0], _moved(carry.outbox, -1))
        # Of a group the last is written when all have left.
        leaving = jnp.maximum(now - (plan.stages - 1), 0) // around
        done = jax.lax.dynamic_update_index_in_dim(carry.done, outbox, leaving, 2)
        next_ = _Carry(_moved(state, 1), _moved(inbox, -1), outbox, done)
        return stages.own(next_), sown

    # Real rows for all, so that what idle stages compute is finite, and so is its derivative.
    first = _group(queue, 0)
    start = _Carry(first, first, first[0], queue[0])
    end, sown = jax.lax.scan(tick, start, jnp.arange(plan.ticks))
    mean = jax.tree.map(lambda a: stages.in_order(jnp.sum(a, 0)) / plan.microbatches, sown)
    return stages.unqueued(end.done), mean


def _stage(stages: Stages, layer: Layer, unroll: int) -> Callable[..., tuple[Any, Any]]:
    """One stage's turn: its layers of one pass, and what they sow, at their place among all."""
    repeats = stages.plan.repeats

    def run(weights: Any, x: Any, constants: Any, turn: _Turn) -> tuple[Any, Any]:
        own = jax.tree.map(lambda w: w[turn.repeat] if repeats > 1 else w[0], weights)
        count = len(jax.tree.leaves(own)[0])
        before = (turn.repeat * stages.plan.stages + turn.stage) * count
        block = stages.block(turn.microbatch, jax.lax.axis_index(ROWS))

        def body(x: Any, each: tuple[Any, Array]) -> tuple[Any, Any]:
            x, sown = layer(each[0], x, constants, before + each[1], block)
            return jax.tree.map(lambda a: checkpoint_name(a, _HANDED_ON), x), sown

        x, sown = jax.lax.scan(body, x, (own, jnp.arange(count)), unroll=min(unroll, count))
        at_repeat = jnp.arange(repeats) == turn.repeat

        def put(a: Array) -> Array:
            counts = (at_repeat & turn.busy).reshape(-1, *[1] * a.ndim)
            return jnp.where(counts, a, 0)

        return x, jax.tree.map(put, sown)

    return run


def _all_but(weights: Any, policy: Policy) -> Callable[..., Any]:
    """The policy of a checkpoint of a stage: of layers what `policy` keeps and what they hand on,
    but nothing that is computed of weights alone.
    """
    shapes = set()
    for w in jax.tree.leaves(weights):
        stages, ways, repeats, layers, *own = w.shape
        for chosen in ((repeats, layers), (1, layers), (layers,), ()):
            shapes.add((*sorted([stages, ways, *chosen]), *own))

    def is_weight(shape: tuple[int, ...]) -> bool:
        # Loops have the dims of stages and layers in another order.
        return any((*sorted(shape[:n]), *shape[n:]) in shapes for n in (2, 3, 4))

    def keep(primitive: Any, *inputs: Any, **params: Any) -> Any:
        numbers = [x for x in inputs if jnp.issubdtype(x.dtype, jnp.floating) and x.ndim]
        if numbers and all(is_weight(x.shape) for x in numbers):
            return False
        if policy is None or params.get('name') == _HANDED_ON:
            return True
        return policy(primitive, *inputs, **params)  # which may say where to keep it

    return keep


def _turn(stages: Stages, now: Int[Array, '']) -> _Turn:
    plan = stages.plan
    stage = jnp.arange(plan.stages)
    turn = now - stage
    busy = (turn >= 0) & (turn < plan.turns)
    repeat, microbatch = plan.place(jnp.clip(turn, 0, plan.turns - 1))
    return stages.own(_Turn(stage, repeat, microbatch, busy))


def _group(queue: Any, group: Int[Array, ''] | int) -> Any:
    return jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, group, 2, False), queue)


def _moved(x: Any, by: int) -> Any:
    return jax.tree.map(lambda a: shifted(a, by), x)


def _choose(which: Array, x: Any, y: Any) -> Any:
    """By stage, or for all."""
    return jax.tree.map(lambda a, b: jnp.where(which.reshape(-1, *[1] * (a.ndim - 1)), a, b), x, y)


def by_rows(
    context: Context, rows: int
) -> tuple[list[Array], list[Array], Callable[[Any, Any], Context]]:
    """What a context has of each row: numbers, vectors, and how to make it with those of others."""
    leaves, tree = jax.tree.flatten((context.queries, context.keys, context.memory))

    def kind(a: Array) -> str:
        if a.ndim < 2 or len(a) != rows:
            return ''
        return 'vectors' if jnp.issubdtype(a.dtype, jnp.floating) else 'numbers'

    kinds = [kind(a) for a in leaves]
    of = {k: [a for a, own in zip(leaves, kinds, strict=True) if own == k] for k in kinds}

    def remade(numbers: list[Array], vectors: list[Array]) -> Context:
        left = {'': iter(of.get('', ())), 'numbers': iter(numbers), 'vectors': iter(vectors)}
        queries, keys, memory = jax.tree.unflatten(tree, [next(left[k]) for k in kinds])
        return context.replace(queries=queries, keys=keys, memory=memory)

    return of.get('numbers', []), of.get('vectors', []), remade
