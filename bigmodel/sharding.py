"""Logical axes to mesh axes: every weight and three activations name their axes, rules place them.

Meshes are those of `meshes.py`, rules those of `rules.py`. Misspelt logical axes, two logical axes
of one array on the same mesh axis, mesh axes that no rule uses and sizes that do not divide are
errors here, because XLA's answer to each is to replicate silently.
"""

import contextlib
import contextvars
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bigmodel.errors import UserError, unknown
from bigmodel.meshes import make_mesh
from bigmodel.pipelines import GPIPE, PIPELINES, Circular, GPipe, Plan, plan_of
from bigmodel.rules import LENGTHS, MESH_AXES, Rules, rules_of
from bigmodel.specs import make

# Of the axis of a map over mesh axes that split rows (stages.py).
ROWS = 'rows'


@dataclasses.dataclass(frozen=True)
class Sharding:
    """A device mesh with the rules that place arrays on it.

    `mapped` are axes over which the active code is mapped, each device of one seeing its own part.
    """

    mesh: Mesh
    rules: Rules
    pipeline: GPipe | Circular = GPIPE
    mapped: tuple[str, ...] = ()

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
                    f'axis {"×".join(mesh_axes)}; {_sizes_that_work(size, ways)}'
                )
            placed.append(mesh_axes if len(mesh_axes) > 1 else mesh_axes[0] if mesh_axes else None)
        return PartitionSpec(*placed)

    def named(self, axes: Sequence[str | None], shape: Sequence[int], what: str) -> NamedSharding:
        """`spec` on this mesh."""
        return NamedSharding(self.mesh, self.spec(axes, shape, what))

    def replicated(self) -> NamedSharding:
        """A copy on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def of_params(self, boxed: Any, kind: str = '') -> Any:
        """The sharding of every parameter of an abstract tree that carries its logical axes.

        With `kind` that of its 'gradients', or of the 'moments' that an optimizer keeps.
        """

        def place(path: Any, box: nn.LogicallyPartitioned) -> NamedSharding:
            what = jax.tree_util.keystr(path, simple=True, separator='/')
            own = [f'{kind}/{axis}' for axis in box.names]
            axes = [o if o in self.rules else a for o, a in zip(own, box.names, strict=True)]
            return self.named(axes, box.value.shape, what)

        return jax.tree_util.tree_map_with_path(place, boxed, is_leaf=is_box)

    def batch(self, shape: Sequence[int], what: str = 'batch') -> NamedSharding:
        """Batch arrays are split over their first dim."""
        return self.named(('batch', *[None] * (len(shape) - 1)), shape, what)

    @property
    def platform(self) -> str:
        """What the devices are: 'cpu', 'gpu' or 'tpu'."""
        return self.mesh.devices.flat[0].platform

    @property
    def splits_rows(self) -> bool:
        """Whether attention finds no whole row on any device."""
        return self.ways('inner_length') > 1

    @property
    def batch_ways(self) -> int:
        """How many ways the batch is split."""
        return self.ways('batch')

    def ways(self, axis: str) -> int:
        """How many ways a logical axis is split."""
        return math.prod(self.mesh.shape[m] for m in self._mesh_axes(axis, axis))

    def plan(self, rows: int, layers: int) -> Plan:
        """How so many rows go through stages that split so many stacked layers."""
        stages = self.ways('layers')
        return plan_of(self.pipeline, stages, self.batch_ways // stages, rows, layers)

    def mesh_axes(self, axis: str | None) -> tuple[str, ...]:
        """The mesh axes of more than one device over which a logical axis is split."""
        return self._mesh_axes(axis, str(axis))

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Within this context `constrain` places activations on the mesh."""
        with under(self), jax.set_mesh(self.mesh):
            yield

    def _mesh_axes(self, axis: str | None, what: str) -> tuple[str, ...]:
        if axis is None:
            return ()
        if axis not in self.rules:
            raise unknown(f'logical axis of {what}', axis, self.rules)
        rule = self.rules[axis]
        names = (rule,) if isinstance(rule, str) else tuple(rule or ())
        return tuple(n for n in names if self.mesh.shape[n] > 1)


def _sizes_that_work(size: int, ways: int) -> str:
    """For a dim of `size` that was to be split `ways` ways."""
    below, above = size // ways * ways, -(-size // ways) * ways
    near = f'{below} or {above}' if below else f'{above}'
    fewer = [str(n) for n in range(2, ways) if size % n == 0 and ways % n == 0][-3:]
    mesh = f'splits it {" or ".join(fewer)} ways' if fewer else 'does not split it'
    return f'choose a size that {ways} divides ({near}), or a sharding.mesh that {mesh}'


_active: contextvars.ContextVar[Sharding | None] = contextvars.ContextVar('sharding', default=None)


@contextlib.contextmanager
def under(sharding: Sharding | None) -> Iterator[None]:
    """Within this context `constrain` places activations as `sharding` says, None: not at all."""
    token = _active.set(sharding)
    try:
        yield
    finally:
        _active.reset(token)


def inactive() -> contextlib.AbstractContextManager[None]:
    """Within this context `constrain` does nothing."""
    return under(None)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Constrains an activation to the active sharding's rules; without one it returns `x`."""
    sharding = _active.get()
    if sharding is None or sharding.mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, sharding.named(axes, x.shape, 'activation'))


def into_branch(x_BLD: jax.Array) -> jax.Array:
    """What a branch of a block reads: whole rows, where rules split only what lies between."""
    return constrain(x_BLD, 'batch', 'inner_length', 'features') if _gathers() else x_BLD


def from_branch(x_BLD: jax.Array) -> jax.Array:
    """What a branch of a block adds, split as what lies between branches."""
    # First as it is inside: of a product whose rows are split over the axis that splits its terms,
    # XLA would split neither.
    return constrain(into_branch(x_BLD), 'batch', 'length', 'features') if _gathers() else x_BLD


def _gathers() -> bool:
    sharding = _active.get()
    return sharding is not None and sharding.rules['length'] != sharding.rules['inner_length']


def whole_rows() -> contextlib.AbstractContextManager[None]:
    """Within this context no activation is split by length, and all devices run all layers:
    decoding has one token at a time.
    """
    return _without(*LENGTHS, 'layers')


def all_layers() -> contextlib.AbstractContextManager[None]:
    """Within this context all devices run all layers, on rows of their own."""
    return _without('layers')


def _without(*axes: str) -> contextlib.AbstractContextManager[None]:
    sharding = _active.get()
    if sharding is not None:
        rules = dict(sharding.rules) | dict.fromkeys(axes)
        sharding = dataclasses.replace(sharding, rules=rules)
    return under(sharding)


def active() -> Sharding | None:
    """The sharding whose context this is, if any."""
    return _active.get()


def by_rows(
    f: Callable[..., Any],
    whole: Any,
    *rows: jax.Array,
    split: Sequence[str] = ('batch',),
    parts: Sequence[str] = (),
) -> Any:
    """`f(whole, *rows)` on each device's own rows of a batch, with all of `whole`.

    For what XLA would gather the batch to do, a sort of its tokens for one. `split` are the logical
    axes of the leading dims of `rows` and of what `f` returns, and `parts` those of `whole` of
    which a device is given only its own part, where rows are split over the same mesh axes. Without
    a mesh that splits the rows it is just `f`.
    """
    sharding = _active.get()
    placed = [sharding._mesh_axes(axis, 'activation') if sharding else () for axis in split]
    axes = {name for names in placed for name in names}
    mapped = sharding.mapped if sharding else ()
    if not axes and not mapped:
        return f(whole, *rows)
    of_rows = PartitionSpec(*(names or None for names in placed))
    own = [tuple(a for a in sharding._mesh_axes(part, 'weight') if a in axes) for part in parts]
    specs = (PartitionSpec(*(names or None for names in own)), *[of_rows] * len(rows))
    of_parts = {name for names in own for name in names}
    shared = tuple(a for a in MESH_AXES if a in axes - of_parts)

    def here(whole: Any, *rows: jax.Array) -> Any:
        # At once, for gradients to be summed over devices at once, however often f uses `whole`;
        # and said aloud, as a backward pass that is written out sums over no devices by itself.
        said = shared and not mapped
        varying = lambda x: jax.lax.pcast(x, shared, to='varying') if said else x  # noqa: E731
        return f(jax.tree.map(varying, whole), *rows)

    return jax.shard_map(
        here,
        in_specs=specs,
        out_specs=of_rows,
        # Axes that split weights stay XLA's business.
        axis_names=axes.union(mapped),
        # JAX cannot tell which arrays vary over an axis over which code is mapped.
        check_vma=not mapped,
    )(whole, *rows)


def mean_over_rows(mean: jax.Array) -> jax.Array:
    """A mean over the rows that the code sees, as one over those of all devices."""
    sharding = _active.get()
    return jax.lax.pmean(mean, ROWS) if sharding and sharding.mapped else mean


def exchange(x: jax.Array, axis: str, split: int, join: int) -> jax.Array:
    """Within `by_rows`: each device cuts dim `split` into as many parts as devices share `axis`,
    keeps one, sends the others, and joins what it is sent along dim `join` (an all-to-all).
    """
    sharding = _active.get()
    names = sharding._mesh_axes(axis, 'activation') if sharding else ()
    return jax.lax.all_to_all(x, names, split, join, tiled=True) if names else x


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


def make_sharding(
    mesh: str, rules: str, devices: Sequence[Any] | None = None, pipeline: str = 'gpipe'
) -> Sharding:
    """Builds the mesh `'data=-1'` over `devices` (default: all) with presets of `rules.py`, and of
    `pipelines.py` the schedule of axis pipeline.
    """
    placed, schedule = rules_of(rules), make(PIPELINES, pipeline, 'sharding.pipeline')
    made = make_mesh(mesh, list(devices if devices is not None else jax.devices()))
    used = {m for r in placed.values() for m in ((r,) if isinstance(r, str) else r or ())}
    idle = [a for a, n in made.shape.items() if n > 1 and a not in used]
    if idle:
        raise UserError(
            f'sharding.mesh={mesh!r}: rules {rules!r} place nothing on axis {idle[0]!r}; '
            f'they use: {", ".join(a for a in MESH_AXES if a in used)}'
        )
    if made.shape['pipeline'] == 1 and (placed['layers'] or schedule != GPIPE):
        key = f'rules={rules!r}' if placed['layers'] else f'pipeline={pipeline!r}'
        raise UserError(
            f'sharding.{key} is of stages, but sharding.mesh={mesh!r} has no axis pipeline of 2 or '
            f"more; write 'pipeline=2,…', or leave it out"
        )
    return Sharding(made, placed, schedule)


def is_box(x: Any) -> bool:
    """Whether `x` is a parameter that carries its logical axes."""
    return isinstance(x, nn.LogicallyPartitioned)
