"""Specs that only look different are the same once they are spelt out."""

from typing import Any

import pytest

from bigmodel.training.slots import config_spelt_out
from tests.small import small_config

SAME = [
    ('model.position', 'rope', 'rope(theta=10000.0)'),
    ('model.position', 'rope(5e5)', 'rope(theta=500000)'),
    ('model.mixer', 'attention', 'attention(qk_norm="none")'),
    ('model.mask', 'window(4)', 'window(size=4)'),
    ('model.pattern', (), ('layer(position="rope(theta=10000.0)")',)),
    ('model.pattern', ('window(4)',), ('layer(mask="window(size=4)")',)),
    ('model.final_norm', 'rmsnorm(eps=1e-5)', 'rmsnorm(1e-5)'),
    ('schedule', 'cosine()', 'cosine(warmup_steps=0, final=0.1)'),
    ('optimizer.name', 'adamw(0.9)', 'adamw(b2=0.95)'),
]
DIFFERENT = [
    ('model.position', 'rope', 'rope(theta=20000.0)'),
    ('model.position', 'rope', 'alibi'),
    ('model.kernel', 'auto', 'reference'),
    ('model.pattern', ('causal', 'window(4)'), ('window(4)', 'causal')),
    ('optimizer.learning_rate', 0.1, 0.2),
]


def spelt_out(key: str, value: Any) -> dict[str, Any]:
    config = small_config()
    *groups, last = key.split('.')
    (config[groups[0]] if groups else config)[last] = value
    return config_spelt_out(config)


@pytest.mark.parametrize(('key', 'one', 'other'), SAME)
def test_the_same(key: str, one: Any, other: Any) -> None:
    assert spelt_out(key, one) == spelt_out(key, other)


@pytest.mark.parametrize(('key', 'one', 'other'), DIFFERENT)
def test_different(key: str, one: Any, other: Any) -> None:
    assert spelt_out(key, one) != spelt_out(key, other)
