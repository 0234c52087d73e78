"""Whether the data, the task, the model and what is trained of it fit each other."""

import re
from typing import Any

import jax
import numpy as np

from bigmodel import params as params_lib
from bigmodel.config import ConfigDict
from bigmodel.data.draws import Draws
from bigmodel.data.formats import FORMATS, build_format
from bigmodel.data.mixture import configs_of
from bigmodel.data.pipeline import Data
from bigmodel.data.sources import ROW_SOURCES
from bigmodel.errors import UserError
from bigmodel.layers.inputs import INPUTS
from bigmodel.layers.masks import MASKS
from bigmodel.layers.matmuls import EXCLUDED, MATMULS
from bigmodel.layers.positions import POSITIONS
from bigmodel.models.adapters import KEY as ADAPTER
from bigmodel.models.heads import HEADS, Outputs, heads_of, parts_of
from bigmodel.models.model import Model, apply
from bigmodel.models.stack import encoder_specs, layer_specs
from bigmodel.pipelines import Plan
from bigmodel.sharding import Sharding
from bigmodel.specs import make, parse
from bigmodel.tasks.build import TASKS
from bigmodel.tasks.task import KINDS, Task

# Packings.
OF_ONE_TASK = {packing for task in TASKS.values() for packing in (task.packing, task.windows)} - {
    ''
}
MOST_ROWS = 64  # that are read to see whether there is something to learn


def check_format(config: ConfigDict, task: Task) -> None:
    """Raises UserError when data.format does not teach what the task learns; reads no data."""
    for name, data_config in configs_of(config.data).items():
        one = config.copy_and_resolve_references()
        one.data = data_config
        try:
            _check_format(one, task)
        except UserError as e:
            raise UserError(f'data.mixture: {name}: {e}' if name else str(e)) from e


def _check_format(config: ConfigDict, task: Task) -> None:
    if parse(config.data.source, 'data.source').name in ROW_SOURCES:
        if task.learns not in ('', 'class'):
            raise _needs_format(config, task, f'data.source={config.data.source!r} has none')
        return
    format = build_format(config.data.format)
    if task.learns and format.teaches != task.learns:
        raise _needs_format(config, task, f'not {config.data.format!r}')
    if format.group != task.group:
        reads = f'{task.group} documents' if task.group > 1 else 'one document'
        fix = 'give both the same group=' if task.group > 1 else 'choose another'
        raise UserError(
            f'task={config.task!r} reads {reads} of an example, but data.format='
            f'{config.data.format!r} makes {format.group}; {fix}'
        )
    packing = parse(config.data.packing, 'data.packing').name
    own = task.packing or task.windows
    if packing != own and (task.packing or packing in OF_ONE_TASK):
        raise UserError(
            f'task={config.task!r} does not read rows of data.packing={config.data.packing!r}; '
            f'set it to {task.packing or "another"}'
        )
    fitting = [name for name in ('pad', task.windows) if name]
    if task.whole_documents and packing not in fitting:
        raise UserError(
            f'task={config.task!r} needs whole documents, one a row: set data.packing='
            f'{" or ".join(fitting)}, not {config.data.packing!r}'
        )


def _needs_format(config: ConfigDict, task: Task, problem: str) -> UserError:
    fitting = [name for name, part in FORMATS.items() if part.teaches == task.learns]
    return UserError(
        f'task={config.task!r} needs data.format={" or ".join(fitting)}, which teach '
        f'{task.learns}; {problem}'
    )


def check_inputs(config: ConfigDict, task: Task, model: Model, data: Data) -> None:
    """Raises UserError for rows that the task or the model cannot read, before anything compiles.

    Reads a few rows.
    """
    row = data.batches.examples.take(np.zeros(1, np.int64))
    (kind,) = (k for k in KINDS if k in row)
    inputs = model.make_inputs()
    if kind not in task.reads:
        raise UserError(
            f'task={config.task!r} reads {_either(task.reads)}, but data.source='
            f'{config.data.source!r} gives {KINDS[kind]}; choose another task or source'
        )
    task.augment(row, Draws(np.zeros(1, np.uint64)))  # raises for rows that it cannot change
    if inputs.key != kind:
        fitting = [name for name, part in INPUTS.items() if part.key == kind]
        raise UserError(
            f'model.inputs={config.model.inputs!r} reads {KINDS[inputs.key]}, but data.source='
            f'{config.data.source!r} gives {KINDS[kind]}; set model.inputs to '
            f'{" or ".join(fitting)}'
        )
    layout = inputs.layout(row[kind].shape[1 + (task.group > 1) :])
    if layout.length != config.data.seq_len + task.extra_tokens:
        raise UserError(
            f'data.seq_len={config.data.seq_len}, but model.inputs={config.model.inputs!r} makes '
            f'{layout.length} tokens of each row; set data.seq_len={layout.length}'
        )
    _check_columns(config.model, layout.columns)
    if task.hides:
        inputs.check_hidden(task.hides, task.hides)
    if 'marks' in row and task.learns:
        _check_marks(config, task, data)


def _check_marks(config: ConfigDict, task: Task, data: Data) -> None:
    """Rows at even distances must have something to learn, which truncation may have cut off."""
    examples = data.batches.examples
    places = np.unique(np.linspace(0, len(examples) - 1, MOST_ROWS).astype(np.int64))
    if not examples.take(places)['marks'][..., min(task.extra_tokens, 1) :].any():
        raise UserError(
            f'task={config.task!r} learns {task.learns}, of which {len(places)} rows have no token '
            f'within data.seq_len={config.data.seq_len}; use a larger data.seq_len'
        )


def check_prompt(config: ConfigDict) -> None:
    """A prompt comes before a row, which must then be of one document."""
    prompted = parse(config.model.prompt, 'model.prompt').name != 'none'
    has_rows = parse(config.data.source, 'data.source').name in ROW_SOURCES
    alone = parse(config.data.packing, 'data.packing').name in ('windows', 'pad')
    if prompted and not has_rows and not alone:
        raise UserError(
            f'model.prompt={config.model.prompt!r} comes before one document, but data.packing='
            f"{config.data.packing!r} puts several into a row; use 'windows' or 'pad'"
        )


def check_masks(config: ConfigDict, task: Task, model: Model) -> None:
    """A task and a head must see what they need, and not what they predict."""
    specs = [layer['mask'] for layer in layer_specs(config.model)]
    masks = {spec: make(MASKS, spec, 'model.mask') for spec in specs}
    ahead = [spec for spec in masks if not masks[spec].causal]
    of_batch = [spec for spec in ahead if masks[spec].of_batch]
    leaks = [spec for spec in ahead if spec not in of_batch]
    if of_batch and not task.prefixed:
        raise UserError(
            f'task={config.task!r} marks no prefix, which model.mask={of_batch[0]!r} shows; '
            f"use 'causal', 'full' or 'prefix(length)', or task=prefix_lm"
        )
    if task.causal and leaks:
        fix = "'prefix'" if task.prefixed else "'causal' or 'window(size)'"
        raise UserError(
            f'task={config.task!r} predicts tokens that model.mask={leaks[0]!r} shows; use {fix}'
        )
    if task.two_sided and not ahead:
        raise UserError(
            f'task={config.task!r} predicts from both sides, of which model.mask='
            f'{specs[0]!r} shows one; use {"prefix" if task.prefixed else "full"!r}'
        )
    pools = [getattr(part, 'pool', '') for part in parts_of(model.make_head())]
    if not ahead and 'first' in pools:
        raise UserError(
            f'model.head={config.model.head!r} reads the first token, to which model.mask='
            f"{specs[0]!r} shows no other; use the mask 'full', or pool='last' or 'mean'"
        )


def check_head(config: ConfigDict, task: Task, built: Model, params: Any) -> None:
    """The task must fit the head, and an encoder where there is one."""
    model, heads = config.model, task.heads
    if tuple(head.predicts for head in heads_of(model.head)) != heads:
        raise UserError(
            f'task={config.task!r} needs model.head={_fitting(heads)}, not {model.head!r}'
        )
    if task.learns and model.ahead != 'none':
        raise UserError(
            f'model.ahead={model.ahead!r} learns all of a text, but task={config.task!r} '
            f"{task.learns} alone; set model.ahead='none'"
        )
    length, source_length = task.lengths(config.data.seq_len)
    if bool(source_length) != bool(model.encoder_depth):
        needs = "an encoder and model.cross='attention'" if source_length else 'no encoder'
        if task.either_way:
            needs += f', or decoder_only={bool(source_length)}'
        raise UserError(
            f'task={config.task!r} needs {needs}, but model.encoder_depth={model.encoder_depth}'
        )
    longest = max(length, source_length)
    # Rows of seq_len itself may be longer where a finished run is measured beyond its length.
    if longest > max(model.max_length, config.data.seq_len):
        raise UserError(
            f'task={config.task!r} makes rows of {longest} tokens, but model.max_length='
            f'{model.max_length}; set it to {longest}'
        )

    def run(params: Any) -> Outputs:
        inputs, source = built.example(length)
        return apply(built, params, inputs, source=source)

    jax.eval_shape(run, params)  # a part may refuse this length


def check_stages(config: ConfigDict, sharding: Sharding) -> Plan | None:
    """The plan of the layers' pipeline, if there is one, for the rows of a microbatch of
    `accumulate`; raises UserError where they cannot go through one.
    """
    if sharding.ways('layers') == 1:
        return None
    model = config.model
    if model.share != 'none':
        raise UserError(
            f'sharding.rules={config.sharding.rules!r} split layers over stages, which with '
            f"model.share={model.share!r} have the same parameters; set model.share='none', or "
            f'leave pipeline out of the rules'
        )
    if config.optimizer.last_layers:
        raise UserError(
            f'optimizer.last_layers={config.optimizer.last_layers} are all on the last stages of '
            f'sharding.rules={config.sharding.rules!r}; set it to 0, or leave pipeline out of the '
            f'rules'
        )
    return plan_stages(model, config, sharding)


def plan_stages(model: ConfigDict, config: ConfigDict, sharding: Sharding) -> Plan:
    """How the rows of a microbatch of `config` go through the stages of the layers of `model`."""
    rows = config.data.batch_size // config.accumulate
    if model.encoder_depth:
        try:
            sharding.plan(rows, model.encoder_depth // len(encoder_specs(model)))
        except UserError as e:
            raise UserError(f'of the encoder: {e}') from e
    return sharding.plan(rows, model.depth // len(layer_specs(model)))


def check_adapter(config: ConfigDict, trained: Any) -> None:
    """What an adapter changes must not be trained beside it."""
    trained = params_lib.flatten(trained)
    for path in trained:
        base = path.partition(f'{ADAPTER}/')[2].rpartition('/')[0]
        if any(trained[p] for p in trained if base and f'{p}/'.startswith(f'{base}/')):
            raise UserError(
                f'model.adapter={config.model.adapter!r} adapts {base}, which '
                f"optimizer.train trains; set optimizer.train=(('adapter/.*', True), "
                f"('head/.*', True), ('.*', False))"
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


def _fitting(heads: tuple[str, ...]) -> str:
    """The heads that predict this, in words; of two tasks together."""
    names = [
        ' or '.join(repr(name) for name, head in HEADS.items() if head.predicts == predicts)
        for predicts in heads
    ]
    return names[0] if len(names) == 1 else f'joint(first={names[0]}, second={names[1]})'


def check_matmul(model: ConfigDict, params: Any) -> None:
    """Raises UserError when `full` of model.matmul names no parameter, as a misspelt regex does, or
    leaves no weight to quantise.
    """
    matmul, what = make(MATMULS, model.matmul, 'model.matmul'), f'model.matmul={model.matmul!r}'
    paths = params_lib.flatten(params)
    for pattern in set(matmul.full) - set(EXCLUDED):
        if not any(re.match(pattern, path) for path in paths):
            raise UserError(
                f'{what}: {pattern!r} matches no parameter from its start; `launch.py show` lists '
                f'their paths'
            )
    weights = [path.removesuffix('/codes') for path in paths]  # of a base in few bits
    weights = [path for path in weights if path.endswith(('/weight', '/table'))]
    if matmul.full and not any(matmul.quantises(path) for path in weights):
        raise UserError(f"{what} leaves all weights in full: set it to 'full'")
