"""`size`: how large a model, on how many tokens, for a number of FLOPs or of GPU hours."""

import argparse
import math
import pathlib

from bigmodel.errors import UserError, unknown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `size`."""
    parser.add_argument('--flops', type=float, default=0.0, help='training FLOPs: 1e21')
    parser.add_argument('--gpu-hours', type=float, default=0.0, help='hours of one device')
    parser.add_argument('--gpu', default='h100', help='which device: a100, h100, h200, b200, v5p')
    parser.add_argument('--mfu', type=float, default=0.4, help='share of its peak that is reached')
    parser.add_argument('--fit', default='', help='scaling.json of `scaling`')
    parser.add_argument('--law', default='', help='published: besiroglu (the default), hoffmann')
    parser.add_argument(
        '--vocab_size', type=int, default=0, help="default: the fit's, or 32,000 of the published"
    )


def run(args: argparse.Namespace) -> int:
    """Prints the answer."""
    from bigmodel.laws.advice import advice, flops_of

    if bool(args.flops) == bool(args.gpu_hours):
        raise UserError('give --flops=1e21, or --gpu-hours=100 with --gpu and --mfu')
    if args.config or args.workdir or args.overrides:
        raise UserError('size knows no config and no run: give --fit=scaling.json or --law')
    flops = args.flops or flops_of(args.gpu_hours, args.gpu, args.mfu)
    if not 1 <= flops < math.inf or args.vocab_size < 0:
        raise UserError(f'--flops={flops:g} must be at least 1, --vocab_size not negative')
    law, draws, vocab_size = _law(args)
    print('\n'.join(advice(flops, law, draws, args.vocab_size or vocab_size or 32_000)))
    return 0


def _law(args: argparse.Namespace) -> tuple:
    """The law that was asked for, those of its resamples, and its vocabulary (0: not known)."""
    from bigmodel.laws.fitted import read
    from bigmodel.laws.law import PUBLISHED

    if args.fit and args.law:
        raise UserError('give --fit or --law, not both')
    if args.fit:
        fitted = read(pathlib.Path(args.fit))
        return fitted.law, fitted.draws, fitted.vocab_size
    if args.law and args.law not in PUBLISHED:
        raise unknown('--law', args.law, PUBLISHED)
    return PUBLISHED[args.law or 'besiroglu'], (), 0
