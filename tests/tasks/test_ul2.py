"""UL2: the denoisers of its table, drawn alike for each row; modes in front, nothing lost."""

import numpy as np
import pytest

from bigmodel.data.draws import Draws
from bigmodel.data.plain_tokenizers import ByteTokenizer
from bigmodel.errors import UserError
from bigmodel.tasks.build import build_task
from bigmodel.tasks.ul2 import MODE
from tests.tasks.test_span_corruption import restored

SIZE, ROWS, FIRST = 256, 2100, 258
MODES = {FIRST + 100: 'R', FIRST + 101: 'S', FIRST + 102: 'X'}
# (mode, tokens that are cut out, spans) of 256 tokens: 0.15 · 256 = 38.4, 38 / 3 = 12.7, …
TABLE = {
    ('R', 38, 13),
    ('R', 38, 5),
    ('S', 64, 1),
    ('X', 128, 43),
    ('X', 128, 16),
    ('X', 38, 1),
    ('X', 128, 2),
}


def made(spec: str, lengths: list[int], start: int = 0) -> dict[str, np.ndarray]:
    places = np.arange(SIZE)
    rows = {'tokens': np.tile(places % 251 + 5, (len(lengths), 1)).astype(np.int32)}
    rows['segments'] = (places < np.array(lengths)[:, None]).astype(np.int32)
    keys = np.arange(start, start + len(lengths), dtype=np.uint64)
    return build_task(spec).prepare(rows, Draws(keys), ByteTokenizer())


def parts(batch: dict[str, np.ndarray], row: int) -> tuple[list[int], list[int]]:
    """Source and target without padding, of either layout."""
    tokens = batch['tokens'][row]
    if 'source' in batch:
        source = batch['source'][row][batch['source_segments'][row] > 0]
        return source.tolist(), tokens[batch['segments'][row] > 0][1:].tolist()
    return tokens[batch['prefix'][row]].tolist(), tokens[batch['weights'][row] > 0].tolist()


@pytest.mark.parametrize('spec', ['ul2', 'ul2(decoder_only=True)'])
def test_rows_are_those_of_the_table_all_equally_often(spec: str) -> None:
    batch, counts = made(spec, [SIZE] * ROWS), dict.fromkeys(TABLE, 0)
    text = (np.arange(SIZE) % 251 + 5).tolist()
    for i in range(ROWS):
        source, target = parts(batch, i)
        mode, spans = MODES[source[0]], sum(t >= FIRST for t in target) - 1
        counts[mode, len(target) - spans - 1, spans] += 1
        assert restored(source[1:], target, FIRST) == text
        # What is predicted in the mode S is the end of the text.
        assert mode != 'S' or source[1:] == [*text[:192], FIRST]
    assert set(counts) == TABLE
    # 2,100 draws of seven: a standard deviation of 16.
    assert all(abs(n - ROWS / len(TABLE)) < 80 for n in counts.values())


def test_shapes_are_those_of_the_longest_denoiser() -> None:
    apart, joined = build_task('ul2'), build_task('ul2(decoder_only=True)')
    assert apart.extra_ids == joined.extra_ids == 103
    source, target = 1 + SIZE - 38 + 13, 128 + 43 + 1
    assert apart.lengths(SIZE) == (target, source)
    assert joined.lengths(SIZE) == (1 + SIZE + 2 * 43, 0)
    for spec in ('ul2', 'ul2(decoder_only=True)'):
        length = build_task(spec).lengths(SIZE)[0]
        for lengths in ([SIZE] * 9, [3, 0, 100]):
            batch = made(spec, lengths)
            assert batch['tokens'].shape == (len(lengths), length + 1)


@pytest.mark.parametrize('spec', ['ul2', 'ul2(decoder_only=True)'])
def test_padding_and_short_rows(spec: str) -> None:
    lengths = [2, 1, 0, 17, 3] * 5
    batch = made(spec, lengths)
    for i, n in enumerate(lengths):
        source, target = parts(batch, i)
        assert source[0] in MODES and bool(target) == bool(n)
        if n:
            assert restored(source[1:], target or [FIRST], FIRST) == [*range(5, 5 + n)] or n == 1


def test_a_row_depends_on_its_own_key_alone() -> None:
    whole, part = made('ul2', [SIZE] * 20), made('ul2', [SIZE] * 5, start=10)
    for key, values in part.items():
        np.testing.assert_array_equal(whole[key][10:15], values)
    assert set(np.unique(MODE)) == {0, 1, 2}


def test_a_prompt_gets_the_mode_that_fits_it() -> None:
    task, tokenizer = build_task('ul2'), ByteTokenizer()
    r, s, x = MODES
    for prompt, source, end in (
        ([7, 8], [s, 7, 8, 258], 259),
        ([7, 258, 8, 259], [r, 7, 258, 8, 259], 260),
        ([x, 7, 258], [x, 7, 258], 259),
    ):
        begin = task.begin(prompt, tokenizer)
        assert (list(begin.source), begin.end, begin.tokens) == (source, end, [0])
        joined = build_task('ul2(decoder_only=True)').begin(prompt, tokenizer)
        assert (list(joined.tokens), joined.prefix) == (source, len(source))
    with pytest.raises(UserError, match='the prompt is empty'):
        task.begin([], tokenizer)


def test_too_few_sentinels_are_refused() -> None:
    with pytest.raises(UserError, match='have 43 spans, which take 44 sentinels; set sentinels=44'):
        build_task('ul2(sentinels=43)').lengths(SIZE)
    build_task('ul2(sentinels=44)').lengths(SIZE)
