"""A model with the parameters of a run, on one device."""

from typing import Any

import jax
from flax import linen as nn

from bigmodel.config import ConfigDict
from bigmodel.errors import UserError
from bigmodel.layers.masks import MASKS
from bigmodel.models.model import Model, build_model
from bigmodel.models.stack import layer_specs
from bigmodel.sharding import make_sharding
from bigmodel.specs import make, parse
from bigmodel.training.restore import restored_params
from bigmodel.training.state import abstract_params


def load_model(config: ConfigDict, workdir: str, step: int, vocab_size: int) -> tuple[Model, Any]:
    """The model of a run's resolved config and its parameters at `step` (0: the newest).

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


def refusal(config: ConfigDict) -> str:
    """Why the model of a resolved config cannot generate text ('has …'), or ''."""
    if parse(config.model.head, 'model.head').name != 'lm':
        return f'has the head {config.model.head!r}; only lm generates text'
    for mask in (layer['mask'] for layer in layer_specs(config.model)):
        if not make(MASKS, mask, 'model.mask').causal:
            return f'has the mask {mask!r}; only causal models generate text'
    return ''


def learned_length(config: ConfigDict) -> int:
    """How many positions the model of a run has learned; 0 when it can take any."""
    learned = parse(config.model.position, 'model.position').name == 'learned'
    return config.model.max_length if learned else 0
