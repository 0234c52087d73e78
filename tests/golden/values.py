"""Reads the golden values; `make_torch_values.py` and the other `make_*_values.py` make them."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

FOLDER = pathlib.Path(__file__).parent


@functools.cache
def golden_file(name: str) -> dict[str, np.ndarray]:
    """All of NAME_values.npz."""
    with np.load(FOLDER / f'{name}_values.npz') as archive:
        return dict(archive)


def golden(name: str) -> dict[str, jax.Array]:
    """The arrays stored as `name/key`, by key."""
    start = name + '/'
    found = {
        k[len(start) :]: jnp.asarray(v)
        for k, v in golden_file('torch').items()
        if k.startswith(start)
    }
    assert found, f'no golden values for {name!r}'
    return found
