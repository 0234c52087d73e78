"""Checkpoints through orbax: asynchronous, atomic, restored onto any mesh.

The one module that touches orbax, whose v1 interface is still marked experimental. It is imported
at the first save or restore, to keep it out of the time to the first step.
"""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from bigmodel import params as params_lib
from bigmodel.errors import UserError
from bigmodel.models import quantised
from bigmodel.params import Rules
from bigmodel.training.base import Base, base_of_run
from bigmodel.training.progress import best_step


class Checkpoints:
    """The numbered checkpoints of a run directory."""

    def __init__(self, folder: pathlib.Path, keep: int = 2, keep_every: int = 0) -> None:
        self._best = Only()
        self.folder, self._keep, self._keep_every = folder.resolve(), keep, keep_every
        self._opened: Any = None

    def latest(self) -> int | None:
        """The newest finished step, or None; unfinished saves are not counted."""
        steps = [int(p.name) for p in self.folder.glob('*') if p.is_dir() and p.name.isdigit()]
        return max(steps, default=None)

    def save(self, step: int, state: Any, best: int = 0) -> None:
        """Starts writing `state`; waits for an earlier save that is still under way.

        The checkpoint of the step `best` is kept too (0: none).
        """
        self.wait()
        self._best.step = best
        self._orbax().save_async(step, state, force=True)

    def restore(self, step: int, abstract: Any) -> Any:
        """The state of `step`, placed as `abstract` says (shapes, dtypes and shardings).

        Parameters that are not in it are those of the run's base.
        """
        found, base = self.shapes(step), base_of_run(self.folder.parent, check=True)
        wanted, left_out = params_lib.flatten(abstract), {f'params/{p}' for p in base.parameters}
        own = {p: x for p, x in wanted.items() if p not in left_out}
        own |= {p: _rows_of(wanted[p], found[p]) for p in left_out & found.keys()}
        _check_shapes(found, own, f'{self.folder}/{step}')
        with _readable(f'{self.folder}/{step}'):
            loaded = self._orbax().load(step, _pruned(abstract, own))
        below = {p: wanted[f'params/{p}'] for p in base.parameters}
        params = {f'params/{p}': x for p, x in _read_base(base, below).items()}
        for path, x in params_lib.flatten(loaded).items():
            params[path] = _on_top(params.get(path), x)
        return _filled(abstract, params)

    def restore_params(self, step: int, abstract: Any, rules: Rules) -> Any:
        """Parameters that `rules` mark True, from `step`; the others are None. Where the run kept
        an average of them (`optimizer.ema`), it is that.

        `abstract` is this model's parameters. Raises UserError when one that is asked for is not
        in the checkpoint or has another shape there.
        """
        kept = self.check_params(step, abstract, rules)
        return _filled(kept, self.read(step, params_lib.flatten(kept)))

    def check_params(self, step: int, abstract: Any, rules: Rules) -> Any:
        """The parameters that `restore_params` will read (the others None); the same errors."""
        wanted = params_lib.assign(rules, abstract, 'init_from.restore')
        kept = jax.tree.map(lambda keep, x: x if keep else None, wanted, abstract)
        if not jax.tree.leaves(kept):
            raise UserError('init_from.restore restores nothing; let one regex be True')
        found = self.param_shapes(step)
        wanted = {_place(path, x, found): x for path, x in params_lib.flatten(kept).items()}
        wanted = quantised.to_read(wanted, found)
        _check_shapes(found, wanted, f'{self.folder}/{step}', exact=False)
        return kept

    def read(self, step: int, wanted: Mapping[str, Any]) -> dict[str, jax.Array]:
        """The parameters of these paths: averages where there are some, else those of the step,
        else those of the run's base. Of stacked layers each may have the upper ones alone. Weights
        that are wanted quantised and are floats there are quantised here.
        """
        found = self.param_shapes(step)
        places = {path: _place(path, x, found) for path, x in wanted.items()}
        there = {place: wanted[path] for path, place in places.items()}
        read = self._read(step, quantised.to_read(there, found))
        read = quantised.as_wanted(read, there)
        return {path: read[place] for path, place in places.items() if place in read}

    def _read(self, step: int, wanted: Mapping[str, Any]) -> dict[str, jax.Array]:
        found, missing, own = self.shapes(step), dict(wanted), {}
        for prefix in ('params/', 'opt_state/average/')[::-1]:
            here = {p: _rows_of(x, found.get(prefix + p)) for p, x in missing.items()}
            here = {p: x for p, x in here.items() if prefix + p in found}
            own |= {prefix + p: x for p, x in here.items()}
            missing = {p: x for p, x in missing.items() if p not in here or here[p] is not x}
        values = {}
        if missing:
            values = _read_base(base_of_run(self.folder.parent, check=True), missing)
        loaded = _load(self.folder / str(step), own)
        for prefix in ('params/', 'opt_state/average/'):
            for path, x in loaded.items():
                if path.startswith(prefix):
                    name = path.removeprefix(prefix)
                    values[name] = _on_top(values.get(name), x)
        return values

    def shapes(self, step: int) -> dict[str, tuple[int, ...]]:
        """The shape of everything in `step`, by path: parameters are under 'params'."""
        return {path: leaf.shape for path, leaf in self._leaves(step).items()}

    def param_shapes(self, step: int) -> dict[str, tuple[int, ...]]:
        """The shape of every parameter of the model of `step`, those of the run's base too."""
        return {path: leaf.shape for path, leaf in self.param_leaves(step).items()}

    def param_leaves(self, step: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Every parameter of the model of `step`, those of the run's base as it has them."""
        own = {
            path.removeprefix('params/'): leaf
            for path, leaf in self._leaves(step).items()
            if path.startswith('params/')
        }
        base = base_of_run(self.folder.parent)
        if not base.parameters:
            return own
        run, at = find_run(base.checkpoint, str(self.folder.parent))
        theirs = Checkpoints(run / 'checkpoints').param_leaves(at)
        for path in base.parameters:
            place = quantised.place_in(theirs, path)
            own |= {place: theirs[place]} if place in theirs else {path: theirs[_alone(path)]}
        return own

    def wait(self) -> None:
        """Returns when nothing is being written any more."""
        if self._opened is not None:
            self._opened.wait()

    def close(self) -> None:
        """Waits and releases."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _leaves(self, step: int) -> dict[str, jax.ShapeDtypeStruct]:
        with _readable(f'{self.folder}/{step}'):
            tree = self._orbax().metadata(step).metadata
        flat = params_lib.flatten(tree)
        return {path: jax.ShapeDtypeStruct(x.shape, x.dtype) for path, x in flat.items()}

    def _orbax(self) -> Any:
        if self._opened is None:
            from orbax.checkpoint import v1 as ocp

            policies = ocp.training.preservation_policies
            keep = [policies.LatestN(self._keep), self._best]
            if self._keep_every:
                keep.append(policies.EveryNSteps(self._keep_every))
            self.folder.mkdir(parents=True, exist_ok=True)
            self._opened = ocp.training.Checkpointer(
                self.folder,
                preservation_policy=policies.AnyPreservationPolicy(keep),
                cleanup_tmp_directories=True,
            )
        return self._opened


class Only:
    """Preserves the checkpoint of one step, which may change."""

    step = 0

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Asked by orbax before it deletes."""
        return [there.step == self.step for there in checkpoints]


def find_run(path: str, what: str) -> tuple[pathlib.Path, int]:
    """A run directory and its newest step, or the step of `run/checkpoints/STEP`, where 'best' is
    the step that `checkpoint.best` chose.
    """
    folder = pathlib.Path(path)
    if folder.parent.name == 'checkpoints' and folder.name == 'best':
        folder = folder.with_name(str(best_step(folder.parent.parent, what)))
    if folder.parent.name == 'checkpoints' and folder.name.isdigit():
        run, step = folder.parent.parent, int(folder.name)
        found = step if folder.is_dir() else None
    else:
        run, found = folder, Checkpoints(folder / 'checkpoints').latest()
    if found is None:
        raise UserError(f'{what}: there is no checkpoint in {path!r}; give a run directory')
    return run, found


@contextlib.contextmanager
def _readable(where: str) -> Iterator[None]:
    """Turns whatever a damaged checkpoint raises into one line."""
    try:
        yield
    except Exception as e:
        why = f'{type(e).__name__}: {str(e).splitlines()[0][:200]}'
        raise UserError(f'checkpoint {where} cannot be read ({why})') from e


def _load(folder: pathlib.Path, wanted: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Some of what a checkpoint holds, by path."""
    from orbax.checkpoint import v1 as ocp

    if not wanted:
        return {}
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with _readable(str(folder)), context:
        tree = ocp.load(folder, params_lib.nest(wanted), checkpointable_name='state')
    return params_lib.flatten(tree)


def _read_base(base: Base, wanted: Mapping[str, Any]) -> dict[str, jax.Array]:
    if not base.parameters:
        return {}
    run, step = find_run(base.checkpoint, 'base')
    checkpoints = Checkpoints(run / 'checkpoints')
    try:
        return checkpoints.read(step, wanted)
    finally:
        checkpoints.close()


def _place(path: str, leaf: Any, found: Mapping[str, tuple[int, ...]]) -> str:
    """Where a checkpoint has a parameter: that of one head of two may be of a run's only head."""
    alone = _alone(path)
    return alone if path not in found and found.get(alone) == tuple(leaf.shape) else path


def _alone(path: str) -> str:
    """Of a parameter of one head of two, what it is called where there is no other."""
    parts = path.split('/')
    return '/'.join([parts[0], *parts[2:]]) if parts[0] == 'head' else path


def _rows_of(leaf: Any, shape: tuple[int, ...] | None) -> Any:
    """`leaf`, or of a stack that the checkpoint has the last rows of, those."""
    if shape is None or shape == leaf.shape or shape[1:] != leaf.shape[1:]:
        return leaf
    return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=leaf.sharding)


def _on_top(below: jax.Array | None, x: jax.Array) -> jax.Array:
    """`x`, or where it is the last rows of a stack `below` with those."""
    if below is None or below.shape == x.shape:
        return x
    return below.at[-x.shape[0] :].set(x)


def _pruned(tree: Any, kept: Mapping[str, Any]) -> Any:
    """`tree` with the leaves that `kept` has, without what is empty otherwise."""
    filled = _filled(tree, kept)
    return {name: params_lib.prune(part) for name, part in filled.items()}


def _filled(tree: Any, values: Mapping[str, Any]) -> Any:
    """`tree` with the values of its paths, None where there is none."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: values.get(params_lib.path_of(path)), tree, is_leaf=lambda x: x is None
    )


def _check_shapes(
    found: dict[str, tuple[int, ...]], wanted: dict[str, Any], where: str, exact: bool = True
) -> None:
    for path, leaf in wanted.items():
        if path not in found:
            raise UserError(f'{where} has no {path!r}; the config asks for another model')
        if found[path] != tuple(leaf.shape):
            raise UserError(
                f'{path} has shape {found[path]} in {where} but {tuple(leaf.shape)} in this model'
            )
    if exact and len(found) > len(wanted):
        extra = next(k for k in found if k not in wanted)
        raise UserError(f'{where} holds {extra!r}, which this config has no place for')
