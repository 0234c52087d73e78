"""The commands on an encoder–decoder: a run, its metrics, its text, and what it is refused."""

import json
import pathlib

import pytest

from bigmodel.commands.main import main
from tests.commands.conftest import base
from tests.commands.test_bad_input import refused

T5 = ['--config.task=span_corruption(sentinels=8)', '--config.model.size=t5-small']
SMALL = [*T5, '--config.model.encoder_depth=2']


@pytest.fixture(scope='module')
def t5_run(text: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    run = tmp_path_factory.mktemp('runs') / 't5'
    sample = '--config.sample=the <extra_id_0> fox'
    assert main(['train', *base(text), *SMALL, sample, f'--workdir={run}']) == 0
    return run


def test_a_run_has_metrics_of_its_targets_and_a_sample(t5_run, capsys):
    result = json.loads((t5_run / 'result.json').read_text())['metrics']['validation']
    assert set(result) == {'loss', 'nll', 'accuracy'}  # there are no bits a byte of text
    assert (t5_run / 'samples.txt').exists()
    assert main(['evaluate', f'--workdir={t5_run}', '--batches=1']) == 0
    values = json.loads(capsys.readouterr().out)
    assert all(values[key] == result[key] for key in result)


def test_its_text_is_a_function_of_source_and_seed(t5_run, capsys):
    def sample(prompt: str, seed: int) -> str:
        argv = ['generate', f'--workdir={t5_run}', f'--prompt={prompt}', '--max_tokens=20']
        assert main([*argv, '--temperature=1', f'--seed={seed}']) == 0
        return capsys.readouterr().out

    one = sample('the <extra_id_0> fox', 1)
    assert one == sample('the <extra_id_0> fox', 1) != sample('the <extra_id_0> fox', 2)


def test_show_and_bench_count_source_and_target(text, capsys):
    assert main(['show', *base(text), *SMALL]) == 0
    out = capsys.readouterr().out
    assert 'encoder/backbone/layers/block_0/mixer/q/weight' in out
    assert 'backbone/layers/block_0/cross/q/weight' in out
    # 16 tokens, of which 2 in one span: 15 are read, 4 are spelt.
    width, hidden, vocab, side = 16, 64, 320, 2
    attention, ffn = 4 * width**2, 2 * width * hidden
    weights = side * (attention + ffn) * 15 + side * (attention + attention // 2 + ffn) * 4
    weights += side * (attention // 2) * 15 + vocab * width * 4  # keys and values of the source
    pairs = side * (15 * 15 + 4 * 4 + 4 * 15)
    flops = round((6 * weights + 12 * width * pairs) / 16)
    assert f'{flops:,} FLOPs a token' in out
    assert main(['bench', *base(text), *SMALL, '--steps=2']) == 0
    assert json.loads(capsys.readouterr().out)['flops_per_token'] == flops


def test_what_an_encoder_decoder_cannot_do_is_said(t5_run, text, capsys):
    assert 'only causal_lm has a loss by position' in refused(['extrapolate', str(t5_run)], capsys)
    run = f'--workdir={t5_run}'
    assert 'the source that is read' in refused(['generate', run], capsys)
    assert 'only <extra_id_0> to' in refused(['generate', run, '--prompt=<extra_id_8>'], capsys)


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        (
            ['--config.task=span_corruption'],
            ['needs an encoder', 'or decoder_only=True', 'encoder_depth=0'],
        ),
        (
            ['--config.model.size=t5-small'],
            ["task='causal_lm' needs no encoder", 'encoder_depth=6'],
        ),
        ([*SMALL, '--config.model.mask=full'], ["model.mask='full'", "use 'causal'"]),
        ([*SMALL, '--config.data.seq_len=1'], ['data.seq_len=1', 'rows of 2 tokens']),
        ([*SMALL, '--config.data.seq_len=512'], ['26 spans', 'sentinels=27']),
        ([*SMALL, '--config.sample=<extra_id_9>'], ['<extra_id_9>', 'to <extra_id_7>']),
        ([*SMALL, '--config.model.vocab_size=258'], ['266', 'vocab_size=258']),
        (
            [*SMALL, '--config.task=span_corruption(rate=0.9, mean_length=1, sentinels=20)'],
            ['makes rows of 17 tokens', 'model.max_length=16'],
        ),
    ],
)
def test_a_mistake_is_one_line(changes, words, text, capsys, tmp_path):
    argv = ['train', *base(text), *changes, f'--workdir={tmp_path / "run"}']
    line = refused(argv, capsys)
    assert all(word in line for word in words), line
    assert not (tmp_path / 'run').exists()


def test_a_run_on_pairs_writes_a_sample_and_says_how_many_were_cut(text, tmp_path, capsys):
    data, run = tmp_path / 'pairs.jsonl', tmp_path / 'run'
    rows = [{'prompt': f'sum up {i}' * (1 + i % 2), 'response': f'{i}'} for i in range(200)]
    data.write_text('\n'.join(map(json.dumps, rows)))
    changes = {'source': 'jsonl', 'path': data, 'format': 'prompt', 'packing': 'sides'}
    argv = ['train', *base(text), *SMALL, '--config.task=seq2seq(target_length=6)']
    argv += [f'--config.data.{key}={value}' for key, value in changes.items()]
    assert 'in the prompt (the longest has' in refused(argv, capsys)
    argv += ['--config.data.packing=sides(truncate=True)', '--config.sample=sum up 3']
    assert main([*argv, f'--workdir={run}']) == 0
    cut = json.loads((run / 'run.json').read_text())['documents_cut']
    assert f', {cut} documents cut' in capsys.readouterr().out and cut > 50
    assert 'sum up' not in (run / 'samples.txt').read_text()  # the answer alone
    result = json.loads((run / 'result.json').read_text())['metrics']['validation']
    assert set(result) == {'loss', 'nll', 'accuracy'}
