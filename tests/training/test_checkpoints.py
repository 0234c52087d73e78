"""Checkpoints come back bit for bit, on any mesh, whole or in part."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bigmodel.errors import UserError
from bigmodel.sharding import make_sharding
from bigmodel.training.checkpoints import Checkpoints, find_run


def tree(seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    params = {
        'backbone': {'w': rng.standard_normal((8, 4)).astype(np.float32)},
        'head': {'w': rng.standard_normal((4, 3)).astype(np.float32)},
    }
    return {'params': params, 'step': np.int32(seed)}


def placed(values: dict, mesh: str, axis: str) -> dict:
    sharding = make_sharding(mesh, 'fsdp_tensor')

    def put(x: np.ndarray) -> jax.Array:
        first = axis if np.ndim(x) and x.shape[0] == 8 else None
        spec = PartitionSpec(first) if np.ndim(x) else PartitionSpec()
        return jax.device_put(x, NamedSharding(sharding.mesh, spec))

    return jax.tree.map(put, values)


def abstract(values: dict) -> dict:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), values
    )


def test_a_checkpoint_is_restored_onto_another_mesh(tmp_path):
    saved = placed(tree(), 'fsdp=8', 'fsdp')
    Checkpoints(tmp_path).save(3, saved)
    checkpoints = Checkpoints(tmp_path)
    while checkpoints.latest() is None:
        checkpoints.wait()
    target = abstract(placed(tree(1), 'data=2,tensor=4', 'tensor'))
    restored = checkpoints.restore(3, target)
    for got, want, place in zip(*map(jax.tree.leaves, (restored, saved, target)), strict=True):
        np.testing.assert_array_equal(got, want)
        assert got.sharding == place.sharding


def test_the_newest_and_the_regular_ones_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2, keep_every=4)
    for step in range(1, 8):
        checkpoints.save(step, placed(tree(step), 'data=1', 'fsdp'))
    checkpoints.close()
    assert sorted(int(p.name) for p in tmp_path.iterdir()) == [4, 6, 7]
    assert Checkpoints(tmp_path).latest() == 7


def test_unfinished_saves_do_not_count(tmp_path):
    (tmp_path / '9.orbax-checkpoint-tmp-1').mkdir()
    assert Checkpoints(tmp_path).latest() is None


@pytest.fixture
def saved(tmp_path):
    checkpoints = Checkpoints(tmp_path / 'checkpoints')
    checkpoints.save(5, placed(tree(), 'data=1', 'fsdp'))
    checkpoints.close()
    return tmp_path


def test_one_head_of_two_starts_from_the_only_one_of_another_run(saved):
    """By its shape; the other head is new."""
    params = abstract(placed(tree(1), 'fsdp=8', 'fsdp'))['params']
    sharding, only = params['head']['w'].sharding, tree()['params']['head']['w']
    for shape in ((4, 3), (4, 5)):
        second = {'w': jax.ShapeDtypeStruct(shape, np.float32, sharding=sharding)}
        params['head'] = {'first': second, 'second': second}
        rules, checkpoints = (
            (('head/first/.*', False), ('.*', True)),
            Checkpoints(saved / 'checkpoints'),
        )
        if shape == only.shape:
            got = checkpoints.restore_params(5, params, rules)
            assert got['head']['first']['w'] is None
            np.testing.assert_array_equal(got['head']['second']['w'], only)
        else:
            with pytest.raises(UserError, match="has no 'head/second/w'"):
                checkpoints.check_params(5, params, rules)


def test_parameters_are_restored_by_regexes(saved):
    params = abstract(placed(tree(1), 'fsdp=8', 'fsdp'))['params']
    rules = (('head/.*', False), ('.*', True))
    restored = Checkpoints(saved / 'checkpoints').restore_params(5, params, rules)
    assert restored['head']['w'] is None
    np.testing.assert_array_equal(restored['backbone']['w'], tree()['params']['backbone']['w'])


def test_what_cannot_be_restored_is_named(saved):
    checkpoints = Checkpoints(saved / 'checkpoints')
    everything = (('.*', True),)
    params = abstract(placed(tree(), 'data=1', 'fsdp'))['params']
    wide = {**params, 'head': {'w': jax.ShapeDtypeStruct((4, 9), np.float32)}}
    with pytest.raises(UserError, match=r'head/w has shape \(4, 3\) .* but \(4, 9\)'):
        checkpoints.restore_params(5, wide, everything)
    with pytest.raises(UserError, match="no 'extra'"):
        checkpoints.restore_params(5, {**params, 'extra': params['head']['w']}, everything)
    with pytest.raises(UserError, match='restores nothing'):
        checkpoints.restore_params(5, params, (('.*', False),))


def test_a_run_directory_or_one_of_its_steps_is_found(saved):
    assert find_run(str(saved), 'x') == (saved, 5)
    assert find_run(str(saved / 'checkpoints' / '5'), 'x') == (saved, 5)
    for missing in (saved / 'checkpoints' / '6', saved / 'nothing'):
        with pytest.raises(UserError, match='there is no checkpoint'):
            find_run(str(missing), 'init_from.path')
