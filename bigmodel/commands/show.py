"""`show`: what a config becomes, without training."""

import argparse

from bigmodel import config as config_lib
from bigmodel.commands.open_run import load_config


def run(args: argparse.Namespace) -> int:
    """Prints the resolved config, the parameter table and the cost of a token."""
    from bigmodel import devices
    from bigmodel.models.counts import parameter_table
    from bigmodel.training.outline import outline, resolve

    config = resolve(load_config(args))
    devices.configure(config.sharding.host_devices, config.data.batch_size // config.accumulate)
    setup = outline(config)
    for key, value in config_lib.flatten(config):
        print(f'{key} = {value!r}')
    print()
    print('\n'.join(parameter_table(setup.boxed)))
    print(f'trained {setup.sizes}')
    print(f'\nkernel {setup.kernel}, {setup.flops_per_token:,} FLOPs a token (training)')
    print(
        f'{setup.tokens_per_step:,} tokens a step, {config.num_steps:,} steps: '
        f'{setup.tokens_per_step * config.num_steps:,} tokens, '
        f'{setup.tokens_per_step * config.num_steps * setup.flops_per_token:.3g} FLOPs'
    )
    return 0
