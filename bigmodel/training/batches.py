"""Batches on their way to the devices, and back."""

from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from bigmodel.data.pipeline import Batch
from bigmodel.sharding import Sharding


def put_batch(batch: Batch, sharding: Sharding) -> dict[str, jax.Array]:
    """This host's rows of a global batch as arrays over the mesh."""
    return {
        name: jax.make_array_from_process_local_data(
            sharding.batch((rows.shape[0] * jax.process_count(), *rows.shape[1:])), rows
        )
        for name, rows in batch.items()
    }


def gathered(arrays: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    """Whole arrays on every host."""
    if jax.process_count() == 1:
        return jax.device_get(dict(arrays))
    return {k: multihost_utils.process_allgather(v, tiled=True) for k, v in arrays.items()}
