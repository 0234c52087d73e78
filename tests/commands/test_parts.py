"""`launch.py parts` is complete, and shows what a user may set and nothing else."""

import inspect
import sys

import pytest

from bigmodel import config as config_lib
from bigmodel import specs
from bigmodel.commands.catalogue import GIVEN, slots, summary
from bigmodel.commands.main import main
from bigmodel.commands.parts import part_lines, slot_lines
from bigmodel.models.build import build_model
from bigmodel.training import outline, setup
from tests.commands.conftest import base

SLOTS = slots()
DOCUMENTED = [s for s in SLOTS.values() if s.name != 'activation']
PARTS = [(slot, part) for slot in DOCUMENTED for part in slot.table]


def show(*argv: str) -> int:
    return main(['parts', *argv])


def test_every_entry_of_every_table_is_listed(capsys):
    assert show() == 0
    out = capsys.readouterr().out
    for slot in SLOTS.values():
        assert f'{slot.name}' in out
        section = '\n'.join(slot_lines(slot))
        assert section in out
        assert all(part in section for part in slot.table)


@pytest.mark.parametrize(('slot', 'part'), PARTS, ids=lambda x: x if isinstance(x, str) else x.name)
def test_every_part_has_a_line_and_every_argument_is_described(slot, part):
    assert len(slot.line(part)) > 10
    lines = '\n'.join(part_lines(slot, part))
    for name, parameter in slot.arguments(part).items():
        assert f'{name}: {specs.describe(parameter)}; ' in lines


def test_slots_that_configs_lack_are_not_shown():
    keys = {key for key, _ in config_lib.flatten(config_lib.load('experiments/defaults.py'))}
    assert {s.key for s in DOCUMENTED} - {'weights'} <= keys  # an argument of attention


def test_what_the_builder_fills_in_is_what_bind_is_given(text, monkeypatch, tmp_path):
    """Builds a run with a recording `bind`: GIVEN says all that a spec may not set."""
    seen: dict[str, set[str]] = {}
    real = specs.bind

    def recording(table, text, slot, **context):
        seen.setdefault(slot, set()).update(context)
        return real(table, text, slot, **context)

    for name, module in list(sys.modules.items()):
        if name.startswith('bigmodel.') and getattr(module, 'bind', None) is real:
            monkeypatch.setattr(module, 'bind', recording)
    flags = [a.removeprefix('--config.').split('=', 1) for a in base(text)[1:]]
    config = config_lib.load(base(text)[0].partition('=')[2])
    # A cache of its own: prepared data would need no tokenizer any more.
    flags += [('model.kernel', 'reference'), ('data.cache_dir', str(tmp_path))]
    for key, value in flags:
        config_lib.override(config, key, value)
    resolved = outline.resolve(config)
    setup.build(resolved)
    resolved.model.update(encoder_depth=2, cross='attention')
    build_model(resolved.model, 256, 0, 'cpu')
    seen['weights'] = seen['attention(weights=...)']
    assert {slot: set(names) for slot, names in GIVEN.items()} == {k: seen[k] for k in GIVEN}


def test_a_slot_is_found_by_its_name_or_its_key(capsys):
    assert show('position') == 0
    by_name = capsys.readouterr().out
    assert show('model.position') == 0
    assert capsys.readouterr().out == by_name
    assert 'rope(theta=10000.0' in by_name and 'mlp' not in by_name


def test_a_part_is_shown_in_full(capsys):
    assert show('window') == 0
    out = capsys.readouterr().out
    assert out.startswith('mask: window(size)')
    assert 'size: int, positive; required' in out
    assert show('muon') == 0
    assert 'b1: float, in [0, 1); default 0.9' in capsys.readouterr().out


def test_a_name_of_several_slots_shows_them_all(capsys):
    assert show('none') == 0
    out = capsys.readouterr().out
    assert 'position: none' in out and 'norm: none' in out


def test_a_typo_gets_the_nearest_name(capsys):
    assert show('rop') == 2
    assert "Did you mean 'rope'?" in capsys.readouterr().err
    assert show('positon') == 2
    assert "Did you mean 'position'?" in capsys.readouterr().err


def test_a_summary_ends_with_the_paper():
    assert summary('One thing. Two (Vaswani et al. 2017, §3).\n\nThree.') == (
        'One thing. Two (Vaswani et al. 2017, §3).'
    )
    assert summary('One thing, as\nhere. Nothing is cited.') == 'One thing, as here.'


def test_ranges_and_choices_are_in_words():
    def part(a: int = 1, b: str | None = None, c: tuple = ()) -> None: ...

    told = [specs.describe(p) for p in inspect.signature(part).parameters.values()]
    assert told == ['int', 'str or None', 'tuple']
