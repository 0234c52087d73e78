"""Detection of tokens that another model put in: pre-training of encoders without labels."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bigmodel.data.draws import Draws
from bigmodel.data.tokenizers import Tokenizer
from bigmodel.metrics import Mean, Metrics
from bigmodel.models.deferred import per_token
from bigmodel.specs import POSITIVE, SHARE
from bigmodel.tasks.masked_lm import MaskedLM
from bigmodel.tasks.task import Batch, BoundModel, Rows, Task

STEPS = 2**24  # multiples of 1/STEPS are exact in float32


@dataclasses.dataclass(frozen=True)
class ReplacedTokens(Task):
    """Says of each token whether a generator put it in: ELECTRA's discriminator (Clark et al. 2020,
    §2).

    Tokens are chosen as `masked_lm` chooses them, all of them are hidden, and the generator, a
    masked LM of another run, draws what takes their place; a token that it guesses was not
    replaced. The same row at the same place of a run has the same replacements.

    The generator is frozen. This is not the paper's joint schedule, which trains both at once on
    L_MLM + 50·L_Disc, so that replacements get harder as the generator learns: a task has one model
    that learns. It is the second stage of their two (§3.2), in which the discriminator begins with
    the generator's weights (`init_from`); they found that it otherwise may learn nothing beyond the
    majority.

    Metrics, over all tokens that are no padding: `loss` (nats a token), `accuracy`, `replaced`
    (their share), `found` (the accuracy over the replaced ones).
    """

    rate: Annotated[float, POSITIVE, SHARE] = 0.15
    whole_words: bool = False
    predicts = 'replaced'
    extra_ids = 1  # the generator's mask, which the discriminator hardly ever sees
    two_sided = True
    companions, companions_are = ('generator',), 'masked_lm'

    def prepare(self, rows: Rows, draws: Draws, tokenizer: Tokenizer) -> Rows:
        """Tokens as the generator sees them, `targets`, `weights`, and a number in (0, 1] each."""
        masked = MaskedLM(self.rate, 1.0, 0.0, self.whole_words).prepare(rows, draws, tokenizer)
        tokens = rows['tokens']
        weights = rows.get('weights', np.ones(tokens.shape, np.float32))
        there = rows.get('segments', np.ones_like(tokens)) > 0
        numbers = (draws.below(STEPS, tokens.shape[1]) + 1) / STEPS
        return masked | {'weights': weights * there, 'numbers': numbers.astype(np.float32)}

    def __call__(self, model: BoundModel, batch: Batch, dropout_key: jax.Array | None) -> Metrics:
        coordinates = batch.get('positions'), batch.get('segments')
        guesses_BLV = model.companion('generator')(batch['tokens'], *coordinates, None)
        original, hidden = batch['targets'], batch['tokens'] != batch['targets']
        guessed = per_token(drawn, guesses_BLV, batch['numbers'])
        seen = jnp.where(hidden, guessed, original)
        replaced = (seen != original).astype(jnp.float32)
        logits_BL = model(seen, *coordinates, dropout_key)
        weights = batch['weights']
        if 'valid' in batch:
            weights *= batch['valid'][:, None]
        correct = ((logits_BL > 0) == (replaced > 0)).astype(jnp.float32)
        return {
            'loss': Mean.of(jax.nn.softplus(logits_BL) - replaced * logits_BL, weights),
            'accuracy': Mean.of(correct, weights),
            'replaced': Mean.of(replaced, weights),
            'found': Mean.of(correct, weights * replaced),
        }


def drawn(logits: Float[Array, '*s V'], numbers: Float[Array, '*s']) -> Int[Array, '*s']:
    """The token at which the cumulative probability reaches a number in (0, 1].

    Over uniform numbers that is a draw from softmax(logits).
    """
    p = jax.nn.softmax(logits.astype(jnp.float32), -1)
    # Rounded sums may go on growing past the last token: those without probability reach nothing.
    reached = jnp.where(p > 0, jnp.cumsum(p, -1), 0)
    return jnp.argmax(reached >= numbers[..., None] * reached.max(-1, keepdims=True), -1)
