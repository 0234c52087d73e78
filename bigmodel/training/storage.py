"""How parameters and the optimizer's state are kept between updates: in which numbers, and where.

An update itself is computed in float32. What is kept in bfloat16, of 8 significant bits, is rounded
afterwards: to the nearest number, which loses every change of less than about 1/500 of a parameter,
or at random to one of the two neighbours, so that the mean of many roundings is exact.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, BFloat16, Float32

from bigmodel import params as params_lib
from bigmodel.config import ConfigDict
from bigmodel.errors import UserError, unknown
from bigmodel.models.remat import HOST, offloads

DTYPES = ('float32', 'bfloat16')
ROUNDING = 0x52  # makes keys of rounding differ from those of dropout

Rounding = Callable[[jax.Array, Float32[Array, '...']], BFloat16[Array, '...']]


def stochastic(key: jax.Array, x: Float32[Array, '...']) -> BFloat16[Array, '...']:
    """One of the two neighbours, the nearer the likelier: x is the mean (Gupta et al. 2015, §3)."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    # bfloat16 is the upper half of float32: a carry from the lower half rounds away from 0.
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    upper = ((bits + noise) >> 16).astype(jnp.uint16)
    rounded = jax.lax.bitcast_convert_type(upper, jnp.bfloat16)
    return jnp.where(jnp.isfinite(x), rounded, x.astype(jnp.bfloat16))


def nearest(key: jax.Array, x: Float32[Array, '...']) -> BFloat16[Array, '...']:
    """The nearest number, and of two the even one."""
    return x.astype(jnp.bfloat16)


ROUNDINGS: dict[str, Rounding] = {'stochastic': stochastic, 'nearest': nearest}


@dataclasses.dataclass(frozen=True)
class Storage:
    """What `optimizer.state_dtype`, `rounding`, `master` and `offload` say.

    With `master` the state holds the exact parameters, of which bfloat16 ones are a copy.
    """

    state_dtype: str = 'float32'
    rounding: str = 'stochastic'
    master: bool = False
    offload: bool = False

    def first(self, part: Any, init: Callable[[Any], Any]) -> Any:
        """The state before the first update of `part`; `init` makes the direction's own."""
        exact = jax.tree.map(_exact, part)
        own = jax.tree.map(lambda x: x.astype(self._dtype(x)), init(exact))
        return {'master': _of(part, exact), 'direction': own} if self.master else own

    def read(self, part: Any, state: Any) -> tuple[Any, Any]:
        """Parameters and the direction's state in float32."""
        own = state['direction'] if self.master else state
        exact = params_lib.flatten(state['master']) if self.master else {}

        def of(path: Any, x: jax.Array) -> jax.Array:
            return exact.get(params_lib.path_of(path), _exact(x))

        return jax.tree_util.tree_map_with_path(of, part), jax.tree.map(_exact, own)

    def write(self, key: jax.Array, part: Any, exact: Any, own: Any) -> tuple[Any, Any]:
        """New parameters with the dtypes of `part`, and the new state, from what `read` gives."""
        keys = iter(jax.random.split(jax.random.fold_in(key, ROUNDING), 2))
        how = nearest if self.master else ROUNDINGS[self.rounding]
        params = _rounded(how, next(keys), exact, jax.tree.map(lambda x: x.dtype, part))
        dtypes = jax.tree.map(self._dtype, own)
        own = _rounded(ROUNDINGS[self.rounding], next(keys), own, dtypes)
        return params, {'master': _of(part, exact), 'direction': own} if self.master else own

    def _dtype(self, x: jax.Array) -> Any:
        return jnp.dtype(self.state_dtype) if is_moment(x) else x.dtype

    def fetch(self, state: Any) -> Any:
        """The state on the device."""
        return self._moved(state, jax.memory.Space.Device)

    def stow(self, state: Any) -> Any:
        """The state where it waits for the next update."""
        return self._moved(state, jax.memory.Space.Host)

    def _moved(self, tree: Any, space: jax.memory.Space) -> Any:
        return jax.tree.map(lambda x: jax.device_put(x, space) if self.on_host(x) else x, tree)

    def on_host(self, x: Any) -> bool:
        """Whether a leaf of the state waits on the host."""
        return self.offload and is_moment(x)

    def placed(self, places: Any, state: Any) -> Any:
        """Shardings of a state's leaves, with the memory that those that wait on the host have."""

        def place(sharding: jax.NamedSharding, x: Any) -> jax.NamedSharding:
            # Devices that are only imagined have no memories to choose from.
            real = isinstance(sharding.mesh.devices.flat[0], jax.Device)
            return sharding.with_memory_kind(HOST) if real and self.on_host(x) else sharding

        return jax.tree.map(place, places, state)


PLAIN = Storage()


def is_moment(x: Any) -> bool:
    """Whether a leaf of an optimizer's state has numbers for those of a parameter."""
    return x.ndim > 0 and jnp.issubdtype(x.dtype, jnp.floating)


def storage_of(config: ConfigDict) -> Storage:
    """The storage that a run config asks for; raises UserError for what is none."""
    c = config.optimizer
    if c.state_dtype not in DTYPES:
        raise unknown('optimizer.state_dtype', c.state_dtype, DTYPES)
    if c.rounding not in ROUNDINGS:
        raise unknown('optimizer.rounding', c.rounding, ROUNDINGS)
    if c.master and config.model.param_dtype == 'float32':
        raise UserError(
            'optimizer.master=True keeps exact copies of parameters of fewer bits; set '
            'model.param_dtype=bfloat16, or leave it out'
        )
    return Storage(c.state_dtype, c.rounding, c.master, c.offload)


def check_host_memory(config: ConfigDict, device: Any) -> None:
    """Raises UserError where the config keeps something on the host and `device` reads none of it.

    A device that is only imagined is taken to. On a CPU that memory is the device's own.
    """
    remat = offloads(config.model.remat)
    asked = {'optimizer.offload': config.optimizer.offload, 'model.remat=offload': remat}
    keys = [key for key, is_asked in asked.items() if is_asked]
    if keys and isinstance(device, jax.Device):
        kinds = [memory.kind for memory in device.addressable_memories()]
        if HOST not in kinds:
            raise UserError(
                f'{keys[0]}: {device.device_kind} with this JAX cannot read the memory of its host '
                f'({HOST}; it has {", ".join(kinds)}): leave it out'
            )


def _exact(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x


def _of(part: Any, exact: Any) -> Any:
    """The exact values of those that `part` has in fewer bits."""
    fewer = jax.tree.map(lambda x, e: e if x.dtype != e.dtype else None, part, exact)
    return params_lib.prune(fewer)


def _rounded(how: Rounding, key: jax.Array, tree: Any, dtypes: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    kinds = jax.tree.leaves(dtypes)
    return structure.unflatten(
        how(jax.random.fold_in(key, i), x) if kind == jnp.bfloat16 else x.astype(kind)
        for i, (x, kind) in enumerate(zip(leaves, kinds, strict=True))
    )
