"""The commands do what they say, on a run of a few steps."""

import json
import re
import subprocess
import sys

import pytest

from bigmodel.commands.main import COMMANDS, main
from bigmodel.training.extrapolation import _labels
from tests.commands.conftest import ROOT, base


def test_help_lists_every_command_with_an_example_and_imports_no_jax():
    code = (
        'import sys; from bigmodel.commands.main import main\n'
        'try: main(["--help"])\n'
        'except SystemExit: pass\n'
        'assert "jax" not in sys.modules and "numpy" not in sys.modules'
    )
    out = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name, (line, example) in COMMANDS.items():
        assert name in out and line in out and example in out


@pytest.mark.parametrize('command', COMMANDS)
def test_every_command_explains_its_options(command, capsys):
    with pytest.raises(SystemExit) as done:
        main([command, '--help'])
    assert done.value.code == 0
    assert 'example: python launch.py' in capsys.readouterr().out


def test_bench_prints_one_json_object(text, capsys):
    assert main(['bench', *base(text), '--steps=3']) == 0
    figures = json.loads(capsys.readouterr().out)
    assert set(figures) == {
        'config',
        'tokens_per_second',
        'step_ms',
        'first_step_seconds',
        'compile_seconds',
        'peak_memory_bytes',
        'num_params',
        'num_trained',
        'num_embedding',
        'param_bytes',
        'optimizer_bytes',
        'flops_per_token',
        'mfu',
        'kernel',
        'devices',
    }
    assert figures['tokens_per_second'] > 0 and figures['mfu'] is None
    assert figures['step_ms']['p10'] <= figures['step_ms']['median'] <= figures['step_ms']['p90']


def test_show_prints_config_parameters_and_cost(text, capsys):
    assert main(['show', *base(text)]) == 0
    out = capsys.readouterr().out
    assert 'model.head_dim = 8' in out
    assert 'backbone/layers/block_0/mixer/q/weight' in out
    assert 'FLOPs a token' in out
    assert re.search(r'^trained ([\d,]+) of \1 parameters \(100 %\), optimizer state', out, re.M)


def test_show_needs_no_data_where_the_vocabulary_is_given(text, tmp_path, capsys):
    given = ['--config.model.vocab_size=320', f'--config.data.path={tmp_path / "absent.txt"}']
    assert main(['show', *base(text), *given]) == 0
    assert 'vocab=320' in capsys.readouterr().out


def test_labelled_documents_have_bits_per_byte_too(tmp_path, capsys):
    lines = [json.dumps({'text': f'row {i} of many', 'label': str(i % 2)}) for i in range(200)]
    (tmp_path / 'rows.jsonl').write_text('\n'.join(lines))
    run = tmp_path / 'run'
    data = [
        'source=jsonl',
        'format=text(label="label")',
        'packing=windows',
        f'path={tmp_path / "rows.jsonl"}',
    ]
    changes = [f'--config.data.{change}' for change in data]
    assert main(['train', *base(tmp_path), *changes, f'--workdir={run}']) == 0
    values = json.loads((run / 'result.json').read_text())['metrics']['validation']
    assert values['bits_per_byte'] > 0


def test_evaluate_repeats_the_last_evaluation_of_the_run(finished_run, capsys):
    assert main(['evaluate', f'--workdir={finished_run}', '--batches=1']) == 0
    values = json.loads(capsys.readouterr().out)
    result = json.loads((finished_run / 'result.json').read_text())['metrics']['validation']
    assert values['step'] == 2 and values['gzip_bits_per_byte'] > 0
    for key in ('loss', 'accuracy', 'bits_per_byte'):
        assert values[key] == result[key]


def test_extrapolate_sums_to_the_evaluation_and_draws(finished_run, tmp_path, capsys):
    """In rows of the training length, the mean over positions is the split's loss."""
    argv = ['--length=16', '--batches=0', f'--picture={tmp_path / "x.png"}']
    assert main(['extrapolate', str(finished_run), *argv]) == 0
    (rows,) = json.loads(capsys.readouterr().out)['runs'].values()
    tokens = sum(r['tokens'] for r in rows)
    assert not any(r['beyond'] for r in rows) and (tmp_path / 'x.png').stat().st_size > 5000
    assert main(['evaluate', f'--workdir={finished_run}']) == 0
    values = json.loads(capsys.readouterr().out)
    for key in ('nll', 'accuracy'):
        mean = sum(r[key] * r['tokens'] for r in rows) / tokens
        assert mean == pytest.approx(values[key], rel=1e-5)


def test_extrapolate_goes_beyond_the_training_length(finished_run, tmp_path, capsys):
    picture = f'--picture={tmp_path / "x.png"}'
    assert main(['extrapolate', str(finished_run), '--batches=2', picture]) == 0
    (rows,) = json.loads(capsys.readouterr().out)['runs'].values()
    assert [r['beyond'] for r in rows] == [r['end'] > 16 for r in rows]
    assert rows[-1]['end'] == 64


def test_extrapolate_reads_a_run_with_another_position(finished_run, tmp_path, capsys):
    """A stretched encoding changes the loss, and one that changes nothing leaves it alone."""
    plain, stretched = str(finished_run), f'{finished_run}@rope(scaling="linear", factor=4)'
    same = f'{finished_run}@rope(scaling="linear", factor=1)'
    picture = f'--picture={tmp_path / "x.png"}'
    assert main(['extrapolate', plain, stretched, same, '--batches=2', picture]) == 0
    out, err = capsys.readouterr()
    runs = json.loads(out)['runs']
    assert runs[plain] == runs[same] != runs[stretched]
    assert f'{stretched}: loss ' in err and 'up to 16 tokens' in err and 'beyond' in err


def test_labels_of_lines_leave_out_the_folders_that_all_share():
    runs = ['a/b/rope', 'a/b/rope@rope(factor=4)', 'a/c/rope']
    assert _labels(runs) == ['b/rope', 'b/rope@rope(factor=4)', 'c/rope']
    assert _labels(['/a/rope']) == ['rope'] and _labels(['rope', 'a/rope']) == ['rope', 'a/rope']


def test_generate_is_a_function_of_its_seed(finished_run, capsys):
    def sample(seed: int) -> str:
        argv = ['generate', f'--workdir={finished_run}', '--prompt=the ', '--max_tokens=20']
        assert main([*argv, f'--seed={seed}']) == 0
        return capsys.readouterr().out

    assert sample(1) == sample(1) != sample(2)
    assert sample(1).startswith('the ')


def test_prepare_says_what_is_there_and_trains_a_tokenizer(text, tmp_path, capsys):
    cache = f'--config.data.cache_dir={tmp_path / "cache"}'
    assert main(['prepare', *base(text), cache]) == 0
    assert 'train: prepared' in capsys.readouterr().out
    assert main(['prepare', *base(text), cache]) == 0
    assert 'train: already there' in capsys.readouterr().out
    bpe = tmp_path / 'bpe.json'
    argv = ['prepare', *base(text), cache, f'--train_bpe={bpe}', '--vocab_size=300']
    assert main(argv) == 0
    assert json.loads(bpe.read_text())['model']['type'] == 'BPE'
    tokens = f'--config.data.tokenizer=hf("{bpe}")'
    assert main(['train', *base(text), cache, tokens, f'--workdir={tmp_path / "run"}']) == 0


def test_a_run_records_what_scaling_laws_read(finished_run):
    facts = json.loads((finished_run / 'run.json').read_text())
    # 256 bytes and two specials, rounded up to a multiple of 64 in the table of width 16.
    assert (facts['vocab_size'], facts['num_embedding']) == (258, 320 * 16)
    assert facts['num_embedding'] < facts['num_params']
