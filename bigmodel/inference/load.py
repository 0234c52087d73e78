"""A model with the parameters of a run, on one device."""

from typing import Any

import jax
from flax import linen as nn

from bigmodel.config import ConfigDict
from bigmodel.errors import UserError
from bigmodel.models.build import build_model
from bigmodel.models.model import Model
from bigmodel.sharding import make_sharding
from bigmodel.training.restore import refusal, restored_params
from bigmodel.training.state import abstract_params


def load_model(
    config: ConfigDict, workdir: str, step: int | str, vocab_size: int
) -> tuple[Model, Any]:
    """The model of a run's resolved config and its parameters at `step` (0: the newest, 'best').

    Raises UserError for a model that cannot generate text.
    """
    reason = refusal(config)
    if reason:
        raise UserError(f'{workdir} {reason}')
    model = build_model(config.model, vocab_size, 0, jax.default_backend())
    place = make_sharding('', 'dp', jax.devices()[:1])
    boxed = abstract_params(model)
    abstract = jax.tree.map(
        lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p),
        nn.unbox(boxed),
        place.of_params(boxed),
    )
    return model, restored_params(workdir, step, abstract)[0]
