"""Arms: how they are put together, and what they are called."""

import pytest

from bigmodel.errors import UserError
from bigmodel.sweeps.arms import (
    chain,
    choice,
    cross,
    grid,
    integer,
    log_uniform,
    sample,
    uniform,
    zipped,
)
from bigmodel.sweeps.names import LONGEST, arm_names


def test_grid_is_every_combination() -> None:
    assert grid({'a': (1, 2), 'b': ('x', 'y')}) == (
        {'a': 1, 'b': 'x'},
        {'a': 1, 'b': 'y'},
        {'a': 2, 'b': 'x'},
        {'a': 2, 'b': 'y'},
    )


def test_zipped_goes_in_step() -> None:
    assert zipped({'a': (1, 2), 'b': (3, 4)}) == ({'a': 1, 'b': 3}, {'a': 2, 'b': 4})
    with pytest.raises(UserError, match='a has 2, b has 1'):
        zipped({'a': (1, 2), 'b': (3,)})


def test_chain_and_cross() -> None:
    sizes, rates = zipped({'width': (32, 64)}), grid({'rate': (1.0, 2.0)})
    assert chain({'a': 1}, sizes) == ({'a': 1}, {'width': 32}, {'width': 64})
    assert cross(sizes, rates)[1] == {'width': 32, 'rate': 2.0}
    assert len(cross(sizes, rates)) == 4
    assert cross([{'name': 'x', 'a': 1}], [{'name': 'y'}]) == ({'name': 'x,y', 'a': 1},)
    with pytest.raises(UserError, match="two groups set 'width'"):
        cross(sizes, sizes)


def test_samples_are_those_of_their_seed() -> None:
    space = {
        'rate': log_uniform(1e-4, 1e-2),
        'decay': uniform(0.0, 0.2),
        'depth': integer(1, 3),
        'position': choice('rope', 'alibi'),
    }
    arms = sample(200, space, seed=3)
    assert arms[:50] == sample(50, space, seed=3) != sample(50, space, seed=4)
    assert all(1e-4 <= arm['rate'] <= 1e-2 and 0 <= arm['decay'] <= 0.2 for arm in arms)
    assert {arm['depth'] for arm in arms} == {1, 2, 3}
    assert {arm['position'] for arm in arms} == {'rope', 'alibi'}
    # Uniform in the logarithm: half of them below the geometric mean.
    assert 70 < sum(arm['rate'] < 1e-3 for arm in arms) < 130


@pytest.mark.parametrize(
    ('make', 'words'),
    [
        (lambda: grid({'a': 'rope'}), "give a tuple of values, not 'rope'"),
        (lambda: grid({'a': ()}), 'a: there are no values'),
        (lambda: log_uniform(0.0, 1.0), 'no numbers can be drawn between 0.0 and 1.0'),
        (lambda: integer(3, 2), 'no numbers'),
        (lambda: choice(), 'it needs values'),
        (lambda: sample(0, {}), 'count=0 must be at least 1'),
    ],
)
def test_mistakes(make, words) -> None:
    with pytest.raises(UserError, match=words):
        make()


def test_names_say_what_differs() -> None:
    assert arm_names(grid({'model.position': ('rope', 'alibi')})) == ['rope', 'alibi']
    assert arm_names(grid({'optimizer.learning_rate': (0.1, 0.01)})) == [
        'learning_rate=0.1',
        'learning_rate=0.01',
    ]
    # A key that all arms set alike says nothing.
    assert arm_names(grid({'seed_free': (1,), 'model.mask': ('full', 'causal')})) == [
        'full',
        'causal',
    ]
    assert arm_names(grid({'model.norm': ('dyt',), 'model.final_norm': ('none', 'dyt')})) == [
        'none',
        'dyt',
    ]
    assert arm_names(grid({'model.width': (8, 16), 'x.width': (1, 2)}))[0] == (
        'model.width=8,x.width=1'
    )
    both = {'model.block': ('prenorm',), 'model.norm': ('dyt', 'none')}
    assert arm_names(grid(both | {'model.position': ('rope', 'alibi')}))[0] == 'dyt,rope'
    assert arm_names(grid(both | {'model.position': ('rope', 'none')}))[0] == (
        'norm=dyt,position=rope'
    )
    assert arm_names([{}, {'model.block': 'postnorm(skip="mean")'}]) == [
        'base',
        'postnorm-skip=-mean',
    ]
    assert arm_names([{'name': 'my arm', 'a': 1}, {'a': 2}]) == ['my-arm', 'a=2']


def test_long_names_stay_apart() -> None:
    names = arm_names([{'a': 'x' * 100 + end} for end in 'yz'])
    assert all(len(name) <= LONGEST for name in names) and len(set(names)) == 2


def test_two_arms_of_one_name_are_refused() -> None:
    with pytest.raises(UserError, match="arms 1 and 2 are both named 'a'"):
        arm_names([{'name': 'a', 'x': 1}, {'name': 'a', 'x': 2}])
