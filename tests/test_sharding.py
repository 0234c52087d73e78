"""The same losses come out of every mesh; programs are really split; mistakes are errors."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec as P

from bigmodel import params as params_lib
from bigmodel.data.draws import Draws
from bigmodel.data.plain_tokenizers import CharTokenizer
from bigmodel.errors import UserError
from bigmodel.layers.ffn import FFNS
from bigmodel.layers.mixers import MIXERS
from bigmodel.layers.moe import Mixture
from bigmodel.models import presets
from bigmodel.models.build import build_model
from bigmodel.models.model import apply
from bigmodel.models.presets import PRESETS
from bigmodel.rules import MESH_AXES, rules_of
from bigmodel.sharding import Sharding, constrain, inactive, is_box, make_sharding
from bigmodel.tasks.build import build_task
from bigmodel.tasks.task import Task
from bigmodel.training.batches import put_batch
from bigmodel.training.directions import OPTIMIZERS
from bigmodel.training.optimizers import build_optimizer
from bigmodel.training.state import State, abstract_params, init_state, state_sharding
from bigmodel.training.step import make_train_step
from experiments import defaults
from tests.small import (
    VOCAB,
    assert_trees_close,
    quick_jit,
    random_params,
    random_tokens,
    slots,
    small_config,
    small_model,
)

LENGTH, ROWS, STEPS = 12, 8, 3
# Rules -> a mesh of all eight devices that uses them. Others: tests/test_parallelism.py.
MESHES = {
    'dp': 'data=8',
    'fsdp': 'data=2,fsdp=4',
    'tensor': 'data=4,tensor=2',
    'fsdp_tensor': 'data=2,fsdp=2,tensor=2',
}
RULES = tuple(MESHES)


@dataclasses.dataclass
class Run:
    """Three compiled steps of a small model on a mesh."""

    sharding: Sharding
    losses: list[float]
    params: Any
    opt_state: Any
    hlo: str


def batches(task: Task) -> list[dict[str, np.ndarray]]:
    """Rows of unequal length, so that devices hold unequal weights."""
    found = []
    tokenizer = CharTokenizer(''.join(chr(65 + i) for i in range(VOCAB - task.extra_ids)))
    for seed in range(STEPS):
        tokens = random_tokens(ROWS, LENGTH + 1, seed)
        lengths = np.array([13, 2, 13, 5, 1, 13, 3, 8])
        segments = (slots(*tokens.shape) < lengths[:, None]).astype(np.int32)
        rows = {'tokens': tokens, 'positions': slots(*tokens.shape), 'segments': segments}
        draws = Draws(np.arange(ROWS, dtype=np.uint64))
        found.append(task.prepare(rows, draws, tokenizer))
    return found


def pictures() -> list[dict[str, np.ndarray]]:
    """Images of 3×4 patches of 2 pixels, with a label each."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (STEPS, ROWS, 6, 8, 3)).astype(np.uint8)
    labels = rng.integers(0, 4, (STEPS, ROWS)).astype(np.int32)
    return [{'image': x, 'label': y} for x, y in zip(images, labels, strict=True)]


def train(
    sharding: Sharding,
    optimizer: str = 'adamw',
    accumulate: int = 1,
    task: str = 'causal_lm',
    rows: list[dict[str, np.ndarray]] | None = None,
    **model: Any,
) -> Run:
    config = small_config(LENGTH, **model)
    config.optimizer.name = optimizer
    config.schedule = 'constant'
    built = small_model(LENGTH, 4, **model)
    boxed = abstract_params(built)
    opt, hparams = build_optimizer(config, boxed)
    shapes = jax.eval_shape(lambda h: init_state(built, opt, h), hparams)
    places = state_sharding(sharding, boxed, shapes)
    step = quick_jit(
        make_train_step(built, build_task(task), opt, accumulate),
        out_shardings=(places, None),
    )
    losses = []
    with sharding.active():
        params = jax.device_put(random_params(built), places.params)
        moments = quick_jit(opt.init, out_shardings=places.opt_state)(params, hparams)
        state = State(jax.device_put(jnp.int32(0), sharding.replicated()), params, moments)
        rows = rows or batches(build_task(task))
        placed = [put_batch(b, sharding) for b in rows]
        compiled = step.lower(state, placed[0], hparams).compile()
        for batch in placed:
            state, metrics = compiled(state, batch, hparams)
            losses.append(metrics['loss'].value())
    return Run(sharding, losses, state.params, state.opt_state, compiled.as_text())


@pytest.fixture(scope='module')
def runs() -> dict[str, Run]:
    """One run for each rule set, on eight devices, and one on a single device."""
    found = {rules: train(make_sharding(MESHES[rules], rules)) for rules in RULES}
    return found | {'one': train(make_sharding('data=1', 'dp', jax.devices()[:1]))}


@pytest.mark.parametrize('rules', RULES)
def test_losses_and_parameters_are_those_of_one_device(rules: str, runs: dict[str, Run]) -> None:
    # The same float32 sums in another order.
    np.testing.assert_allclose(runs[rules].losses, runs['one'].losses, rtol=2e-5)
    # Adam divides by the gradient's size, so a gradient that is nearly 0 turns rounding into up
    # to one rate (1e-3): almost all entries agree to 1e-5, none differs by a twentieth of a step.
    assert_trees_close(runs[rules].params, runs['one'].params, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize('rules', RULES)
def test_parameters_and_moments_lie_where_the_rules_say(rules: str, runs: dict[str, Run]) -> None:
    run = runs[rules]
    sharding = run.sharding
    boxed = abstract_params(small_model(LENGTH))
    params, moments = params_lib.flatten(run.params), params_lib.flatten(run.opt_state)
    split = 0
    for path, place in params_lib.flatten(sharding.of_params(boxed)).items():
        leaves = [params[path], *(m for p, m in moments.items() if p.endswith(path))]
        assert len(leaves) == 3
        for leaf in leaves:
            assert leaf.sharding.is_equivalent_to(place, leaf.ndim), path
            assert leaf.addressable_shards[0].data.shape == place.shard_shape(leaf.shape)
        split += place.shard_shape(params[path].shape) != params[path].shape
    assert (split == 0) == (rules == 'dp')


def test_compiled_programs_have_the_collectives_of_their_rules(runs: dict[str, Run]) -> None:
    """fsdp gathers weights, dp only sums gradients; one device talks to nobody."""
    count = {
        r: {op: run.hlo.count(f'{op}(') for op in ('all-gather', 'all-reduce')}
        for r, run in runs.items()
    }
    assert count['one'] == {'all-gather': 0, 'all-reduce': 0}
    assert count['dp']['all-gather'] == 0
    assert count['dp']['all-reduce'] > 0
    assert count['fsdp']['all-gather'] >= 7  # each weight of a block
    assert count['fsdp_tensor']['all-gather'] > 0
    assert count['tensor']['all-reduce'] > count['dp']['all-reduce']


@pytest.mark.parametrize('rules', RULES)
def test_activations_are_constrained_in_the_program(rules: str) -> None:
    """After embedding, after each block (one body for all) and at the logits."""
    model = small_model(LENGTH)
    sharding = make_sharding(MESHES[rules], rules)
    tokens = jnp.zeros((ROWS, LENGTH), jnp.int32)
    with sharding.active():
        text = (
            jax.jit(lambda p, t: apply(model, p, t)).lower(random_params(model), tokens).as_text()
        )
    # The token table is constrained as well.
    assert text.count('sdy.sharding_constraint') >= 4
    assert text.count('"data"') > 0


@pytest.mark.parametrize('name', [n for n in OPTIMIZERS if n != 'adamw'])
def test_every_other_optimizer_runs_split(name: str) -> None:
    """Their states differ in shape; muon's products are over split dims."""
    one, two = (
        train(make_sharding(mesh, rules, devices), name)
        for mesh, rules, devices in (
            ('data=1', 'dp', jax.devices()[:1]),
            ('fsdp=2,tensor=2', 'fsdp_tensor', jax.devices()[:4]),
        )
    )
    np.testing.assert_allclose(two.losses, one.losses, rtol=1e-4)


@pytest.mark.parametrize('rules', RULES)
@pytest.mark.parametrize('mixer', MIXERS)
def test_every_mixer_has_a_place_for_each_parameter(mixer: str, rules: str) -> None:
    """Split inputs or outputs for most matrices; no mesh axis twice in one parameter."""
    # As many key heads as heads: latent attention has no groups of them.
    boxed = abstract_params(small_model(LENGTH, mixer=mixer, position='none', num_kv_heads=4))
    sharding = make_sharding(MESHES[rules], rules)
    own = boxed['backbone']['layers']['block_0']['mixer']
    places = params_lib.flatten(sharding.of_params(own))
    split = [path for path, place in places.items() if any(place.spec)]
    assert bool(split) == (rules != 'dp')
    assert rules == 'dp' or {'out/weight'} <= set(split)


def test_accumulation_is_exact_on_a_mesh(runs: dict[str, Run]) -> None:
    got = train(make_sharding('data=4', 'dp', jax.devices()[:4]), accumulate=2)
    np.testing.assert_allclose(got.losses, runs['one'].losses, rtol=2e-5)


def test_tied_tables_and_biases_run_split() -> None:
    shape = {
        'position': 't5',
        'mixer': 'attention(bias=True, out_bias=True, qk_norm="rmsnorm")',
        'ffn': 'mlp(bias=True)',
        'norm': 'layernorm',
        'head': 'lm(tied=False)',
    }
    one = train(make_sharding('data=1', 'dp', jax.devices()[:1]), **shape)
    two = train(make_sharding(MESHES['fsdp_tensor'], 'fsdp_tensor'), **shape)
    np.testing.assert_allclose(two.losses, one.losses, rtol=2e-5)


def test_the_transform_of_a_masked_lms_head_runs_split() -> None:
    one = train(make_sharding('data=1', 'dp', jax.devices()[:1]), head='mlm')
    two = train(make_sharding(MESHES['fsdp_tensor'], 'fsdp_tensor'), head='mlm')
    np.testing.assert_allclose(two.losses, one.losses, rtol=2e-5)


@pytest.mark.parametrize('rules', RULES)
def test_experts_run_split(rules: str) -> None:
    """Losses of the router are means over all devices."""
    shape = {'ffn': 'moe(experts=4, shared=1, choice_bias=1.0)'}
    one = train(make_sharding('data=1', 'dp', jax.devices()[:1]), **shape)
    two = train(make_sharding(MESHES[rules], rules), **shape)
    np.testing.assert_allclose(two.losses, one.losses, rtol=2e-5)


def test_images_run_split() -> None:
    shape = {
        'inputs': 'patches(size=2, class_token=True)',
        'position': 'learned_2d(columns=4)',
        'mask': 'full',
        'head': 'classifier(pool="first")',
    }
    options = {'task': 'classification', 'rows': pictures()} | shape
    one = train(make_sharding('data=1', 'dp', jax.devices()[:1]), **options)
    two = train(make_sharding(MESHES['fsdp_tensor'], 'fsdp_tensor'), **options)
    assert one.losses[0] != one.losses[2]
    np.testing.assert_allclose(two.losses, one.losses, rtol=2e-5)


def test_hidden_patches_run_split() -> None:
    shape = {
        'inputs': 'patches(size=2, class_token=True, mask_token=True)',
        'position': 'learned_2d(columns=4)',
        'mask': 'full',
        'head': 'pixels',
    }
    task, draws = build_task('masked_images(size=2)'), Draws(np.arange(ROWS, dtype=np.uint64))
    rows = [task.prepare(batch, draws, CharTokenizer('a')) for batch in pictures()]
    options = {'task': 'masked_images(size=2)', 'rows': rows} | shape
    one = train(make_sharding('data=1', 'dp', jax.devices()[:1]), **options)
    two = train(make_sharding(MESHES['fsdp_tensor'], 'fsdp_tensor'), **options)
    assert one.losses[0] != one.losses[2]
    np.testing.assert_allclose(two.losses, one.losses, rtol=2e-5)


MIXTURES = {
    'moe': {'ffn': 'moe(experts=4)'},
    'switch': {'ffn': 'switch(experts=4, top_k=2, capacity=0.8)'},
    'expert_choice': {'ffn': 'expert_choice(experts=4)', 'mask': 'full'},
}


def test_every_mixture_is_run_split() -> None:
    assert set(MIXTURES) == {name for name, ffn in FFNS.items() if issubclass(ffn, Mixture)}


@pytest.mark.parametrize('name', MIXTURES)
def test_experts_serve_the_tokens_of_their_own_device(name: str) -> None:
    """No activation crosses devices: nothing but the sums of gradients and of means does."""
    one = train(make_sharding('data=1', 'dp', jax.devices()[:1]), **MIXTURES[name])
    two = train(make_sharding('data=8', 'dp'), **MIXTURES[name])
    np.testing.assert_allclose(two.losses, one.losses, rtol=2e-5)
    assert 'all-reduce(' in two.hlo
    for collective in ('all-gather', 'all-to-all', 'collective-permute', 'reduce-scatter'):
        assert f'{collective}(' not in two.hlo, collective


@pytest.mark.parametrize('position', ['fire', 'cope', 'learned_2d'])
def test_encodings_with_tables_run_split(position: str) -> None:
    one = train(make_sharding('data=1', 'dp', jax.devices()[:1]), position=position)
    two = train(make_sharding(MESHES['fsdp_tensor'], 'fsdp_tensor'), position=position)
    np.testing.assert_allclose(two.losses, one.losses, rtol=2e-5)


@functools.cache
def one_t5() -> Run:
    return train(make_sharding('data=1', 'dp', jax.devices()[:1]), **T5)


T5 = {
    'task': 'span_corruption(sentinels=4)',
    'size': 't5-small',
    'encoder_depth': 2,
    'position': 't5(num_buckets=8, max_distance=10)',
}


@pytest.mark.parametrize('rules', RULES)
def test_encoder_decoders_run_split(rules: str) -> None:
    """Sources are split with their rows; recomputed and in microbatches where those divide."""
    changes = {'tensor': {'accumulate': 2}, 'fsdp_tensor': {'remat': 'full'}}.get(rules, {})
    run = train(make_sharding(MESHES[rules], rules), **T5, **changes)
    np.testing.assert_allclose(run.losses, one_t5().losses, rtol=2e-5)
    assert_trees_close(run.params, one_t5().params, rtol=1e-4, atol=5e-5)
    places = params_lib.flatten(jax.tree.map(lambda x: any(x.sharding.spec), run.params))
    parts = [p for p in places if '/cross/' in p or p.startswith('encoder/')]
    weights = [p for p in parts if p.endswith('weight')]
    assert len(weights) == 4 + 6 and all(places[p] == (rules != 'dp') for p in weights)


# Small beside the rest, and on axes that tensor rules leave whole.
WHOLE = ('inputs/patch/weight', 'head/out/weight')
ROUTER = 'ffn/router/weight'
ODD = {size for size, row in PRESETS.items() if row['num_heads'] % 2}


def boxed_preset(size: str) -> Any:
    config = defaults.get_config()
    config.model.size = size
    presets.resolve(config.model, 512)
    vocab_size = config.model.vocab_size or 50257
    return abstract_params(build_model(config.model, vocab_size, 1000, 'cpu'))


def sharding_of_twos(rules: str) -> Sharding:
    """Every mesh axis that the rules use has size 2."""
    named = [r for r in rules_of(rules).values() if r]
    used = {axis for r in named for axis in ((r,) if isinstance(r, str) else r)}
    mesh = ','.join(f'{axis}=2' for axis in MESH_AXES if axis in used)
    return make_sharding(mesh, rules, jax.devices()[: 2 ** len(used)])


@pytest.mark.parametrize('rules', RULES)
@pytest.mark.parametrize('size', sorted(set(PRESETS) - ODD))
def test_every_parameter_of_every_size_can_be_split(size: str, rules: str) -> None:
    boxed, sharding = boxed_preset(size), sharding_of_twos(rules)
    shapes = params_lib.flatten(jax.tree.map(lambda b: b.value, boxed, is_leaf=is_box))
    for path, place in params_lib.flatten(sharding.of_params(boxed)).items():
        is_split = place.shard_shape(shapes[path].shape) != shapes[path].shape
        small = path.endswith(ROUTER) or (size.startswith('vit') and path in WHOLE)
        if rules == 'dp' or (rules == 'tensor' and small):
            assert not is_split, path
        elif path.endswith(('weight', 'tokens/table')):
            assert is_split, path


def test_odd_heads_are_refused_with_the_parameter_and_the_fix() -> None:
    """GPT-2 1558M has 25 heads."""
    assert {'gpt2-1558m'} == ODD
    message = r"mixer/.*: dim '(kv_)?heads' of size 25 cannot be split 2 ways over mesh axis tensor"
    with pytest.raises(UserError, match=message):
        sharding_of_twos('tensor').of_params(boxed_preset('gpt2-1558m'))
    sharding_of_twos('fsdp').of_params(boxed_preset('gpt2-1558m'))


@pytest.mark.parametrize(
    ('mesh', 'sizes'),
    [
        ('data=-1', (8, 1)),
        ('', (1, 1)),
        ('data=2, fsdp=-1', (2, 4)),
        ('fsdp=2,data=-1', (4, 2)),
        ('data=2', (2, 1)),
        ('fsdp=8', (1, 8)),
    ],
)
def test_mesh_sizes(mesh: str, sizes: tuple[int, ...]) -> None:
    made = make_sharding(mesh, 'fsdp').mesh
    assert tuple(made.shape[a] for a in MESH_AXES) == (1, *sizes, 1, 1, 1)


@pytest.mark.parametrize(
    ('mesh', 'rules', 'message'),
    [
        ('dat=8', 'dp', "unknown mesh axis 'dat'. Did you mean 'data'"),
        ('data=8', 'ddp', "unknown sharding.rules 'ddp'. Did you mean 'dp'"),
        ('data', 'dp', "write 'data=2,tensor=4', or -1 for the rest"),
        ('data=two', 'dp', "write 'data=2,tensor=4'"),
        ('data=0', 'dp', "write 'data=2,tensor=4'"),
        ('data=-2', 'dp', "write 'data=2,tensor=4'"),
        ('data=--1', 'dp', "write 'data=2,tensor=4'"),
        ('data=2,data=4', 'dp', "'data' twice"),
        ('data=-1,fsdp=-1', 'fsdp', 'only one axis can be -1'),
        ('data=16', 'dp', 'needs 16 devices.*there are 8'),
        ('data=-1,fsdp=3', 'fsdp', 'needs 3 devices or a divisor; there are 8'),
        ('data=4,tensor=2', 'dp', "rules 'dp' place nothing on axis 'tensor'; they use: data"),
        ('data=-1,fsdp=2', 'tensor', "place nothing on axis 'fsdp'; they use: data, tensor"),
    ],
)
def test_bad_meshes_are_refused(mesh: str, rules: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_sharding(mesh, rules)


def box(shape: tuple[int, ...], *axes: str) -> Any:
    return {
        'layer': {'weight': nn.LogicallyPartitioned(jax.ShapeDtypeStruct(shape, jnp.float32), axes)}
    }


@pytest.mark.parametrize(
    ('tree', 'message'),
    [
        (
            box((8, 8), 'embd', 'mlp'),
            "unknown logical axis of layer/weight 'embd'. Did you mean 'embed'",
        ),
        (
            box((8, 8), 'mlp', 'heads'),
            r"layer/weight: axes \('mlp', 'heads'\) use mesh axis 'tensor' twice",
        ),
        (
            box((8, 7), 'embed', 'mlp'),
            "dim 'mlp' of size 7 cannot be split 2 ways over mesh axis tensor",
        ),
    ],
)
def test_misspelt_colliding_and_odd_axes_are_errors(tree: Any, message: str) -> None:
    sharding = make_sharding('data=2,fsdp=2,tensor=2', 'fsdp_tensor')
    with pytest.raises(UserError, match=message):
        sharding.of_params(tree)


def test_misspelt_activation_axes_are_errors_also_inside_jit() -> None:
    sharding = make_sharding('data=8', 'dp')
    with sharding.active(), pytest.raises(UserError, match=r"'bacth'\. Did you mean 'batch'"):
        jax.jit(lambda x: constrain(x, 'bacth', None))(jnp.ones((8, 2)))


def test_constrain_does_nothing_without_a_mesh() -> None:
    x = jnp.ones((3, 2))
    assert constrain(x, 'nonsense', 'axes') is x
    with make_sharding('data=8', 'dp').active(), inactive():
        assert constrain(x, 'batch', None) is x


def test_spec_places_each_dim() -> None:
    sharding = make_sharding('data=2,fsdp=2,tensor=2', 'fsdp_tensor')
    assert sharding.spec(('batch', 'length', 'features'), (4, 3, 5), 'x') == P(
        ('data', 'fsdp'), None, None
    )
    assert sharding.spec(('embed', 'heads', 'head_dim'), (4, 2, 3), 'x') == P(
        'fsdp', 'tensor', None
    )
    assert sharding.batch_ways == 4
    assert sharding.batch((8, 3)).shard_shape((8, 3)) == (2, 3)


def test_batches_that_do_not_divide_are_refused() -> None:
    with pytest.raises(UserError, match="dim 'batch' of size 6 cannot be split 8 ways"):
        make_sharding('data=8', 'dp').batch((6, 3))
