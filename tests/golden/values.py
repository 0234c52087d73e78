"""Reads the golden values; `make_torch_values.py` and the other `make_*_values.py` make them."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

FOLDER = pathlib.Path(__file__).parent


@functools.cache
def _archive() -> dict[str, np.ndarray]:
    with np.load(FOLDER / 'torch_values.npz') as archive:
        return dict(archive)


def golden(name: str) -> dict[str, jax.Array]:
    """The arrays stored as `name/key`, by key."""
    start = name + '/'
    found = {k[len(start) :]: jnp.asarray(v) for k, v in _archive().items() if k.startswith(start)}
    assert found, f'no golden values for {name!r}'
    return found


@functools.cache
def golden_rope() -> dict[str, np.ndarray]:
    """All of rope_values.npz."""
    with np.load(FOLDER / 'rope_values.npz') as archive:
        return dict(archive)


@functools.cache
def golden_bert() -> dict[str, np.ndarray]:
    """All of bert_values.npz."""
    with np.load(FOLDER / 'bert_values.npz') as archive:
        return dict(archive)


@functools.cache
def golden_tuning() -> dict[str, np.ndarray]:
    """All of tuning_values.npz."""
    with np.load(FOLDER / 'tuning_values.npz') as archive:
        return dict(archive)


@functools.cache
def golden_t5() -> dict[str, np.ndarray]:
    """All of t5_values.npz."""
    with np.load(FOLDER / 't5_values.npz') as archive:
        return dict(archive)


@functools.cache
def golden_preference() -> dict[str, np.ndarray]:
    """All of preference_values.npz."""
    with np.load(FOLDER / 'preference_values.npz') as archive:
        return dict(archive)
