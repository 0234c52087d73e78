"""What the gradient of a step's loss keeps and computes, traced without compiling."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.extend import core

from bigmodel.data.pipeline import Data
from bigmodel.models.remat import is_host
from bigmodel.training.lowering import abstract_batch
from bigmodel.training.outline import Outline
from bigmodel.training.step import make_loss_fn


@dataclasses.dataclass(frozen=True)
class Product:
    """A matrix product of a trace, and how often it runs; `is_attention`: of queries and keys, or
    of weights and values, for each row and head.
    """

    flops: float | int
    num_bytes: float
    times: float | int
    is_attention: bool
    is_int8: bool


@dataclasses.dataclass(frozen=True)
class Traced:
    """Of one microbatch of a device: shapes that the backward pass reads, parameters left out, of
    which some wait on the host, and all matrix products.
    """

    kept: tuple[jax.ShapeDtypeStruct, ...]
    offloaded: tuple[jax.ShapeDtypeStruct, ...]
    products: tuple[Product, ...]


def trace(plan: Outline, data: Data | None = None) -> Traced:
    """Of an outline whose batch is what one device has of a microbatch, of `data` or text."""
    loss, params = make_loss_fn(plan.model, plan.task), plan.abstract.params

    def of(params: Any, batch: Any) -> jax.Array:
        return loss(params, batch, None)[0]

    batch = abstract_batch(plan, data)
    residuals = jax.make_jaxpr(lambda p, b: jax.tree.leaves(jax.vjp(lambda p: of(p, b), p)[1]))
    kept = residuals(params, batch).out_avals
    gradient = jax.make_jaxpr(jax.grad(of))(params, batch)
    given = {leaf.shape for leaf in jax.tree.leaves(params)}
    own = [x for x in kept if x.shape not in given]
    here, there = (
        tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in own if is_host(x) == host)
        for host in (False, True)
    )
    return Traced(here, there, tuple(_products(gradient.jaxpr, 1.0)))


def _products(jaxpr: Any, times: float | int) -> Iterator[Product]:
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ('dot_general', 'ragged_dot', 'ragged_dot_general'):
            is_int8 = eqn.invars[0].aval.dtype == np.int8
            yield Product(_flops(eqn), _bytes(eqn), times, _is_attention(eqn), is_int8)
        inner = times * (eqn.params['length'] if eqn.primitive.name == 'scan' else 1)
        for value in eqn.params.values():
            for sub in value if isinstance(value, (tuple, list)) else (value,):
                if isinstance(sub, core.ClosedJaxpr):
                    yield from _products(sub.jaxpr, inner)
                elif isinstance(sub, core.Jaxpr):
                    yield from _products(sub, inner)


def _flops(eqn: Any) -> float:
    left, right = (v.aval.shape for v in eqn.invars[:2])
    if eqn.primitive.name != 'dot_general':  # rows of groups: every row meets one matrix
        return 2.0 * math.prod(left) * right[-1]
    (contracted, _), _ = eqn.params['dimension_numbers']
    return 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)


def _bytes(eqn: Any) -> float:
    arrays = [v.aval for v in (*eqn.invars[:2], *eqn.outvars)]
    return float(sum(math.prod(a.shape) * a.dtype.itemsize for a in arrays))


def _is_attention(eqn: Any) -> bool:
    if eqn.primitive.name != 'dot_general':
        return False
    _, (batch, _) = eqn.params['dimension_numbers']
    return len(batch) > 1
