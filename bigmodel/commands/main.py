"""Parses the command line, runs a command, and turns mistakes into one line and exit code 2 (3:
out of memory).

Nothing here imports JAX: `launch.py --help` answers at once, and devices are configured by the
command before JAX starts them.
"""

import argparse
import importlib
import sys
import traceback
from collections.abc import Sequence

from bigmodel.errors import OutOfMemory, UserError, nearest

# name -> (one line, example); the module bigmodel.commands.<name> defines run(args) -> exit code
# and may define add_arguments(parser).
COMMANDS = {
    'train': ('train, or resume, the run of a config', '--config=experiments/quickstart.py'),
    'sweep': (
        'plan, run, resume and watch the arms of a sweep',
        '--config=experiments/ablations/positions.py',
    ),
    'report': (
        'what the arms of a sweep say together: verdict, table, pictures',
        'runs/positions',
    ),
    'diff': (
        'what differs between two runs, or two configs',
        'runs/quickstart runs/other',
    ),
    'scaling': (
        'a scaling law of runs of several sizes and lengths, with a picture',
        'runs/scaling',
    ),
    'size': ('how large a model, on how many tokens', '--gpu-hours=100 --gpu=h100 --mfu=0.4'),
    'evaluate': ('metrics of a checkpoint', '--workdir=runs/quickstart --split=test'),
    'label': (
        'pseudo-labels: examples that a checkpoint is sure of, as data to train on',
        '--workdir=runs/teacher --output=labels.jsonl --threshold=0.9',
    ),
    'extrapolate': (
        'loss by position beyond the training length, with a picture',
        'runs/rope runs/alibi --length=1024',
    ),
    'generate': (
        'text from a checkpoint',
        '--workdir=runs/quickstart --prompt="def main(" --temperature=0.8',
    ),
    'export': (
        'a run as a plain model, adapters merged',
        '--workdir=runs/lora --output=runs/merged',
    ),
    'prepare': (
        'tokenise the data of a config, or train a BPE tokenizer on it',
        '--config=experiments/quickstart.py --train_bpe=bpe.json --vocab_size=4096',
    ),
    'bench': ('step time of a config as one JSON object', '--config=experiments/quickstart.py'),
    'show': ('what a config becomes, without training', '--config=experiments/quickstart.py'),
    'plan': (
        'memory, collectives, speed and cost on a pod that is not here',
        '--config=experiments/pretrain/pods.py:llama3-8b --topology=v5e:16x16 --tokens=15e12',
    ),
    'parts': ('the slots, their choices and arguments', 'position'),
}

LESS = (
    'Less is taken by fewer or shorter rows (--config.data.batch_size, --config.data.seq_len), '
    '--config.model.dtype=bfloat16, or --config.sharding.rules=fsdp with its mesh'
)


def main(argv: Sequence[str]) -> int:
    """Runs `launch.py` with these arguments and returns its exit code."""
    try:
        code = _main(argv)
    except Exception:
        _exit_if_failed(1, traceback.format_exc())
        raise
    _exit_if_failed(code)
    return code


def _exit_if_failed(code: int, said: str = '') -> None:
    """`hosts.exit_if_failed`, of a command that has joined hosts: help needs no such import."""
    hosts = sys.modules.get('bigmodel.hosts')
    if hosts:
        hosts.exit_if_failed(code, said)


def _main(argv: Sequence[str]) -> int:
    try:
        args = parse(argv)
    except UserError as e:
        print(f'error: {e}', file=sys.stderr)
        return 2
    try:
        return importlib.import_module(f'bigmodel.commands.{args.command}').run(args)
    except UserError as e:
        if args.debug:
            traceback.print_exc()
        print(f'error: {e}', file=sys.stderr)
        return e.exit_code
    except (RuntimeError, MemoryError) as e:  # JAX's errors are RuntimeErrors
        if not isinstance(e, MemoryError) and 'RESOURCE_EXHAUSTED' not in str(e):
            raise
        if args.debug:
            traceback.print_exc()
        said = (str(e).strip().splitlines() or [type(e).__name__])[0]
        print(f'error: out of memory: {said[:300]} {LESS}', file=sys.stderr)
        return OutOfMemory.exit_code
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        return 130
    except BrokenPipeError:  # `launch.py show | head`
        sys.stdout = None
        return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments of one command; `overrides` are the `--config.key=value` pairs, in order."""
    argv = list(argv)
    command = 'train'
    if argv and not argv[0].startswith('-'):
        command = argv.pop(0)
        if command not in COMMANDS:
            raise UserError(
                f'unknown command {command!r}.{nearest(command, COMMANDS)} '
                f'Commands: {", ".join(COMMANDS)}'
            )
    elif argv[:1] in (['--help'], ['-h']):
        print(_overview())
        raise SystemExit(0)
    overrides, rest = _split_overrides(argv)
    parser = _parser(command)
    args = parser.parse_args(rest)
    args.command, args.overrides = command, overrides
    return args


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise UserError(f'{message} (python launch.py {self.prog.split()[-1]} --help)')


def _parser(command: str) -> argparse.ArgumentParser:
    text, example = COMMANDS[command]
    parser = _Parser(
        prog=f'launch.py {command}',
        description=text,
        epilog=f'example: python launch.py {command} {example}',
        allow_abbrev=False,
    )
    parser.add_argument(
        '--config',
        default='',
        help='experiments/x.py or experiments/x.py:argument; any key of '
        'it can be set with --config.key=value',
    )
    parser.add_argument('--workdir', default='', help='run directory (default: runs/<name>)')
    parser.add_argument('--debug', action='store_true', help='show tracebacks of mistakes')
    module = importlib.import_module(f'bigmodel.commands.{command}')
    if hasattr(module, 'add_arguments'):
        module.add_arguments(parser)
    return parser


def _split_overrides(argv: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    overrides, rest, i = [], [], 0
    while i < len(argv):
        if argv[i].startswith('--config.'):
            key, equals, value = argv[i].removeprefix('--config.').partition('=')
            if not equals:
                i += 1
                if i == len(argv):
                    raise UserError(f'--config.{key} needs a value: --config.{key}=...')
                value = argv[i]
            overrides.append((key, value))
        else:
            rest.append(argv[i])
        i += 1
    return overrides, rest


def _overview() -> str:
    lines = [
        'usage: python launch.py [COMMAND] --config=FILE [--config.key=value ...] [--workdir=DIR]',
        '',
        'Without arguments: train experiments/quickstart.py. Commands:',
        '',
    ]
    for name, (text, example) in COMMANDS.items():
        lines += [f'  {name:<11} {text}', f'              python launch.py {name} {example}']
    return '\n'.join([*lines, '', 'python launch.py COMMAND --help lists the options of one.'])
