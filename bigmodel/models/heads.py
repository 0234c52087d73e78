"""Heads: from the residual stream to what a task asks for, in float32."""

import math
from collections.abc import Callable
from typing import Annotated

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from bigmodel.errors import unknown
from bigmodel.layers.feedforward import activation
from bigmodel.layers.initializers import Init, fan_in
from bigmodel.layers.inputs import Inputs
from bigmodel.layers.linear import Linear, Matrix
from bigmodel.layers.matmuls import matmul_of
from bigmodel.layers.norms import NORMS
from bigmodel.models.deferred import Deferred
from bigmodel.sharding import into_branch
from bigmodel.specs import NOT_NEGATIVE, bind, make

Outputs = Array | Deferred | tuple[Array | Deferred, ...]  # of one head, or of each of several


class LMHead(nn.Module):
    """Logits over the vocabulary; `tied` reuses the token table (Press & Wolf 2017).

    `scale` divides them by √width, for a table of vectors of size √width (Raffel et al. 2019, as in
    their code). Of the table's `vocab_size` rows the tokenizer has `num_ids`; the others get −1e30.
    With `chunk` they are computed where they are read, so many tokens of a device at a time.
    """

    vocab_size: int
    num_ids: int
    tied: bool = True
    scale: bool = False
    chunk: Annotated[int, NOT_NEGATIVE] = 0
    logit_scale: float = 1.0
    init: Init = fan_in
    dtype: DTypeLike = jnp.float32

    predicts = 'tokens'

    @nn.compact
    def __call__(
        self,
        x_BLD: Float[Array, 'B L D'],
        inputs: Inputs,
        segments_BL: Int[Array, 'B L'] | None = None,
    ) -> Float[Array, 'B L V'] | Deferred:
        return self._logits(x_BLD, inputs)

    def _logits(
        self, x_BLD: Array, inputs: Inputs, bias_V: Array | None = None
    ) -> Float[Array, 'B L V'] | Deferred:
        x_BLD, width = into_branch(x_BLD), x_BLD.shape[-1]
        if self.tied:
            weight_DV, matmul = inputs.unembedding(x_BLD.dtype), matmul_of(inputs, 'tokens/table')
        else:
            rest = (('embed', 'vocab'), 'head', self.init, self.dtype)
            weight_DV = Matrix(width, self.vocab_size, *rest, name='out')()
            x_BLD, matmul = x_BLD.astype(self.dtype), matmul_of(self, 'out/weight')
        matmul.check_keyless('the head', 'inputs/' if self.tied else 'head/')
        scale = self.logit_scale / (math.sqrt(width) if self.scale else 1)
        rest = (bias_V, scale, self.num_ids, self.chunk, matmul)
        logits = Deferred(x_BLD, weight_DV, *rest)
        return logits if self.chunk else logits.whole()


class MLMHead(LMHead):
    """Logits from norm(activation(W·x + b)), with a bias for each token (Devlin et al. 2018, as in
    their code; the paper does not mention it). `tied`, `scale`, `chunk`: see `lm`.
    """

    activation: str = 'gelu'
    norm: str = 'layernorm(eps=1e-12)'

    @nn.compact
    def __call__(
        self,
        x_BLD: Float[Array, 'B L D'],
        inputs: Inputs,
        segments_BL: Int[Array, 'B L'] | None = None,
    ) -> Float[Array, 'B L V'] | Deferred:
        rest = (True, 'linear', self.init, self.dtype)
        # 'mlp' for the new features: an array may have each axis once.
        transform = Linear(x_BLD.shape[-1:], ('embed',), ('mlp',), *rest, name='transform')
        norm = bind(NORMS, self.norm, 'mlm(norm=...)', axis='embed')
        h_BLD = norm(name='norm')(activation(self.activation)(transform(x_BLD)))
        zeros = nn.with_logical_partitioning(nn.initializers.zeros, ('vocab',))
        bias_V = self.param('bias', zeros, (self.vocab_size,))
        return self._logits(h_BLD, inputs, bias_V)


class Classifier(nn.Module):
    """Logits over labels from the mean, first or last vector of a row; starts at zero.

    With a class token, take the first; the mean is of all vectors, that one included.
    """

    num_labels: int
    pool: str = 'mean'
    logit_scale: float = 1.0
    dtype: DTypeLike = jnp.float32

    predicts = 'class'

    @nn.compact
    def __call__(
        self,
        x_BLD: Float[Array, 'B L D'],
        inputs: Inputs,
        segments_BL: Int[Array, 'B L'] | None = None,
    ) -> Float[Array, 'B C']:
        return _outputs(self, self.num_labels, _pooled(x_BLD, segments_BL, self.pool))


class Regressor(nn.Module):
    """One number from the mean, first or last vector of a row; starts at zero."""

    pool: str = 'mean'
    logit_scale: float = 1.0
    dtype: DTypeLike = jnp.float32

    predicts = 'number'

    @nn.compact
    def __call__(
        self,
        x_BLD: Float[Array, 'B L D'],
        inputs: Inputs,
        segments_BL: Int[Array, 'B L'] | None = None,
    ) -> Float[Array, ' B']:
        return _outputs(self, 1, _pooled(x_BLD, segments_BL, self.pool))[:, 0]


class TokenClassifier(nn.Module):
    """Logits over labels for each token; starts at zero (Devlin et al. 2018, §5.3)."""

    num_labels: int
    logit_scale: float = 1.0
    dtype: DTypeLike = jnp.float32

    predicts = 'classes'

    @nn.compact
    def __call__(
        self,
        x_BLD: Float[Array, 'B L D'],
        inputs: Inputs,
        segments_BL: Int[Array, 'B L'] | None = None,
    ) -> Float[Array, 'B L C']:
        return _outputs(self, self.num_labels, x_BLD)


class Detector(nn.Module):
    """One logit for each token, of whether it was replaced; starts at zero (Clark et al. 2020, §2).

    As in the paper: their code has one more layer.
    """

    logit_scale: float = 1.0
    dtype: DTypeLike = jnp.float32

    predicts = 'replaced'

    @nn.compact
    def __call__(
        self,
        x_BLD: Float[Array, 'B L D'],
        inputs: Inputs,
        segments_BL: Int[Array, 'B L'] | None = None,
    ) -> Float[Array, 'B L']:
        return _outputs(self, 1, x_BLD)[..., 0]


class SpanHead(nn.Module):
    """Logits of each token as the first and as the last of a span; starts at zero (Devlin et al.
    2018, §4.2).
    """

    logit_scale: float = 1.0
    dtype: DTypeLike = jnp.float32

    predicts = 'span'

    @nn.compact
    def __call__(
        self,
        x_BLD: Float[Array, 'B L D'],
        inputs: Inputs,
        segments_BL: Int[Array, 'B L'] | None = None,
    ) -> Float[Array, 'B L 2']:
        return _outputs(self, 2, x_BLD)


class JointHead(nn.Module):
    """Two heads side by side, for a task that is two (Radford et al. 2018, §3.2).

    The only head of a run to start from is restored as the one that has its shape; the other is to
    be left out: `init_from.restore=(('head/first/.*', False), ('.*', True))`.
    """

    vocab_size: int
    num_ids: int
    num_labels: int
    first: str = 'classifier(pool="last")'
    second: str = 'lm'
    logit_scale: float = 1.0
    init: Init = fan_in
    dtype: DTypeLike = jnp.float32

    predicts = 'several'

    @property
    def parts(self) -> tuple[nn.Module, ...]:
        """The heads, to be asked what they are."""
        return tuple(make_part(parent=None) for make_part in self._makers.values())

    @property
    def _makers(self) -> dict[str, Callable[..., nn.Module]]:
        fields = ('vocab_size', 'num_ids', 'num_labels', 'logit_scale', 'init', 'dtype')
        known = {field: getattr(self, field) for field in fields}
        return {
            name: bind(HEADS, getattr(self, name), f'model.head: joint({name}=...)', **known)
            for name in ('first', 'second')
        }

    @nn.compact
    def __call__(
        self,
        x_BLD: Float[Array, 'B L D'],
        inputs: Inputs,
        segments_BL: Int[Array, 'B L'] | None = None,
    ) -> tuple[Array | Deferred, ...]:
        heads = [make_part(name=name) for name, make_part in self._makers.items()]
        return tuple(head(x_BLD, inputs, segments_BL) for head in heads)


class PixelHead(nn.Module):
    """The pixels of each patch by one linear map, which is enough (Xie et al. 2022, §3.4).

    How many there are is the inputs' to say; the class token, if any, predicts none.
    """

    logit_scale: float = 1.0
    init: Init = fan_in
    dtype: DTypeLike = jnp.float32

    predicts = 'pixels'

    @nn.compact
    def __call__(
        self,
        x_BLD: Float[Array, 'B L D'],
        inputs: Inputs,
        segments_BL: Int[Array, 'B L'] | None = None,
    ) -> Float[Array, 'B N pixels']:
        x_BND, features = inputs.patches_of(x_BLD)
        rest = (True, 'head', self.init, self.dtype)
        out = Linear((features,), ('embed',), ('pixels',), *rest, name='out')
        return self.logit_scale * out(x_BND).astype(jnp.float32)


def _outputs(head: nn.Module, features: int, x: Array) -> Float[Array, '... C']:
    """The last layer of a head that is fine-tuned: all its outputs begin equal."""
    rest = (True, 'head', lambda role, fan_in: 0.0, head.dtype)
    out = Linear((features,), ('embed',), ('labels',), *rest, name='out')
    return head.logit_scale * out(x).astype(jnp.float32)


def _pooled(x_BLD: Array, segments_BL: Array | None, pool: str) -> Float[Array, 'B D']:
    """One vector for each row, of its tokens that are no padding."""
    if pool not in POOLS:
        raise unknown('pool of model.head', pool, POOLS)
    here_BL = jnp.ones(x_BLD.shape[:2]) if segments_BL is None else segments_BL > 0
    return POOLS[pool](x_BLD.astype(jnp.float32), here_BL.astype(jnp.float32))


def _mean(x_BLD: Array, here_BL: Array) -> Array:
    total = jnp.einsum('BLD,BL->BD', x_BLD, here_BL)
    return total / jnp.maximum(here_BL.sum(1), 1)[:, None]


def _last(x_BLD: Array, here_BL: Array) -> Array:
    last_B = jnp.maximum(here_BL.sum(1).astype(jnp.int32) - 1, 0)
    return jnp.take_along_axis(x_BLD, last_B[:, None, None], axis=1)[:, 0]


POOLS = {'mean': _mean, 'last': _last, 'first': lambda x_BLD, here_BL: x_BLD[:, 0]}
HEADS = {
    'lm': LMHead,
    'mlm': MLMHead,
    'classifier': Classifier,
    'token_classifier': TokenClassifier,
    'detector': Detector,
    'regressor': Regressor,
    'span': SpanHead,
    'pixels': PixelHead,
    'joint': JointHead,
}


def parts_of(head: nn.Module) -> tuple[nn.Module, ...]:
    """The head itself, or those that it consists of."""
    return getattr(head, 'parts', (head,))


def heads_of(spec: str) -> tuple[nn.Module, ...]:
    """What `parts_of` says of a spec: `predicts` of each is what a task asks for (`Task.heads`)."""
    return parts_of(make(HEADS, spec, 'model.head', vocab_size=0, num_ids=0, num_labels=0))


def chunk_of(spec: str) -> int:
    """For how many tokens at a time a head has logits (0: for all)."""
    return max(getattr(head, 'chunk', 0) for head in heads_of(spec))
