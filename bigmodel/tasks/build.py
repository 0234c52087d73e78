"""The table of tasks."""

from bigmodel.specs import make
from bigmodel.tasks.causal_lm import CausalLM
from bigmodel.tasks.classification import Classification
from bigmodel.tasks.distillation import Distillation
from bigmodel.tasks.extractive_qa import ExtractiveQA
from bigmodel.tasks.instruction import Instruction
from bigmodel.tasks.joint import Joint
from bigmodel.tasks.masked_images import MaskedImages
from bigmodel.tasks.masked_lm import MaskedLM
from bigmodel.tasks.multiple_choice import MultipleChoice
from bigmodel.tasks.preference import DPO, SimPO
from bigmodel.tasks.prefix_lm import PrefixLM
from bigmodel.tasks.regression import Regression
from bigmodel.tasks.replaced_tokens import ReplacedTokens
from bigmodel.tasks.seq2seq import Seq2Seq
from bigmodel.tasks.span_corruption import SpanCorruption
from bigmodel.tasks.task import Task
from bigmodel.tasks.token_classification import TokenClassification
from bigmodel.tasks.ul2 import UL2

TASKS = {
    'causal_lm': CausalLM,
    'prefix_lm': PrefixLM,
    'masked_lm': MaskedLM,
    'replaced_tokens': ReplacedTokens,
    'masked_images': MaskedImages,
    'span_corruption': SpanCorruption,
    'ul2': UL2,
    'classification': Classification,
    'token_classification': TokenClassification,
    'regression': Regression,
    'extractive_qa': ExtractiveQA,
    'multiple_choice': MultipleChoice,
    'instruction': Instruction,
    'seq2seq': Seq2Seq,
    'dpo': DPO,
    'simpo': SimPO,
    'distillation': Distillation,
    'joint': Joint,
}


def build_task(spec: str) -> Task:
    """The task that `config.task` names."""
    return make(TASKS, spec, 'task')
