"""The slots of a config that hold specs: their tables, and configs whose specs are spelt out."""

from collections.abc import Mapping
from typing import Any

from bigmodel import config as config_lib
from bigmodel.config import ConfigDict
from bigmodel.data.formats import FORMATS
from bigmodel.data.packing import PACKINGS
from bigmodel.data.sources import SOURCES
from bigmodel.data.tokenizers import TOKENIZERS
from bigmodel.models.build import SLOTS
from bigmodel.models.remat import REMAT
from bigmodel.models.stack import encoder_specs, layer_specs
from bigmodel.pipelines import PIPELINES
from bigmodel.specs import spelt_out
from bigmodel.tasks.build import TASKS
from bigmodel.training.directions import OPTIMIZERS
from bigmodel.training.loss_scale import LOSS_SCALES
from bigmodel.training.schedules import SCHEDULES

TABLES: dict[str, Mapping[str, Any]] = {
    f'model.{name}': table for name, table in SLOTS.items() if name not in ('activation', 'weights')
} | {
    'model.remat': REMAT,
    'task': TASKS,
    'optimizer.name': OPTIMIZERS,
    'optimizer.loss_scale': LOSS_SCALES,
    'schedule': SCHEDULES,
    'data.source': SOURCES,
    'data.format': FORMATS,
    'data.tokenizer': TOKENIZERS,
    'data.packing': PACKINGS,
    'sharding.pipeline': PIPELINES,
}
_KNOWN = (
    'logit_scale',
    'init',
    'dtype',
    'depth',
    'vocab_size',
    'num_ids',
    'num_labels',
    'max_length',
)
_HEADS = ('num_heads', 'num_kv_heads', 'head_dim')
_ATTENTION = (*_HEADS, 'mask', 'position', 'position_key', 'kernel', 'output_dropout')
# The arguments that a part gets from its builder, so that no spec may set them. A test builds a run
# and compares this with what `bind` was given.
GIVEN: dict[str, tuple[str, ...]] = {
    'model.inputs': (*_KNOWN, 'width'),
    'model.prompt': (*_KNOWN, 'width'),
    'model.position': (*_KNOWN, 'bidirectional'),
    'model.mask': (),
    'model.norm': ('axis',),
    'model.ffn': (*_KNOWN, 'dropout'),
    'model.mixer': (*_KNOWN, *_ATTENTION),
    'model.cross': (*_KNOWN, *_ATTENTION),
    'model.block': (*_KNOWN, 'mixers', 'ffn', 'norm'),
    'model.head': _KNOWN,
    'model.ahead': (*_KNOWN, 'block', 'norm'),
    'model.adapter': (),
    'model.init': ('depth', 'width'),
    'model.kernel': (),
    'model.remat': (),
    'model.matmul': (),
    'weights': ('num_heads', 'max_length'),
    'task': (),
    'optimizer.name': ('axes',),
    'optimizer.loss_scale': (),
    'schedule': ('step', 'num_steps'),
    'data.source': ('split', 'path', 'cache_dir'),
    'data.format': (),
    'data.tokenizer': ('training',),
    'data.packing': ('store', 'length', 'overlap'),
    'sharding.pipeline': (),
}
_NORMS = {'model.embed_norm': 'model.norm', 'model.final_norm': 'model.norm'}


def config_spelt_out(config: ConfigDict) -> dict[str, Any]:
    """The dotted keys of a resolved config, its specs with all arguments that they leave out, so
    that two which only look different are the same.
    """
    flat = dict(config_lib.flatten(config_lib.to_dict(config)))
    for key in (*TABLES, *_NORMS):
        flat[key] = _spelt_out(_NORMS.get(key, key), flat[key])
    for key, layers in (('pattern', layer_specs), ('encoder_pattern', encoder_specs)):
        flat[f'model.{key}'] = [
            {slot: _spelt_out(f'model.{slot}', text) for slot, text in specs.items()}
            for specs in layers(config.model)
        ]
    return flat


def _spelt_out(key: str, text: str) -> Any:
    return spelt_out(TABLES[key], text, key, GIVEN[key]) if text else text
