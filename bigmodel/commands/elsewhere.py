"""Where a run is trained: `--launcher` of the command `train`."""

import argparse
import sys

from bigmodel.commands.open_run import DEFAULT_CONFIG, config_path
from bigmodel.errors import UserError, unknown
from bigmodel.launching.code import check_committed, sent_config
from bigmodel.launching.gke import Gke
from bigmodel.launching.slurm import Slurm
from bigmodel.launching.ssh import Ssh
from bigmodel.launching.tpu_vm import TpuVm

LAUNCHERS = {'tpu_vm': TpuVm, 'gke': Gke, 'slurm': Slurm, 'ssh': Ssh}
OWN = ('--launcher', '--pod', '--dry_run', '--config')  # which is given as it is there


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that say where."""
    names = ', '.join(LAUNCHERS)
    parser.add_argument('--launcher', default='local', help=f'local, or elsewhere: {names}')
    parser.add_argument('--pod', default='', help="of --launcher: 'name=x zone=us-west4-a …'")
    parser.add_argument('--dry_run', default='true', help='false: run what is shown otherwise')


def launch(args: argparse.Namespace) -> int:
    """Shows the commands of the launcher, or runs them; returns an exit code."""
    if args.launcher not in LAUNCHERS:
        raise unknown('--launcher', args.launcher, (*LAUNCHERS, 'local'))
    if args.dry_run not in ('true', 'false'):
        raise UserError(f'--dry_run={args.dry_run}: write true or false')
    config = sent_config(config_path(args.config or DEFAULT_CONFIG))
    launcher = LAUNCHERS[args.launcher](args.pod, [f'--config={config}', *_train()])
    if args.dry_run == 'false':
        check_committed()
        return launcher.run()
    print(*launcher.commands(), sep='\n')
    print('# --dry_run=false runs this')
    return 0


def _train() -> list[str]:
    """The arguments of this command that say what is trained."""
    words = iter(sys.argv[2:] if sys.argv[1:2] == ['train'] else sys.argv[1:])
    kept = []
    for word in words:
        name, equals, _ = word.partition('=')
        if name not in OWN:
            kept.append(word)
        elif not equals:
            next(words, None)
    return kept
