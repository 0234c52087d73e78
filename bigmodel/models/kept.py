"""In which numbers a model's parameters are kept between updates."""

import re
from typing import Any

import jax

from bigmodel import params as params_lib
from bigmodel.errors import unknown

PARAM_DTYPES = ('float32', 'bfloat16')
# Of Linear, ExpertWeight and Embed, which cast them to the products' dtype (a box adds 'value').
MATRICES = r'/(weight|table)(/value)?$'


def check_param_dtype(dtype: str) -> None:
    """Raises UserError for one that parameters cannot have."""
    if dtype not in PARAM_DTYPES:
        raise unknown('model.param_dtype', dtype, PARAM_DTYPES)


def kept_as(dtype: str, params: Any) -> Any:
    """Matrices in `dtype`; vectors and scalars, which take no memory, stay as they are."""

    def keep(path: Any, x: jax.Array) -> jax.Array:
        return x.astype(dtype) if re.search(MATRICES, params_lib.path_of(path)) else x

    return jax.tree_util.tree_map_with_path(keep, params)
