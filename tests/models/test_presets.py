"""Sizes against published parameter counts; the golden table of the default model."""

import pathlib

import jax
import numpy as np
import pytest

from bigmodel import params as params_lib
from bigmodel.errors import UserError
from bigmodel.models import presets
from bigmodel.models.build import build_model
from bigmodel.models.counts import flops_per_row
from bigmodel.models.presets import PRESETS
from bigmodel.training.state import abstract_params
from experiments import defaults
from tests.golden import make_tiny_parameters


def masked_lm_parameters(width: int, vocab_size: int) -> int:
    """What a masked LM has beyond the published count of a BERT, which is of the encoder alone."""
    pooler = width * width + width  # for the prediction of the next sentence, which is not built
    token_types = 2 * width  # nor are these
    transform = width * width + width + 2 * width  # dense, norm
    return transform + vocab_size - pooler - token_types


# Size -> (vocabulary, context, parameters): of the released GPT-2, BERT and T5 checkpoints, of
# Llama 7B, 2 70B, 3 and 3.2 1B; of ViTs with 1,000 labels and no vocabulary (22.05M and 86.57M), as
# Hugging Face's models of the same shape have (tests/golden/make_vit_values.py). Theirs have a
# position for the class token, ours has a row of the table that is never read. Rows of our own are
# held by the golden table and by their order.
PUBLISHED = {
    'gpt2-124m': (50257, 1024, 124_439_808),
    'gpt2-355m': (50257, 1024, 354_823_168),
    'gpt2-774m': (50257, 1024, 774_030_080),
    'gpt2-1558m': (50257, 1024, 1_557_611_200),
    'bert-base': (30522, 512, 109_482_240 + masked_lm_parameters(768, 30522)),
    'bert-large': (30522, 512, 335_141_888 + masked_lm_parameters(1024, 30522)),
    't5-small': (32128, 512, 60_506_624),
    't5-base': (32128, 512, 222_903_552),
    't5-v1_1-base': (32128, 512, 247_577_856),
    'llama-7b': (32000, 2048, 6_738_415_616),
    'llama-1b': (128256, 2048, 1_235_814_400),
    'llama3-8b': (128256, 8192, 8_030_261_248),
    'llama3-70b': (128256, 8192, 70_553_706_496),
    'llama3-405b': (128256, 8192, 405_853_388_800),
    'llama2-70b': (32000, 4096, 68_976_648_192),
    'vit-s16': (0, 197, 22_050_664),
    'vit-b16': (0, 197, 86_567_656),
}
VIT_VALUES = pathlib.Path(__file__).parents[1] / 'golden' / 'vit_values.npz'
LABELS = 1000  # for sizes whose head is a classifier
OURS = ('tiny', 'mini', 'small')
LIKE = ('deepseek-moe-16b',)  # whose first layer differs from the published one's


def boxed_params(size: str, vocab_size: int, seq_len: int) -> tuple:
    config = defaults.get_config()
    config.model.size = size
    config.model.vocab_size = vocab_size
    presets.resolve(config.model, seq_len)
    # Heads over a vocabulary need no labels, and ask for none.
    return config.model, abstract_params(build_model(config.model, 64, LABELS, 'cpu'))


def test_every_size_is_published_or_ours() -> None:
    assert {*PUBLISHED, *OURS, *LIKE} == set(PRESETS)


@pytest.mark.parametrize('size', PUBLISHED)
def test_parameter_count_is_the_published_one(size: str) -> None:
    vocab_size, context, count = PUBLISHED[size]
    assert params_lib.count(boxed_params(size, vocab_size, context)[1]) == count


@pytest.mark.parametrize('size', ['vit-s16', 'vit-b16'])
def test_parameter_count_of_a_vit_is_hugging_faces(size: str) -> None:
    with np.load(VIT_VALUES) as values:
        assert PUBLISHED[size][2] == values[f'count/{size}']


def test_tiny_is_about_a_million_and_ours_grow() -> None:
    counts = [params_lib.count(boxed_params(size, 256, 256)[1]) for size in OURS]
    assert 0.5e6 < counts[0] < 2e6
    assert counts == sorted(counts)


def test_table_of_the_default_model_is_golden() -> None:
    """Paths are API: checkpoints, regex lists. To change them on purpose, write the file again."""
    assert make_tiny_parameters.table() == make_tiny_parameters.PATH.read_text()


@pytest.mark.parametrize('size', PRESETS)
def test_entries_of_a_size_can_be_overridden(size: str) -> None:
    config = defaults.get_config()
    config.model.update({'size': size, 'depth': 3, 'num_kv_heads': 1, 'position': 'alibi'})
    presets.resolve(config.model, 77)
    model = config.model
    assert (model.depth, model.num_kv_heads, model.position) == (3, 1, 'alibi')
    assert model.width == PRESETS[size]['width']
    assert model.max_length == PRESETS[size].get('max_length', 77)
    assert model.head_dim == model.width // model.num_heads


def test_head_dim_need_not_divide_the_width_when_it_is_given() -> None:
    config = defaults.get_config()
    config.model.update({'width': 100, 'num_heads': 3, 'head_dim': 8})
    presets.resolve(config.model, 16)
    boxed = abstract_params(build_model(config.model, 64, 0, 'cpu'))
    mixer = boxed['backbone']['layers']['block_0']['mixer']
    assert mixer['q']['weight'].value.shape == (4, 100, 3, 8)


def test_a_head_count_of_zero_ways_is_refused() -> None:
    config = defaults.get_config()
    config.model.num_heads = -4
    with pytest.raises(UserError, match='num_heads must not be negative'):
        presets.resolve(config.model, 16)


def test_flops_are_six_a_weight_and_twelve_for_attention() -> None:
    """Chowdhery et al. 2022, appendix B, by hand for GPT-2 124M; its tied table counts once."""
    model, boxed = boxed_params('gpt2-124m', 50257, 1024)
    weights = 12 * 12 * 768**2 + 50257 * 768
    assert flops_per_row(model, boxed, 1024) == 1024 * (6 * weights + 12 * 12 * 768 * 1024)


def test_flops_of_an_untied_head_count_its_own_weight() -> None:
    model, boxed = boxed_params('llama-7b', 32000, 2048)
    weights = 32 * (4 * 4096**2 + 3 * 4096 * 11008) + 4096 * 32000
    assert flops_per_row(model, boxed, 2048) == 2048 * (6 * weights + 12 * 32 * 4096 * 2048)


def test_flops_of_experts_are_those_that_a_token_meets() -> None:
    """Layers of a pattern by themselves: a dense one, then 2 of 8 experts beside a shared one."""
    moe = 'moe(experts=8, top_k=2, shared=1, hidden=32)'
    config = defaults.get_config()
    pattern = ('layer(ffn="gated(hidden=96)")', f'layer(ffn="{moe}")')
    config.model.update({'width': 64, 'num_heads': 2, 'depth': 4, 'pattern': pattern})
    config.model.update({'vocab_size': 64, 'mixer': 'attention'})
    presets.resolve(config.model, 16)
    boxed = abstract_params(build_model(config.model, 64, 0, 'cpu'))
    dense = 4 * 4 * 64 * 64 + 4 * 3 * 64 * 96 + 64 * 64  # mixers, three experts' width, head
    weights = dense + 2 * 64 * 8  # the routers
    assert flops_per_row(config.model, boxed, 16) == 16 * (6 * weights + 12 * 4 * 64 * 16)
    experts = 2 * 3 * 64 * 32 * 6  # those that one token does not meet
    assert params_lib.count(boxed) == weights + experts + 9 * 64  # norms


def test_shared_experts_cost_what_they_cost_in_layers_of_their_own() -> None:
    """One router beside the experts' matrices: every token meets the whole of it."""

    def flops(share: str) -> int:
        config = defaults.get_config()
        config.model.update({'width': 64, 'num_heads': 2, 'depth': 4, 'vocab_size': 64})
        config.model.update({'ffn': 'moe(experts=8, top_k=2, hidden=32)', 'share': share})
        presets.resolve(config.model, 16)
        boxed = abstract_params(build_model(config.model, 64, 0, 'cpu'))
        return flops_per_row(config.model, boxed, 16)

    assert flops('all') == flops('none')


def test_labels_are_predicted_once_a_row() -> None:
    model = boxed_params('vit-s16', 0, 197)[0]

    def flops(num_labels: int) -> int:
        boxed = abstract_params(build_model(model, 0, num_labels, 'cpu'))
        return flops_per_row(model, boxed, 197)

    assert flops(1000) - flops(10) == 6 * 990 * 384


@pytest.mark.parametrize(
    ('mixer', 'products'), [('attention', 2), ('long_conv', 1), ('rglru', 0), ('differential', 2)]
)
def test_products_over_pairs_are_counted_beside_the_weights(mixer: str, products: int) -> None:
    config = defaults.get_config()
    config.model.update({'width': 64, 'num_heads': 2, 'depth': 4, 'vocab_size': 64})
    config.model.update({'mixer': mixer, 'position': 'none'})
    presets.resolve(config.model, 16)
    boxed = abstract_params(build_model(config.model, 64, 0, 'cpu'))
    one, two = (flops_per_row(config.model, boxed, length) for length in (16, 32))
    # What grows with the length itself cancels out.
    assert two - 2 * one == 6 * products * 4 * 64 * (32**2 - 2 * 16**2)


def test_nothing_is_computed_for_a_table() -> None:
    leaves = jax.tree.leaves(boxed_params('llama-7b', 32000, 2048)[1])
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
