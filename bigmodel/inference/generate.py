"""Generation with a KV cache: one prefill, then a compiled loop of single-token steps."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bigmodel.data.format import Format
from bigmodel.data.formats import Text
from bigmodel.data.tokenizers import Tokenizer
from bigmodel.errors import UserError
from bigmodel.inference.extra_ids import ExtraIds
from bigmodel.layers.kernel import MASKED
from bigmodel.models.encoder import Source
from bigmodel.models.model import Model, apply_cached
from bigmodel.tasks.task import Beginning, Task

PLAIN, TEXT = Task(), Text()  # whose models go on from the prompt


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    `temperature` 0 takes the most likely token; `top_k` keeps the k most likely ones (0: all);
    `top_p` keeps the smallest set with that probability (Holtzman et al. 2020).
    """

    max_tokens: int = 200
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def check(self) -> None:
        """Raises UserError for a value out of range."""
        if self.max_tokens < 1:
            raise UserError(f'--max_tokens={self.max_tokens} must be at least 1')
        if self.temperature < 0:
            raise UserError(f'--temperature={self.temperature} must not be negative')
        if self.top_k < 0:
            raise UserError(f'--top_k={self.top_k} must not be negative (0: all tokens)')
        if not 0 < self.top_p <= 1:
            raise UserError(f'--top_p={self.top_p} must be in (0, 1]')


def generate(
    model: Model,
    params: Any,
    tokenizer: Tokenizer,
    prompt: str,
    sampling: Sampling,
    num_samples: int = 1,
    max_length: int = 0,
    task: Task = PLAIN,
    format: Format = TEXT,
) -> list[str]:
    """`num_samples` texts that begin with `prompt`; where it is the source of an encoder or the
    format has responses, what the model makes of it.

    `max_length` is how many positions the model has learned (0: it can take any). Raises UserError
    for a prompt that the model cannot take.
    """
    sampling.check()
    begin = beginning(task, tokenizer, prompt, format)
    longest = max(len(begin.tokens) + sampling.max_tokens, len(begin.source))
    if max_length and longest > max_length:
        raise UserError(
            f'the prompt has {len(begin.source or begin.tokens)} tokens and --max_tokens='
            f'{sampling.max_tokens}, but the model has learned positions for {max_length}; '
            f'ask for fewer'
        )
    tokens, source = (
        jnp.tile(jnp.asarray(ids, jnp.int32), (num_samples, 1))
        for ids in (begin.tokens, begin.source)
    )
    read = Source(source) if begin.source else None
    shown = {'prefix': jnp.arange(tokens.shape[1]) < begin.prefix} if begin.prefix else {}
    out = generate_tokens(model, params, tokens, sampling, read, **shown)
    answers = begin.source or format.teaches == 'responses'
    texts, shown = [], '' if answers else prompt
    for row in jax.device_get(out).tolist():
        if begin.end in row:
            row = row[: row.index(begin.end)]
        texts.append(shown + ExtraIds(tokenizer, task.extra_ids).decode(row))
    return texts


def beginning(task: Task, tokenizer: Tokenizer, prompt: str, format: Format = TEXT) -> Beginning:
    """How a model of this task goes on from `prompt`, in which extra ids may be written, in a
    document of this format.

    Raises UserError for a prompt that cannot be.
    """
    ids, extra = [], ExtraIds(tokenizer, task.extra_ids)
    for number, part in enumerate(format.opening(prompt)):
        ids += [tokenizer.eos_id] if number else []
        for text, _, special in part:
            ids += tokenizer.encode(text, special).tolist() if special else extra.encode(text)
    return task.begin(ids, tokenizer)


@functools.partial(jax.jit, static_argnames=('model', 'sampling'))
def generate_tokens(
    model: Model,
    params: Any,
    tokens: Int[Array, 'B P'],
    sampling: Sampling,
    source: Source | None = None,
    prefix: Bool[Array, ' P'] | None = None,
) -> Int[Array, 'B N']:
    """`sampling.max_tokens` ids that follow `tokens`; an encoder reads its `source` once."""
    length = tokens.shape[1] + sampling.max_tokens
    key = jax.random.key(sampling.seed)
    prefix_BP = None if prefix is None else jnp.broadcast_to(prefix, tokens.shape)
    rest = {'source': source, 'prefix': prefix_BP}
    logits_BLV, cache = apply_cached(model, params, None, tokens, length, **rest)

    def step(carry: tuple, index: Array) -> tuple[tuple, Array]:
        cache, logits_BV = carry
        token_B = sample(logits_BV, sampling, jax.random.fold_in(key, index))
        logits_BLV, cache = apply_cached(model, params, cache, token_B[:, None], length)
        return (cache, logits_BLV[:, -1]), token_B

    steps = jnp.arange(sampling.max_tokens)
    _, out_NB = jax.lax.scan(step, (cache, logits_BLV[:, -1]), steps)
    return out_NB.T


def sample(logits_BV: Float[Array, 'B V'], sampling: Sampling, key: jax.Array) -> Int[Array, ' B']:
    """One token a row."""
    if sampling.temperature == 0:
        return jnp.argmax(logits_BV, -1).astype(jnp.int32)
    logits_BV = logits_BV / sampling.temperature
    if sampling.top_k:
        kth = jax.lax.top_k(logits_BV, min(sampling.top_k, logits_BV.shape[-1]))[0][:, -1:]
        logits_BV = jnp.where(logits_BV >= kth, logits_BV, MASKED)
    if sampling.top_p < 1:
        ordered = jnp.sort(logits_BV, axis=-1)[:, ::-1]
        p = jax.nn.softmax(ordered, axis=-1)
        # A token stays when those before it do not yet have top_p.
        inside = jnp.cumsum(p, axis=-1) - p < sampling.top_p
        least = jnp.min(jnp.where(inside, ordered, jnp.inf), axis=-1, keepdims=True)
        logits_BV = jnp.where(logits_BV >= least, logits_BV, MASKED)
    return jax.random.categorical(key, logits_BV).astype(jnp.int32)
