"""Batches on their way to the devices, and back."""

from collections.abc import Mapping
from functools import partial

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Int

from bigmodel.data.pipeline import Batch
from bigmodel.sharding import Sharding


def host_rows(sharding: Sharding, size: int) -> Int[np.ndarray, ' n']:
    """Which rows of a global batch of `size` this host's devices have.

    Not always its turn of equal parts: hosts along a tensor axis have the same rows, and a mesh
    that follows the network of a pod may give a host rows that are no neighbours.
    """
    parts = sharding.batch((size,)).addressable_devices_indices_map((size,)).values()
    return np.unique(np.concatenate([np.arange(size)[part] for part in parts]))


def put_batch(batch: Batch, sharding: Sharding) -> dict[str, jax.Array]:
    """This host's rows of a global batch as arrays over the mesh."""
    ways = sharding.batch_ways
    here = len(host_rows(sharding, ways))
    return {name: _put(rows, len(rows) * ways // here, sharding) for name, rows in batch.items()}


def _put(rows: np.ndarray, size: int, sharding: Sharding) -> jax.Array:
    shape = (size, *rows.shape[1:])
    place, there = sharding.batch(shape), host_rows(sharding, size)
    return jax.make_array_from_callback(shape, place, partial(_part, rows, there))


def _part(rows: np.ndarray, there: np.ndarray, index: tuple[slice, ...]) -> np.ndarray:
    """What a device has of a global array, of which this host has the rows `there`."""
    start, stop, _ = index[0].indices(there[-1] + 1)
    first, last = np.searchsorted(there, (start, stop))
    return rows[(slice(first, last), *index[1:])]


def gathered(arrays: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    """Whole arrays on every host."""
    if jax.process_count() == 1:
        return jax.device_get(dict(arrays))
    return {k: multihost_utils.process_allgather(v, tiled=True) for k, v in arrays.items()}
