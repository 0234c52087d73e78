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
from bigmodel.params import Rules
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
        """The state of `step`, placed as `abstract` says (shapes, dtypes and shardings)."""
        found = self.shapes(step)
        _check_shapes(found, params_lib.flatten(abstract), f'{self.folder}/{step}')
        with _readable(f'{self.folder}/{step}'):
            return self._orbax().load(step, abstract)

    def restore_params(self, step: int, abstract: Any, rules: Rules) -> Any:
        """Parameters that `rules` mark True, from `step`; the others are None. Where the run kept
        an average of them (`optimizer.ema`), it is that.

        `abstract` is this model's parameters. Raises UserError when one that is asked for is not
        in the checkpoint or has another shape there.
        """
        kept = self.check_params(step, abstract, rules)
        return _load_params(self.folder / str(step), kept, self.shapes(step))

    def check_params(self, step: int, abstract: Any, rules: Rules) -> Any:
        """The parameters that `restore_params` will read (the others None); the same errors."""
        wanted = params_lib.assign(rules, abstract, 'init_from.restore')
        kept = jax.tree.map(lambda keep, x: x if keep else None, wanted, abstract)
        if not jax.tree.leaves(kept):
            raise UserError('init_from.restore restores nothing; let one regex be True')
        found = {k.removeprefix('params/'): s for k, s in self.shapes(step).items()}
        _check_shapes(found, params_lib.flatten(kept), f'{self.folder}/{step}', exact=False)
        return kept

    def shapes(self, step: int) -> dict[str, tuple[int, ...]]:
        """The shape of everything in `step`, by path: parameters are under 'params'."""
        with _readable(f'{self.folder}/{step}'):
            tree = self._orbax().metadata(step).metadata
        return {path: tuple(leaf.shape) for path, leaf in params_lib.flatten(tree).items()}

    def wait(self) -> None:
        """Returns when nothing is being written any more."""
        if self._opened is not None:
            self._opened.wait()

    def close(self) -> None:
        """Waits and releases."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

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


def _load_params(folder: pathlib.Path, kept: Any, found: Mapping[str, Any]) -> Any:
    from orbax.checkpoint import v1 as ocp

    def where(averaged: bool) -> Any:
        def choose(path: Any, leaf: Any) -> Any:
            there = f'opt_state/average/{params_lib.path_of(path)}' in found
            return leaf if there == averaged else None

        return jax.tree_util.tree_map_with_path(choose, kept)

    wanted = {'params': where(False), 'opt_state': {'average': where(True)}}
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with _readable(str(folder)), context:
        loaded = ocp.load(folder, params_lib.prune(wanted), checkpointable_name='state')
    flat = params_lib.flatten(loaded.get('params', {}))
    flat |= params_lib.flatten(loaded.get('opt_state', {}).get('average', {}))
    return jax.tree_util.tree_map_with_path(
        lambda path, _: flat.get(params_lib.path_of(path)), kept, is_leaf=lambda x: x is None
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
