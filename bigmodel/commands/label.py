"""`label`: pseudo-labels, the confident predictions of a checkpoint as data to train on."""

import argparse
import json
import shlex
from typing import Any

from bigmodel.commands.evaluate import opened
from bigmodel.commands.open_run import STEP, step
from bigmodel.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `label`."""
    parser.add_argument('--output', required=True, help='JSONL file for the labelled examples')
    parser.add_argument('--threshold', type=float, default=0.9, help='least probability')
    parser.add_argument('--eval', default='', help='entry of evals; default: validation')
    parser.add_argument('--split', default='train', help='of the examples to label')
    parser.add_argument('--batches', type=int, default=0, help='0: the whole split')
    parser.add_argument('--step', type=step, default=0, help=STEP)


def run(args: argparse.Namespace) -> int:
    """Writes the examples with their labels, and says how to train on them."""
    from bigmodel.training.predictions import class_counts, labelled, write_lines

    if not 0 <= args.threshold <= 1:
        raise UserError(f'--threshold={args.threshold} must be in [0, 1]')
    run = opened(args, args.output, '--output', labelled=False)
    if run.setup.task.predicts != 'class':
        raise UserError(f'{args.workdir} predicts {run.setup.task.predicts}; label needs classes')
    with run.setup.sharding.active():
        results = run.evaluation.results(run.params, run.setup.restore_companions())
    lines = write_lines(args.output, labelled(run.evaluation, results, args.threshold), '--output')
    rows = len(results.rows['index'])
    print(f'{args.output}: {len(lines):,} of {rows:,} examples ({class_counts(lines) or "none"})')
    path, format = f'--config.data.path={args.output}', _format(run.evaluation, results.classes)
    print(
        f'train on them with --config.data.source=jsonl {shlex.quote(path)} '
        f'{shlex.quote(f"--config.data.format={format}")}'
    )
    return 0


def _format(evaluation: Any, classes: tuple[str, ...]) -> str:
    """The format of the examples that were labelled, with the label's field and classes."""
    from bigmodel.data.formats import FORMATS
    from bigmodel.specs import arguments, parse

    spec = parse(evaluation.config.data.format, 'data.format')
    names = arguments(FORMATS[spec.name])
    given = {**dict(zip(names, spec.args, strict=False)), **spec.kwargs, 'label': 'label'}
    given |= {'classes': classes} if 'classes' in names else {}
    return f'{spec.name}({", ".join(f"{name}={_literal(value)}" for name, value in given.items())})'


def _literal(value: Any) -> str:
    """As Python reads it, in double quotes, which need no escape in a shell's single ones."""
    if isinstance(value, tuple):
        return f'({"".join(f"{_literal(part)}, " for part in value)})'
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
