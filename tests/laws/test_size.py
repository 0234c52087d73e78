"""What `size` answers, and that its configs have the parameters that it says."""

import json
import math
import pathlib
import re
import subprocess
import sys

import pytest

from bigmodel import config as config_lib
from bigmodel import params as params_lib
from bigmodel.commands.main import main
from bigmodel.laws.advice import advice, flops_of
from bigmodel.laws.law import PUBLISHED, to_json
from bigmodel.laws.shapes import LADDER, nearest, preset
from bigmodel.models import presets
from bigmodel.models.build import build_model
from bigmodel.training.sizes import EMBEDDINGS
from bigmodel.training.state import abstract_params
from experiments import defaults
from tests.small import unboxed_shapes

ROOT = pathlib.Path(__file__).parents[2]


def counted(shape) -> tuple[int, int]:
    """Parameters of the model that the flags of a shape build: all, and without embeddings."""
    config = defaults.get_config()
    for key, value in re.findall(r"--config\.([\w.]+)=('[^']*'|\S+)", shape.flags):
        config_lib.override(config, key, value.strip("'"))
    presets.resolve(config.model, config.data.seq_len)
    flat = params_lib.flatten(unboxed_shapes(build_model(config.model, shape.vocab_size, 0, 'cpu')))
    inside = {k: v for k, v in flat.items() if not re.match(EMBEDDINGS, k)}
    return params_lib.count(flat), params_lib.count(inside)


@pytest.mark.parametrize('size', LADDER)
def test_a_preset_counts_as_its_model_does(size: str) -> None:
    shape = preset(size, 1000)
    assert (shape.params, shape.count('non_embedding')) == counted(shape)


# With few heads, one more or less is a large step.
@pytest.mark.parametrize(
    ('params', 'within'), [(5e5, 0.15), (4e6, 0.05), (1e8, 0.02), (3e9, 0.01), (7e10, 0.005)]
)
def test_the_nearest_config_has_the_parameters(params: float, within: float) -> None:
    for counts in ('all', 'non_embedding'):
        shape = nearest(params, 257, counts)
        assert (shape.params, shape.count('non_embedding')) == counted(shape)
        assert abs(math.log(shape.count(counts) / params)) < within
        base = presets.PRESETS[shape.size]
        ratio = shape.width / shape.depth * base['depth'] / base['width']
        assert 1 / 1.6 < ratio < 1.6
        assert shape.width % shape.num_heads == 0 and shape.num_heads % shape.num_kv_heads == 0


def test_gpu_hours_are_flops_at_a_share_of_the_peak() -> None:
    # NVIDIA's data sheet: 989 TFLOP/s of an H100 in bfloat16, dense.
    assert flops_of(100.0, 'h100', 0.4) == pytest.approx(100 * 3600 * 989e12 * 0.4)
    assert flops_of(1.0, 'v5p', 1.0) == pytest.approx(3600 * 459e12)


def test_the_answer_is_the_laws(capsys) -> None:
    assert main(['size', '--flops=1e21', '--law=hoffmann']) == 0
    text = capsys.readouterr().out
    params, tokens = PUBLISHED['hoffmann'].optimum(1e21)
    assert f'{params / 1e9:.3g}B' in text and f'{tokens / 1e9:.3g}B' in text
    assert f'{PUBLISHED["hoffmann"].loss(params, tokens):.4g} nats' in text
    assert 'Hoffmann et al. 2022' in text and 'only' in text and 'warning' not in text
    assert main(['size', '--flops=1e25']) == 0
    text = capsys.readouterr().out
    assert 'Besiroglu et al. 2024' in text
    assert 'warning: outside of the fit: 1e+25 FLOPs: the law was fitted to 6e+18' in text


def fitted(path: pathlib.Path, **changes) -> pathlib.Path:
    law = to_json(PUBLISHED['besiroglu']) | {'source': 'a fit to 9 runs'}
    draws = [[1.8, 480.0 + i, 2000.0, 0.35, 0.36] for i in range(41)]
    draws.append([1.8, 480.0, 2000.0, -0.1, 0.36])  # without an optimum
    plain = {'law': law, 'draws': draws, 'vocab_size': 257} | changes
    path.write_text(json.dumps(plain))
    return path


def test_a_fit_has_intervals_and_its_own_vocabulary(tmp_path, capsys) -> None:
    path = fitted(tmp_path / 'scaling.json')
    assert main(['size', '--gpu-hours=100', '--gpu=a100', f'--fit={path}']) == 0
    text = capsys.readouterr().out
    assert 'by a fit to 9 runs' in text and 'a vocabulary of 257' in text
    assert len(re.findall(r'\(95 %: \S+ to \S+\)', text)) == 3
    assert main(['size', '--flops=1e20', f'--fit={path}', '--vocab_size=32000']) == 0
    assert 'a vocabulary of 32,000' in capsys.readouterr().out


@pytest.mark.parametrize('flops', [1, 1e3, 1e9])
def test_too_few_flops_for_any_config(flops, tmp_path, capsys) -> None:
    path = fitted(tmp_path / 'scaling.json')
    assert main(['size', f'--flops={flops}', f'--fit={path}']) == 2
    out, err = capsys.readouterr()
    assert not out and err.count('\n') == 1
    assert f'{flops:.3g} FLOPs are too few' in err and 'smallest config has 26.7k' in err


def test_intervals_are_the_middle_of_the_draws() -> None:
    law = PUBLISHED['besiroglu']
    draws = [type(law)(**to_json(law) | {'E': 1 + i / 1000}) for i in range(201)]
    text = '\n'.join(advice(1e20, law, draws))
    low, high = re.search(r'loss .*95 %: (\S+) to (\S+)\)', text).groups()
    rest = law.loss(*law.optimum(1e20)) - law.E
    assert float(low) == pytest.approx(1.005 + rest, abs=1e-3)
    assert float(high) == pytest.approx(1.195 + rest, abs=1e-3)


BAD = {
    'neither': ([], 'give --flops'),
    'both': (['--flops=1e20', '--gpu-hours=3'], 'give --flops'),
    'negative': (['--flops=-1'], 'at least 1'),
    'infinite': (['--flops=inf'], 'at least 1'),
    'no hours': (['--gpu-hours=-3'], 'above 0'),
    'mfu': (['--gpu-hours=3', '--mfu=1.5'], 'in (0, 1]'),
    'gpu': (['--gpu-hours=3', '--gpu=h1000'], "Did you mean 'H100'?"),
    'two gpus': (['--gpu-hours=3', '--gpu=tpu'], 'TPU v5p'),
    'law': (['--flops=1e20', '--law=hofmann'], "Did you mean 'hoffmann'?"),
    'law and fit': (['--flops=1e20', '--law=hoffmann', '--fit=x'], 'not both'),
    'no file': (['--flops=1e20', '--fit=nowhere.json'], 'cannot be read'),
    'config': (['--flops=1e20', '--config=experiments/quickstart.py'], 'no config'),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input(name: str, capsys) -> None:
    arguments, words = BAD[name]
    assert main(['size', *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_file_that_is_no_fit(tmp_path, capsys) -> None:
    law = to_json(PUBLISHED['besiroglu'])
    for i, changes in enumerate(
        ({'law': {**law, 'alpha': -1.0}}, {'law': {'E': 1}}, {'law': []}, {'draws': [[1.0]]})
    ):
        path = fitted(tmp_path / f'{i}.json', **changes)
        assert main(['size', '--flops=1e20', f'--fit={path}']) == 2
        assert 'is no scaling.json' in capsys.readouterr().err
    (tmp_path / 'x.json').write_text('{"law"')
    assert main(['size', '--flops=1e20', f'--fit={tmp_path / "x.json"}']) == 2


def test_it_needs_neither_jax_nor_scipy() -> None:
    code = 'import sys\nfrom bigmodel.commands.main import main\nmain(["size", "--flops=1e21"])'
    code += '\nassert not {"jax", "scipy"} & set(sys.modules)'
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT, capture_output=True)


def test_embeddings_of_a_model_with_learned_positions_count_too() -> None:
    config = defaults.get_config()
    config.model.size, config.model.position = 'tiny', 'learned'
    presets.resolve(config.model, 64)
    flat = params_lib.flatten(abstract_params(build_model(config.model, 256, 0, 'cpu')))
    matched = [path for path in flat if re.match(EMBEDDINGS, path)]
    assert sorted(p.rpartition('/')[0].split('/')[0] for p in matched) == ['backbone', 'inputs']
