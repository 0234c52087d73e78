"""The model as one linen module, and its only callers: `init_params` and `apply`.

After `init_params`, parameters are plain nested dicts.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from flax import linen as nn
from jaxtyping import Array, Bool, Int

from bigmodel import sharding
from bigmodel.layers.inputs import Inputs
from bigmodel.layers.losses import LOSSES, REPORTS, mean_reports, total_losses
from bigmodel.layers.matmuls import Full, using
from bigmodel.layers.prompts import NoPrompt
from bigmodel.models.adapters import Adapter
from bigmodel.models.backbone import Backbone
from bigmodel.models.deferred import whole
from bigmodel.models.encoder import Source
from bigmodel.models.heads import Outputs
from bigmodel.models.kept import kept_as


class Model(nn.Module):
    """Inputs, a backbone and a head; and an encoder, which embeds its source with the same inputs.

    `make_encoder` constructs a backbone, or is NoEncoder.
    """

    make_inputs: Callable[..., Inputs]
    make_backbone: Callable[..., Backbone]
    make_head: Callable[..., nn.Module]
    make_encoder: Callable[..., nn.Module]
    make_ahead: Callable[..., nn.Module]
    adapter: Adapter = Adapter()
    make_prompt: Callable[..., NoPrompt] = NoPrompt
    param_dtype: str = 'float32'
    matmul: Full = Full()

    def setup(self) -> None:
        self.inputs = self.make_inputs()
        self.prompt = self.make_prompt()
        self.encoder = self.make_encoder()
        self.backbone = self.make_backbone()
        self.head = self.make_head()
        self.ahead = self.make_ahead()

    def __call__(
        self,
        inputs: Array,
        positions: Int[Array, 'B L'] | None = None,
        segments: Int[Array, 'B L'] | None = None,
        cache_length: int | None = None,
        source: Source | None = None,
        prefix: Bool[Array, 'B L'] | None = None,
        hidden: Bool[Array, 'B R C'] | None = None,
    ) -> Outputs:
        """The head's outputs: logits_BLV of an LM, logits_BC of a classifier; of `joint` both."""
        with using(self.matmul):
            return self._outputs(inputs, positions, segments, cache_length, source, prefix, hidden)

    def _outputs(
        self,
        inputs: Array,
        positions: Int[Array, 'B L'] | None,
        segments: Int[Array, 'B L'] | None,
        cache_length: int | None,
        source: Source | None,
        prefix: Bool[Array, 'B L'] | None,
        hidden: Bool[Array, 'B R C'] | None,
    ) -> Outputs:
        memory = self.encoder(self.inputs, source)
        x_BLD, positions = self.inputs(inputs, positions, hidden)
        length = x_BLD.shape[1]
        row_BPD, *places, prefix = self.prompt(x_BLD, positions, segments, prefix)
        room = None if cache_length is None else cache_length + self.prompt.length
        context = self.backbone.context(row_BPD.shape[:2], *places, room, memory, prefix)
        x_BLD = self.backbone(row_BPD, context)[:, -length:]
        unembed = partial(self.head, inputs=self.inputs, segments_BL=segments)
        self.ahead(x_BLD, inputs, context, self.inputs, unembed)
        return unembed(x_BLD)

    @nn.nowrap
    def example(self, length: int = 1) -> tuple[Array, Source | None]:
        """Inputs of one row of `length` tokens, and a source where there is an encoder."""
        inputs = self.make_inputs().example(length)
        return inputs, self.make_encoder().example(inputs)


def init_params(model: Model, key: jax.Array) -> Any:
    """Initial parameters: a nested dict whose leaves carry their logical axes (boxed)."""
    # No parameter depends on the number of tokens or on unrolling: the smallest program will do.
    once = {
        name: partial(getattr(model, name), unroll=1) for name in ('make_backbone', 'make_encoder')
    }
    inputs, source = model.example()
    with sharding.inactive():
        drawn = model.clone(**once).init(key, inputs, source=source, mutable=['params'])['params']
        drawn = kept_as(model.param_dtype, drawn)
        return model.adapter.init(drawn, jax.random.fold_in(key, 1))


def apply(
    model: Model,
    params: Any,
    inputs: Array,
    positions: Int[Array, 'B L'] | None = None,
    segments: Int[Array, 'B L'] | None = None,
    dropout_key: jax.Array | None = None,
    source: Source | None = None,
    prefix: Bool[Array, 'B L'] | None = None,
    hidden: Bool[Array, 'B R C'] | None = None,
) -> Outputs:
    """The model's outputs; dropout is on exactly when `dropout_key` is given."""
    rngs = {} if dropout_key is None else {'dropout': dropout_key}
    variables = {'params': model.adapter.merge(params, dropout_key)}
    rest = {'source': source, 'prefix': prefix, 'hidden': hidden, 'rngs': rngs}
    return model.apply(variables, inputs, positions, segments, **rest)


def apply_with_losses(
    model: Model,
    params: Any,
    inputs: Array,
    positions: Int[Array, 'B L'] | None = None,
    segments: Int[Array, 'B L'] | None = None,
    dropout_key: jax.Array | None = None,
    source: Source | None = None,
    prefix: Bool[Array, 'B L'] | None = None,
    hidden: Bool[Array, 'B R C'] | None = None,
) -> tuple[Outputs, dict[str, Array], dict[str, Array]]:
    """`apply`, what layers add to the loss: name -> sum over layers, and what they report: name ->
    mean over layers (`layers/losses.py`).
    """
    rngs = {} if dropout_key is None else {'dropout': dropout_key}
    variables = {'params': model.adapter.merge(params, dropout_key)}
    rest = {'source': source, 'prefix': prefix, 'hidden': hidden, 'rngs': rngs}
    rest |= {'mutable': [LOSSES, REPORTS]}
    outputs, sown = model.apply(variables, inputs, positions, segments, **rest)
    return outputs, total_losses(sown), mean_reports(sown)


def apply_cached(
    model: Model,
    params: Any,
    cache: Any,
    tokens: Int[Array, 'B L'],
    cache_length: int,
    positions: Int[Array, 'B L'] | None = None,
    segments: Int[Array, 'B L'] | None = None,
    source: Source | None = None,
    prefix: Bool[Array, 'B L'] | None = None,
) -> tuple[Array, Any]:
    """One decoding step: outputs for `tokens`, which follow those in `cache` (None: the first).

    The first step reads the `source`, if there is an encoder; later ones keep what it made of it.
    """
    variables = {'params': model.adapter.merge(params)}
    variables |= {} if cache is None else {'cache': cache}
    rest = (cache_length, source, prefix)
    with sharding.whole_rows():
        outputs, updated = model.apply(
            variables, tokens, positions, segments, *rest, mutable=['cache']
        )
    return whole(outputs), updated['cache']
