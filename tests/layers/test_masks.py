"""Masks against loops; composition; flags that say the same."""

import itertools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel.errors import UserError
from bigmodel.layers.coordinates import Coordinates
from bigmodel.layers.masks import (
    MASKS,
    Causal,
    Chunked,
    Flags,
    Full,
    Mask,
    Or,
    Prefix,
    SameSegment,
    Window,
    flags,
)
from bigmodel.specs import make

# Spec -> may a query at slot i look at slot j? A new mask needs a line here.
RULES: dict[str, Callable[[int, int], bool]] = {
    'full': lambda i, j: True,
    'causal': lambda i, j: j <= i,
    'window(1)': lambda i, j: j == i,
    'window(3)': lambda i, j: i - 3 < j <= i,
    'window(size=100)': lambda i, j: j <= i,
    'chunked(3)': lambda i, j: j <= i and i // 3 == j // 3,
    'chunked(100)': lambda i, j: j <= i,
    'prefix(1)': lambda i, j: j <= i,
    'prefix(3)': lambda i, j: j <= i or j < 3,
}
LENGTH = 7
SEGMENTS = np.array([[1, 1, 1, 2, 2, 0, 0], [1, 2, 3, 3, 3, 3, 3]])


def loop(rule: Callable[[int, int], bool], queries: range, keys: range) -> np.ndarray:
    return np.array([[rule(i, j) for j in keys] for i in queries])


def build(spec: str) -> Mask:
    return make(MASKS, spec, 'mask')


def test_every_mask_has_a_rule() -> None:
    assert {spec.split('(')[0] for spec in RULES} == set(MASKS)


@pytest.mark.parametrize('spec', RULES)
@pytest.mark.parametrize('start', [0, 3])
def test_mask_is_its_rule(spec: str, start: int) -> None:
    """With `start`, queries are the last slots of a cache."""
    queries, keys = Coordinates.of(LENGTH - start, start=start), Coordinates.of(LENGTH)
    want = loop(RULES[spec], range(start, LENGTH), range(LENGTH))
    np.testing.assert_array_equal(build(spec)(queries, keys), want[None])


@pytest.mark.parametrize('spec', RULES)
def test_causal_property_is_what_the_mask_does(spec: str) -> None:
    here = Coordinates.of(LENGTH)
    future = np.triu(np.ones((LENGTH, LENGTH), bool), 1)
    assert build(spec).causal == (not (np.asarray(build(spec)(here, here)) & future).any())


@pytest.mark.parametrize(('a', 'b'), itertools.product(RULES, RULES))
def test_and_or_are_elementwise(a: str, b: str) -> None:
    here = Coordinates.of(LENGTH)
    one, two = np.asarray(build(a)(here, here)), np.asarray(build(b)(here, here))
    np.testing.assert_array_equal((build(a) & build(b))(here, here), one & two)
    np.testing.assert_array_equal((build(a) | build(b))(here, here), one | two)
    future = np.triu(np.ones((LENGTH, LENGTH), bool), 1)
    # The property may be cautious (full & window(1) is causal), but must never claim too much.
    for mask, value in ((build(a) & build(b), one & two), (build(a) | build(b), one | two)):
        assert not (mask.causal and (value & future).any())


def test_segments_see_their_own_document() -> None:
    here = Coordinates.of(LENGTH, segment=jnp.asarray(SEGMENTS))
    want = np.array([[[a == b for b in row] for a in row] for row in SEGMENTS])
    np.testing.assert_array_equal(SameSegment()(here, here), want)
    both = (Causal() & SameSegment())(here, here)
    np.testing.assert_array_equal(both, want & loop(RULES['causal'], range(7), range(7)))


def test_rows_of_one_document_see_all_of_it() -> None:
    here = Coordinates.of(LENGTH)
    assert SameSegment()(here, here).all()


def from_flags(said: Flags, queries: Coordinates, keys: Coordinates) -> np.ndarray:
    """What a fused kernel understands."""
    distance = np.asarray(queries.distance(keys))[None]
    allowed = np.ones_like(distance, bool)
    if said.causal:
        allowed = allowed & (distance >= 0)
    if said.window is not None:
        allowed = allowed & (distance < said.window)
    if said.segments:
        allowed = allowed & np.asarray(SameSegment()(queries, keys))
    return allowed


SAID = [spec for spec in RULES if not spec.startswith(('chunked', 'prefix'))]
COMPOSED = [build(s) for s in SAID] + [build(a) & build(b) for a in SAID for b in SAID]


@pytest.mark.parametrize('mask', COMPOSED, ids=str)
@pytest.mark.parametrize('segments', [False, True])
def test_flags_say_the_same_as_the_mask(mask: Mask, segments: bool) -> None:
    segment = jnp.asarray(SEGMENTS) if segments else None
    here = Coordinates.of(LENGTH, segment=segment)
    mask = mask & SameSegment() if segments else mask
    said = flags(mask)
    assert said is not None
    shape = (2 if segments else 1, LENGTH, LENGTH)
    want = np.broadcast_to(np.asarray(mask(here, here)), shape)
    np.testing.assert_array_equal(np.broadcast_to(from_flags(said, here, here), shape), want)


def test_what_flags_cannot_say_has_none() -> None:
    assert flags(Or(Causal(), Full())) is None
    assert flags(Causal() & (Window(2) | Causal())) is None
    assert flags(Chunked(3)) is None and flags(Causal() & Prefix(3)) is None


@pytest.mark.parametrize('mask', [Chunked(2), Prefix(2)], ids=str)
def test_chunks_and_prefixes_are_of_each_document(mask: Mask) -> None:
    position = np.array([[0, 1, 2, 0, 1, 2, 3]])
    segment = np.array([[1, 1, 1, 2, 2, 2, 2]])
    here = Coordinates.of(LENGTH, jnp.asarray(position), jnp.asarray(segment))
    want = np.zeros((1, LENGTH, LENGTH), bool)
    for begin, end in ((0, 3), (3, 7)):
        alone = Coordinates.of(end - begin)
        want[0, begin:end, begin:end] = mask(alone, alone)[0]
    np.testing.assert_array_equal((mask & SameSegment())(here, here), want)


def test_a_prefix_without_a_length_is_what_the_batch_marks() -> None:
    prefix = np.array([[1, 1, 0, 1, 0, 0, 0], [0, 1, 1, 1, 1, 1, 0]], bool)
    here = Coordinates.of(LENGTH, segment=jnp.asarray(SEGMENTS), prefix=jnp.asarray(prefix))
    seen = lambda b, i, j: SEGMENTS[b, i] == SEGMENTS[b, j] and (j <= i or prefix[b, j])  # noqa: E731
    want = [[[seen(b, i, j) for j in range(LENGTH)] for i in range(LENGTH)] for b in range(2)]
    np.testing.assert_array_equal((Prefix() & SameSegment())(here, here), np.array(want, bool))
    alone = Coordinates.of(LENGTH)
    np.testing.assert_array_equal(Prefix()(alone, alone), Causal()(alone, alone))
    assert [(mask.of_batch, mask.causal) for mask in (Prefix(), Prefix(1), Prefix(3))] == [
        (True, False),
        (False, True),
        (False, False),
    ]
    assert flags(Prefix()) is None


@pytest.mark.parametrize('spec', ['window(0)', 'window(-1)'])
def test_an_empty_window_is_refused(spec: str) -> None:
    with pytest.raises(UserError, match='must be positive'):
        build(spec)
