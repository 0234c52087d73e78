"""Every mistake gets one line that says what is wrong and what is right, exit code 2, no traces."""

import json

import pytest

from bigmodel.commands.main import main
from tests.commands.conftest import CARD, base

# arguments -> words that the line must hold
MISTAKES = {
    'unknown key': (['--config.data.seqlen=3'], ['data.seqlen', "Did you mean 'data.seq_len'"]),
    'group': (['--config.data=3'], ['data is a group', 'data.source']),
    'wrong type': (['--config.num_steps=many'], ['num_steps=many', 'expected int']),
    'unknown part': (['--config.model.position=ropee'], ["Did you mean 'rope'", 'alibi']),
    'unknown argument': (['--config.model.position=rope(base=3)'], ["'base'", 'theta=10000.0']),
    'bad argument type': (['--config.model.mask=window("x")'], ['size', 'expected int', "'x'"]),
    'bad argument value': (['--config.model.mask=window(0)'], ['size', 'must be positive, got 0']),
    'share out of range': (['--config.model.mixer=attention(dropout=1.5)'], ['in [0, 1)', '1.5']),
    'too few buckets': (['--config.model.position=t5(num_buckets=1)'], ['num_buckets=1', '2']),
    'short buckets': (['--config.model.position=t5(max_distance=16)'], ['max_distance=16', '16']),
    'not a spec': (['--config.model.position=rope(theta='], ['cannot read', 'model.position']),
    'code in a spec': (['--config.model.position=rope(theta=open("x"))'], ['literal values']),
    'heads and width': (['--config.model.num_heads=3'], ['width=16', 'num_heads=3']),
    'kv heads': (['--config.model.num_heads=4', '--config.model.num_kv_heads=3'], ['kv_heads=3']),
    'odd head width': (['--config.model.head_dim=5'], ['rope', 'head_dim=5']),
    'pattern': (
        ['--config.model.depth=3', "--config.model.pattern=('causal','window(4)')"],
        ['pattern has 2', 'depth=3'],
    ),
    'batch and devices': (['--config.data.batch_size=6'], ['batch_size=6', '8 devices']),
    'accumulation': (['--config.accumulate=3'], ['batch_size=8', 'accumulate=3']),
    'large mesh': (['--config.sharding.mesh=data=64'], ['needs 64 devices', 'there are 8']),
    'mesh axis': (['--config.sharding.mesh=model=2'], ["mesh axis 'model'", 'tensor']),
    'idle axis': (['--config.sharding.mesh=tensor=2'], ["rules 'dp'", "'tensor'"]),
    'stages': (
        [
            '--config.sharding.mesh=pipeline=4,data=-1',
            '--config.sharding.rules=pipeline',
        ],
        ['2 layers', '4 stages', 'choose a depth that 4 divides'],
    ),
    'rules': (['--config.sharding.rules=fdsp'], ["Did you mean 'fsdp'"]),
    'no data file': (['--config.data.path=/nonexistent/x.txt'], ['/nonexistent/x.txt']),
    'unknown source': (['--config.data.source=txt'], ["Did you mean 'text'"]),
    'vocabulary': (['--config.model.vocab_size=64'], ['258 tokens', 'vocab_size=64']),
    'no checkpoint': (['--config.init_from.path=/nonexistent'], ['init_from.path', 'checkpoint']),
    'labels missing': (['--config.task=classification'], ['labels']),
    'head and task': (['--config.model.head=classifier'], ['labelled data']),
    'encoder and task': (
        ['--config.model.encoder_depth=2', '--config.model.cross=attention'],
        ["task='causal_lm'", 'needs no encoder', 'encoder_depth=2'],
    ),
    'kernel': (['--config.model.kernel=cudnn'], ['cuDNN needs a GPU']),
    'kernel and dropout': (
        ['--config.model.kernel=fused', '--config.model.mixer=attention(dropout=0.1)'],
        ['fused', 'dropout'],
    ),
    'regex': (["--config.optimizer.decay=(('(',1.0),)"], ['regular expression']),
    'regex gap': (
        ["--config.optimizer.decay=(('head',1.0),)"],
        ['optimizer.decay', "('.*', value)"],
    ),
    'all frozen': (["--config.optimizer.train=(('.*',False),)"], ['freezes every parameter']),
    'negative rate': (['--config.optimizer.learning_rate=-1'], ['must not be negative']),
    'steps to trace': (['--profile=2:3'], ['--profile=2:3', 'num_steps=2']),
    'zero steps': (['--config.num_steps=0'], ['num_steps=0']),
    'remat': (['--config.model.remat=all'], ['model.remat', 'dots']),
    'schedule': (['--config.schedule=cosin'], ["Did you mean 'cosine'"]),
    'loss scale': (
        ['--config.optimizer.loss_scale=dynamic(initial=0)'],
        ['optimizer.loss_scale', 'must be from 2**-24 to 2**126'],
    ),
    'matmul': (['--config.model.matmul=int9'], ['model.matmul', "Did you mean 'int8'"]),
    'eval split': (['--config.evals.validation.split=dev'], ['dev']),
}


def refused(argv: list[str], capsys: pytest.CaptureFixture) -> str:
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith('error: ') and err.count('\n') == 1, err
    assert 'Traceback' not in err
    return err


@pytest.mark.parametrize('name', MISTAKES)
def test_a_mistake_is_one_line_and_leaves_no_run_behind(name, text, capsys, tmp_path):
    changes, words = MISTAKES[name]
    line = refused(['train', *base(text), *changes, f'--workdir={tmp_path / "run"}'], capsys)
    for word in words:
        assert word in line, line
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    ('argv', 'word'),
    [
        ([], 'runs'),
        (['/nonexistent'], 'not a run directory'),
        (['RUN', '--config.seed=1'], 'run directories alone'),
        (['RUN', '--length=-1'], 'negative'),
    ],
)
def test_extrapolate_refuses(argv, word, finished_run, capsys):
    argv = [str(finished_run) if a == 'RUN' else a for a in argv]
    assert word in refused(['extrapolate', *argv], capsys)


def test_extrapolate_names_the_run_whose_learned_positions_end(text, tmp_path, capsys):
    run = tmp_path / 'learned'
    learned = '--config.model.position=learned'
    assert main(['train', *base(text), learned, f'--workdir={run}']) == 0
    capsys.readouterr()
    line = refused(['extrapolate', str(run)], capsys)
    assert f'{run} has learned positions for 16 tokens, not 64; leave it out' in line


def test_extrapolate_names_a_position_that_does_not_fit_the_run(finished_run, capsys):
    line = refused(['extrapolate', f'{finished_run}@ropy'], capsys)
    assert "'ropy'" in line and "Did you mean 'rope'?" in line
    line = refused(['extrapolate', f'{finished_run}@t5'], capsys)
    assert 'buckets' in line


def test_an_empty_data_file(text, capsys, tmp_path):
    empty = tmp_path / 'empty.txt'
    empty.touch()
    line = refused(['train', *base(text), f'--config.data.path={empty}'], capsys)
    assert 'empty' in line


def test_a_config_file_that_does_not_exist_names_the_nearest(capsys):
    line = refused(['show', f'--config={CARD.replace("quickstart", "quikstart")}'], capsys)
    assert 'quickstart.py' in line


def test_a_typo_in_a_run_card_names_the_key(tmp_path, capsys):
    card = tmp_path / 'card.py'
    card.write_text(
        'from experiments import defaults\n'
        'def get_config():\n    c = defaults.get_config()\n    c.data.seqlen = 3\n    return c\n'
    )
    line = refused(['show', f'--config={card}'], capsys)
    assert 'seqlen' in line and 'seq_len' in line


def test_an_unknown_command_and_flag(capsys):
    assert "Did you mean 'evaluate'" in refused(['evaluat'], capsys)
    assert '--nonsense' in refused(['train', '--nonsense'], capsys)


def test_a_corrupt_config_json(text, finished_run, tmp_path, capsys):
    run = tmp_path / 'run'
    run.mkdir()
    (run / 'config.json').write_text('{"data": ')
    line = refused(['train', *base(text), f'--workdir={run}'], capsys)
    assert 'config.json' in line and 'damaged' in line
    assert (run / 'config.json').read_text() == '{"data": '


def test_a_workdir_that_is_a_file_or_holds_other_things(text, tmp_path, capsys):
    file = tmp_path / 'file'
    file.touch()
    assert 'is a file' in refused(['train', *base(text), f'--workdir={file}'], capsys)
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'thesis.tex').touch()
    line = refused(['train', *base(text), f'--workdir={tmp_path / "full"}'], capsys)
    assert 'holds no run' in line


def test_a_workdir_that_cannot_be_written(text, tmp_path, capsys):
    (tmp_path / 'file').touch()
    line = refused(['train', *base(text), f'--workdir={tmp_path / "file" / "run"}'], capsys)
    assert 'cannot be written' in line or 'is a file' in line


def test_a_checkpoint_of_another_shape_names_the_parameter_and_both_shapes(
    text, finished_run, tmp_path, capsys
):
    changes = [f'--config.init_from.path={finished_run}', '--config.model.width=32']
    line = refused(['train', *base(text), *changes, f'--workdir={tmp_path / "run"}'], capsys)
    assert 'shape (16,)' in line and '(32,)' in line and 'backbone/final_norm/scale' in line


def test_a_label_outside_the_range(text, tmp_path, capsys):
    lines = [{'text': 'abc', 'label': -3}, {'text': 'abd', 'label': 1}] * 20
    file = tmp_path / 'labels.jsonl'
    file.write_text(''.join(json.dumps(r) + '\n' for r in lines))
    changes = [
        '--config.data.source=jsonl',
        '--config.data.format=text(label="label")',
        f'--config.data.path={file}',
        '--config.data.packing=windows',
        '--config.task=classification',
        '--config.model.head=classifier',
    ]
    line = refused(['train', *base(text), *changes], capsys)
    assert '-3' in line and 'labels.jsonl:1' in line


def test_wrong_sampling_arguments(finished_run, capsys):
    run = f'--workdir={finished_run}'
    assert '--top_p=2.0' in refused(['generate', run, '--top_p=2'], capsys)
    assert '--temperature' in refused(['generate', run, '--temperature=-1'], capsys)
    assert '--max_tokens' in refused(['generate', run, '--max_tokens=0'], capsys)
    assert '--step=9' in refused(['generate', run, '--step=9'], capsys)
    assert '--workdir=RUN' in refused(['generate'], capsys)
    assert '--workdir' in refused(['evaluate'], capsys)


def test_debug_shows_the_traceback(text, capsys):
    assert main(['train', *base(text), '--config.num_steps=0', '--debug']) == 2
    assert 'Traceback' in capsys.readouterr().err
