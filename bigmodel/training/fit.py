"""Whether the data, the task and the model's inputs and positions fit each other."""

import numpy as np

from bigmodel.config import ConfigDict
from bigmodel.data.pipeline import Data
from bigmodel.errors import UserError
from bigmodel.layers.inputs import INPUTS
from bigmodel.layers.positions import POSITIONS
from bigmodel.models.model import Model
from bigmodel.models.stack import encoder_specs, layer_specs
from bigmodel.specs import make
from bigmodel.tasks.task import KINDS, Rows, Task


def check_inputs(config: ConfigDict, task: Task, model: Model, data: Data) -> None:
    """Raises UserError for rows that the task or the model cannot read, before anything compiles.

    Reads one row.
    """
    row = data.batches.examples.take(np.zeros(1, np.int64))
    (kind,) = (k for k in KINDS if k in row)
    inputs = model.make_inputs()
    if kind not in task.reads:
        raise UserError(
            f'task={config.task!r} reads {_either(task.reads)}, but data.source='
            f'{config.data.source!r} gives {KINDS[kind]}; choose another task or source'
        )
    if inputs.key != kind:
        fitting = [name for name, part in INPUTS.items() if part.key == kind]
        raise UserError(
            f'model.inputs={config.model.inputs!r} reads {KINDS[inputs.key]}, but data.source='
            f'{config.data.source!r} gives {KINDS[kind]}; set model.inputs to '
            f'{" or ".join(fitting)}'
        )
    _check_examples(config, task, row)
    layout = inputs.layout(row[kind].shape[1 + (task.group > 1) :])
    if layout.length != config.data.seq_len + task.extra_tokens:
        raise UserError(
            f'data.seq_len={config.data.seq_len}, but model.inputs={config.model.inputs!r} makes '
            f'{layout.length} tokens of each row; set data.seq_len={layout.length}'
        )
    _check_columns(config.model, layout.columns)


def _check_examples(config: ConfigDict, task: Task, row: Rows) -> None:
    """An example must have as many documents as the task reads, and marks if it needs them."""
    group = row['tokens'].shape[1] if 'tokens' in row and row['tokens'].ndim == 3 else 1
    if group != task.group:
        raise UserError(
            f'task={config.task!r} reads {task.group} documents an example, but data.format='
            f'{config.data.format!r} gives {group}; choose another task or data.format'
        )
    if task.marked and 'marks' not in row:
        raise UserError(
            f'task={config.task!r} needs marks of what to learn, but data.format='
            f'{config.data.format!r} gives none; choose another task or data.format'
        )


def _check_columns(model: ConfigDict, columns: int) -> None:
    """Encodings in two dimensions must know the width of the grid of patches."""
    layers = (*layer_specs(model), *encoder_specs(model))
    for spec in dict.fromkeys([model.position, *(layer['position'] for layer in layers)]):
        fields = {'max_length': model.max_length, 'bidirectional': False}
        theirs = make(POSITIONS, spec, 'model.position', **fields).columns
        if columns and theirs not in (0, columns):
            raise UserError(
                f'model.position={spec!r} counts {theirs} columns, but the images have rows of '
                f'{columns} patches; set columns={columns}'
            )


def _either(kinds: tuple[str, ...]) -> str:
    return ' or '.join(KINDS[kind] for kind in kinds)
