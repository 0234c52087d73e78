"""The part of a text that answers a question, or that there is none."""

import dataclasses
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bigmodel.data.draws import Draws
from bigmodel.data.tokenizers import Tokenizer
from bigmodel.layers.kernel import MASKED
from bigmodel.metrics import Metrics
from bigmodel.specs import SHARE
from bigmodel.tasks.losses import Predictions, cross_entropy
from bigmodel.tasks.task import Batch, Judged, ModelFn, Rows, RowTask, model_inputs


@dataclasses.dataclass(frozen=True)
class ExtractiveQA(RowTask):
    """Predicts the first and the last token of the answer, among those of the context; without an
    answer both are the row's first token (Devlin et al. 2018, §4.2 and §4.3, SQuAD).

    An answer that the end of a row may have cut does not count. Of a document in several windows
    (`data.packing=strided`) those without the answer are learned as having none, or `left_out`.
    Metrics, over rows: `loss` (nats of both ends, smoothed), `nll` (nats of both ends), `accuracy`
    (whether the best span, or no answer, is exactly the right one).
    """

    label_smoothing: Annotated[float, SHARE] = 0.0
    without: Literal['no_answer', 'left_out'] = 'no_answer'
    learns = predicts = 'span'
    two_sided = whole_documents = True
    windows = 'strided'

    def prepare(self, rows: Rows, draws: Draws, tokenizer: Tokenizer) -> Rows:
        """`start` and `end` of the answer, 0 without one; `candidates`, 1 where one may be;
        `weights`, 0 for a row whose answer may be cut, or for one that is left out; `counts`, 0 for
        the first of these.
        """
        ends = rows['tokens'] == tokenizer.eos_id  # marked as the text before
        context, answer = (rows['marks'] > 0) & ~ends, (rows['marks'] == 1) & ~ends
        candidates = context.astype(np.int32)
        candidates[:, 0] = 1
        # Without an answer argmax is 0.
        start, last = answer.argmax(1), answer.shape[1] - 1 - answer[:, ::-1].argmax(1)
        whole = 1 - answer[:, -1].astype(np.float32)
        elsewhere = rows.get('elsewhere', np.zeros(len(answer), np.int32))
        made = {
            'start': start.astype(np.int32),
            'end': np.where(answer.any(1), last, 0).astype(np.int32),
            'candidates': candidates,
            'weights': np.where(elsewhere * (self.without == 'left_out'), 0, whole),
            'counts': whole,
        }
        return rows | made

    def judge(
        self, model: ModelFn, batch: Batch, dropout_key: jax.Array | None
    ) -> tuple[Metrics, Judged]:
        valid = batch.get('valid', 1.0)
        weights = batch['weights'] * valid
        logits_BL2 = model(*model_inputs(batch), dropout_key)
        can = batch['candidates'] > 0
        starts, ends = (jnp.where(can, logits_BL2[..., i], MASKED) for i in range(2))
        one, other = (
            cross_entropy(logits, batch[name], self.label_smoothing)
            for logits, name in ((starts, 'start'), (ends, 'end'))
        )
        span, score = spans_of(starts, ends, can)
        none = starts[:, 0] + ends[:, 0]
        start, end = (place * (score > none) for place in span)
        right = (start == batch['start']) & (end == batch['end'])
        metrics = Predictions(one[0] + other[0], one[1] + other[1], right, weights).metrics()
        normaliser = sum(jax.nn.logsumexp(x.astype(jnp.float32), 1) for x in (starts, ends))
        rows = {
            'prediction': jnp.stack([start, end], 1),
            'target': jnp.stack([batch['start'], batch['end']], 1),
            'weight': batch['counts'] * valid,
            'confidence': jnp.exp(jnp.maximum(score, none) - normaliser),
            'tokens': batch['tokens'],
            'span': jnp.stack(span, 1),
            'score': score,
            'none': none,
            'normaliser': normaliser,
        }
        return metrics, rows


def spans_of(
    starts: Float[Array, 'B L'], ends: Float[Array, 'B L'], can: Bool[Array, 'B L']
) -> tuple[tuple[Int[Array, ' B'], Int[Array, ' B']], Float[Array, ' B']]:
    """The span start <= end, after position 0, of the largest sum of logits, and that sum."""
    places = jnp.arange(starts.shape[1])
    inside = can & (places > 0)
    scores = jnp.where(inside, starts, MASKED)
    sums = jax.lax.cummax(scores, axis=1) + jnp.where(inside, ends, MASKED)
    end = jnp.argmax(sums, axis=1)
    start = jnp.argmax(jnp.where(places <= end[:, None], scores, MASKED), axis=1)
    return (start, end), jnp.max(sums, axis=1)
