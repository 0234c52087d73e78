"""The training state, and where each of its arrays lives."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn

from bigmodel import params as params_lib
from bigmodel import sharding as sharding_lib
from bigmodel.models.model import Model, init_params
from bigmodel.sharding import Sharding, is_box
from bigmodel.training.optimizers import HParams, Optimizer
from bigmodel.training.storage import PLAIN, Storage


@flax.struct.dataclass
class State:
    """All that a step reads and writes; `step` (int32) counts finished updates.

    `companions` are the parameters of frozen models, by name, which steps leave as they are.
    Its leaves are arrays, or their shapes, or their shardings.
    """

    step: Any
    params: Any
    opt_state: Any
    companions: Any = flax.struct.field(default_factory=dict)
    loss_scale: Any = flax.struct.field(default_factory=dict)  # {} where the loss is not scaled

    @property
    def saved(self) -> dict[str, Any]:
        """What a checkpoint holds: companions have checkpoints of their own."""
        scale = {'loss_scale': self.loss_scale} if self.loss_scale else {}
        return {'step': self.step, 'params': self.params, 'opt_state': self.opt_state, **scale}


def init_state(model: Model, optimizer: Optimizer, hparams: HParams) -> State:
    """The state before the first step; a pure function of `hparams['seed']`."""
    key = jax.random.key(hparams['seed'])
    params = nn.unbox(init_params(model, key))
    opt_state, loss_scale = optimizer.init(params, hparams), optimizer.scaling.init()
    return State(jnp.zeros((), jnp.int32), params, opt_state, loss_scale=loss_scale)


def abstract_params(model: Model) -> Any:
    """Shapes and logical axes of the parameters (boxed), without computing anything."""
    return jax.eval_shape(lambda: init_params(model, jax.random.key(0)))


def abstract_state(boxed: Any, optimizer: Optimizer, hparams: HParams) -> State:
    """The shapes of `init_state`, from those of the parameters."""
    params = jax.tree.map(lambda box: box.value, boxed, is_leaf=is_box)
    opt_state = jax.eval_shape(optimizer.init, params, hparams)
    loss_scale = jax.eval_shape(optimizer.scaling.init)
    return State(jax.ShapeDtypeStruct((), jnp.int32), params, opt_state, loss_scale=loss_scale)


def place_gradients(model: Model, grads: Any) -> Any:
    """Gradients of parameters of `model`, split where rules split gradients alone (ZeRO-2)."""
    active = sharding_lib.active()
    if active is None or not any(axis.startswith('gradients/') for axis in active.rules):
        return grads
    places = params_lib.flatten(active.of_params(abstract_params(model), 'gradients'))

    def place(path: Any, grad: jax.Array) -> jax.Array:
        return jax.lax.with_sharding_constraint(grad, places[params_lib.path_of(path)])

    return jax.tree_util.tree_map_with_path(place, grads)


def state_sharding(
    sharding: Sharding, boxed: Any, abstract: State, storage: Storage = PLAIN
) -> State:
    """Parameters by their axes, and so are optimizer moments; the rest is on every device.

    A moment is recognised by its path, which ends in the parameter's, and by its shape, where it
    may have fewer layers. `storage` says whether moments wait on the host.
    """
    params = sharding.of_params(boxed)
    places = params_lib.flatten(sharding.of_params(boxed, 'moments'))
    layer = {}  # shape of one layer's
    for path, box in jax.tree_util.tree_leaves_with_path(boxed, is_leaf=is_box):
        stacked = box.names[:1] == ('layers',)
        layer[params_lib.path_of(path)] = (len(box.names), box.value.shape[stacked:])

    def place(key_path: Any, leaf: Any) -> Any:
        parts = params_lib.path_of(key_path).split('/')
        for i in range(len(parts)):
            path = '/'.join(parts[i:])
            dims, shape = layer.get(path, (-1, ()))
            if dims == leaf.ndim and leaf.shape[leaf.ndim - len(shape) :] == shape:
                return places[path]
        return sharding.replicated()

    opt_state = jax.tree_util.tree_map_with_path(place, abstract.opt_state)
    loss_scale = jax.tree.map(lambda _: sharding.replicated(), abstract.loss_scale)
    opt_state = storage.placed(opt_state, abstract.opt_state)
    return State(sharding.replicated(), params, opt_state, loss_scale=loss_scale)
