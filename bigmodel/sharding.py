"""Logical axes to mesh axes: every weight and three activations name their axes, rules place them.

A mesh is written `'data=2,tensor=4'` (`-1` for all that is left). A rule preset maps each logical
axis to mesh axes. Misspelt logical axes, two logical axes of one array on the same mesh axis, mesh
axes that no rule uses and sizes that do not divide are errors here, because XLA's answer to each is
to replicate silently.
"""

import contextlib
import contextvars
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bigmodel.errors import UserError, unknown

MESH_AXES = ('data', 'fsdp', 'tensor')

# Weights: layers, embed (model width), heads, kv_heads, head_dim, mlp, experts, vocab, positions,
# labels, latent (what keys and values are made from), rank (of an adapter), blocks (of numbers that
# share a scale), taps (of a convolution), gates and state (of a recurrence), pixels (of a patch).
# Activations: batch, length, features (model width of an activation).
_REPLICATED = dict.fromkeys(
    [
        'layers',
        'embed',
        'heads',
        'kv_heads',
        'head_dim',
        'mlp',
        'experts',
        'vocab',
        'positions',
        'labels',
        'latent',
        'rank',
        'blocks',
        'taps',
        'gates',
        'state',
        'pixels',
        'length',
        'features',
    ]
)
_TENSOR = {'heads': 'tensor', 'kv_heads': 'tensor', 'mlp': 'tensor', 'vocab': 'tensor'}
RULES: dict[str, dict[str, tuple[str, ...] | str | None]] = {
    'dp': {**_REPLICATED, 'batch': 'data'},
    # ZeRO-3: weights and optimizer state are split over fsdp, and so is the batch.
    'fsdp': {**_REPLICATED, 'batch': ('data', 'fsdp'), 'embed': 'fsdp'},
    # Megatron: heads and hidden units are split, the batch is not.
    'tensor': {**_REPLICATED, **_TENSOR, 'batch': 'data'},
    'fsdp_tensor': {**_REPLICATED, **_TENSOR, 'batch': ('data', 'fsdp'), 'embed': 'fsdp'},
}


@dataclasses.dataclass(frozen=True)
class Sharding:
    """A device mesh with the rules that place arrays on it."""

    mesh: Mesh
    rules: Mapping[str, tuple[str, ...] | str | None]

    def spec(self, axes: Sequence[str | None], shape: Sequence[int], what: str) -> PartitionSpec:
        """The placement of an array whose dims have these logical `axes`; `what` names it."""
        placed, used = [], set()
        for axis, size in zip(axes, shape, strict=True):
            mesh_axes = self._mesh_axes(axis, what)
            clash = used & set(mesh_axes)
            if clash:
                raise UserError(f'{what}: axes {tuple(axes)} use mesh axis {clash.pop()!r} twice')
            used |= set(mesh_axes)
            ways = math.prod(self.mesh.shape[m] for m in mesh_axes)
            if size % ways:
                raise UserError(
                    f'{what}: dim {axis!r} of size {size} cannot be split {ways} ways over mesh '
                    f'axis {"×".join(mesh_axes)}; choose a size that {ways} divides, or another '
                    f'sharding.mesh'
                )
            placed.append(mesh_axes if len(mesh_axes) > 1 else mesh_axes[0] if mesh_axes else None)
        return PartitionSpec(*placed)

    def named(self, axes: Sequence[str | None], shape: Sequence[int], what: str) -> NamedSharding:
        """`spec` on this mesh."""
        return NamedSharding(self.mesh, self.spec(axes, shape, what))

    def replicated(self) -> NamedSharding:
        """A copy on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def of_params(self, boxed: Any) -> Any:
        """The sharding of every parameter of an abstract tree that carries its logical axes."""

        def place(path: Any, box: nn.LogicallyPartitioned) -> NamedSharding:
            what = jax.tree_util.keystr(path, simple=True, separator='/')
            return self.named(box.names, box.value.shape, what)

        return jax.tree_util.tree_map_with_path(place, boxed, is_leaf=is_box)

    def batch(self, shape: Sequence[int], what: str = 'batch') -> NamedSharding:
        """Batch arrays are split over their first dim."""
        return self.named(('batch', *[None] * (len(shape) - 1)), shape, what)

    @property
    def platform(self) -> str:
        """What the devices are: 'cpu', 'gpu' or 'tpu'."""
        return self.mesh.devices.flat[0].platform

    @property
    def batch_ways(self) -> int:
        """How many ways the batch is split."""
        return math.prod(self.mesh.shape[m] for m in self._mesh_axes('batch', 'batch'))

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Within this context `constrain` places activations on the mesh."""
        token = _active.set(self)
        try:
            with jax.set_mesh(self.mesh):
                yield
        finally:
            _active.reset(token)

    def _mesh_axes(self, axis: str | None, what: str) -> tuple[str, ...]:
        if axis is None:
            return ()
        if axis not in self.rules:
            raise unknown(f'logical axis of {what}', axis, self.rules)
        rule = self.rules[axis]
        names = (rule,) if isinstance(rule, str) else tuple(rule or ())
        return tuple(n for n in names if self.mesh.shape[n] > 1)


_active: contextvars.ContextVar[Sharding | None] = contextvars.ContextVar('sharding', default=None)


@contextlib.contextmanager
def inactive() -> Iterator[None]:
    """Within this context `constrain` does nothing."""
    token = _active.set(None)
    try:
        yield
    finally:
        _active.reset(token)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Constrains an activation to the active sharding's rules; without one it returns `x`."""
    sharding = _active.get()
    if sharding is None or sharding.mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, sharding.named(axes, x.shape, 'activation'))


def by_rows(f: Callable[..., jax.Array], whole: Any, *rows: jax.Array) -> jax.Array:
    """`f(whole, *rows)` on each device's own rows of a batch, with all of `whole`.

    For what XLA would gather the batch to do, a sort of its tokens for one. Without a mesh that
    splits the batch it is just `f`.
    """
    sharding = _active.get()
    axes = sharding._mesh_axes('batch', 'batch') if sharding else ()
    if not axes:
        return f(whole, *rows)
    specs = (PartitionSpec(), *[PartitionSpec(axes)] * len(rows))
    # Axes that split weights stay XLA's business.
    return jax.shard_map(f, in_specs=specs, out_specs=PartitionSpec(axes), axis_names=set(axes))(
        whole, *rows
    )


def by_shard(
    f: Callable[..., jax.Array],
    axes: Sequence[Sequence[str | None] | None],
    out_axes: Sequence[str | None],
) -> Callable[..., jax.Array]:
    """`f` on each device's own part of arrays whose dims have these logical axes (None: no array).

    For what XLA cannot split by itself, a hand-written kernel for one. The result is as large as
    the first array. Without an active sharding it is just `f`.
    """
    sharding = _active.get()
    if sharding is None or sharding.mesh.size == 1:
        return f

    def run(*arrays: jax.Array | None) -> jax.Array:
        specs = tuple(
            None if x is None else sharding.spec(dims, x.shape, 'activation')
            for dims, x in zip(axes, arrays, strict=True)
        )
        out = sharding.spec(out_axes, arrays[0].shape, 'activation')
        # Kernels do not say over which axes their results vary.
        return jax.shard_map(f, mesh=sharding.mesh, in_specs=specs, out_specs=out, check_vma=False)(
            *arrays
        )

    return run


def make_sharding(mesh: str, rules: str, devices: Sequence[Any] | None = None) -> Sharding:
    """Builds the mesh `'data=-1'` over `devices` (default: all) with a preset of `RULES`."""
    devices = list(devices if devices is not None else jax.devices())
    if rules not in RULES:
        raise unknown('sharding.rules', rules, RULES)
    sizes = _mesh_sizes(mesh, len(devices))
    count = math.prod(sizes.values())
    used = {m for r in RULES[rules].values() for m in ((r,) if isinstance(r, str) else r or ())}
    idle = [a for a, n in sizes.items() if n > 1 and a not in used]
    if idle:
        raise UserError(
            f'sharding.mesh={mesh!r}: rules {rules!r} place nothing on axis {idle[0]!r}; '
            f'they use: {", ".join(sorted(used))}'
        )
    grid = np.array(devices[:count]).reshape(tuple(sizes.values()))
    if count == len(jax.devices()) and devices == list(jax.devices()):
        shape, names = tuple(sizes.values()), tuple(sizes)
        made = jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(names))
    else:
        made = Mesh(grid, tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))
    return Sharding(made, RULES[rules])


def is_box(x: Any) -> bool:
    """Whether `x` is a parameter that carries its logical axes."""
    return isinstance(x, nn.LogicallyPartitioned)


def _mesh_sizes(text: str, available: int) -> dict[str, int]:
    sizes, given = dict.fromkeys(MESH_AXES, 1), set()
    for part in filter(None, text.replace(' ', '').split(',')):
        axis, _, size = part.partition('=')
        if axis not in sizes:
            raise unknown('mesh axis', axis, MESH_AXES)
        if size != '-1' and (not size.isdecimal() or int(size) == 0):
            raise UserError(f"sharding.mesh={text!r}: write 'data=2,tensor=4', or -1 for the rest")
        if axis in given:
            raise UserError(f'sharding.mesh={text!r} gives {axis!r} twice')
        given.add(axis)
        sizes[axis] = int(size)
    rest = [a for a, n in sizes.items() if n == -1]
    fixed = math.prod(n for n in sizes.values() if n > 0)
    if len(rest) > 1:
        raise UserError(f'sharding.mesh={text!r}: only one axis can be -1')
    if fixed > available or (rest and available % fixed):
        raise UserError(
            f'sharding.mesh={text!r} needs {fixed} devices or a divisor; there are {available}'
        )
    if rest:
        sizes[rest[0]] = available // fixed
    return sizes
