"""Writes tiny_parameters.txt again, when the default model changes on purpose.

python -m tests.golden.make_tiny_parameters
"""

import pathlib

from bigmodel.models import presets
from bigmodel.models.build import build_model
from bigmodel.models.counts import parameter_table
from bigmodel.training.state import abstract_params
from experiments import defaults

PATH = pathlib.Path(__file__).with_name('tiny_parameters.txt')


def table() -> str:
    """Paths, logical axes, sizes and counts of the default model on bytes."""
    model = defaults.get_config().model
    presets.resolve(model, 256)
    return '\n'.join(parameter_table(abstract_params(build_model(model, 256, 0, 'cpu')))) + '\n'


if __name__ == '__main__':
    PATH.write_text(table())
