"""`size`: how large a model, on how many tokens, for a budget."""

import argparse

from bigmodel.errors import UserError, unknown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `size`."""
    parser.add_argument('--flops', type=float, default=0.0, help='of training, such as 1e21')
    parser.add_argument('--gpu-hours', type=float, default=0.0, help='instead of --flops')
    parser.add_argument('--gpu', default='H100', help='A100, H100, H200, B200, v5p, …')
    parser.add_argument('--mfu', type=float, default=0.4, help='share of the peak that is reached')
    parser.add_argument('--law', default='besiroglu', help='hoffmann, besiroglu')
    parser.add_argument('--fit', default='', help='scaling.json of `scaling`, instead of --law')


def run(args: argparse.Namespace) -> int:
    """Prints the answer, and which coefficients it is by."""
    from bigmodel.laws.fitted import read_law
    from bigmodel.laws.parametric import PUBLISHED
    from bigmodel.laws.shapes import shape

    flops, words = budget(args)
    if args.fit:
        law, about, known = read_law(args.fit)
    elif args.law in PUBLISHED:
        (law, about), known = PUBLISHED[args.law], (6e18, 3e21)  # of the runs that both are of
    else:
        raise unknown('--law', args.law, PUBLISHED)
    parameters, tokens = law.best(flops)
    depth, width = shape(parameters)
    loss = law.loss(parameters, tokens)
    print(
        f'{words}: {_short(parameters)} parameters on {_short(tokens)} tokens '
        f'({tokens / parameters:.1f} a parameter), expected loss {loss:.3f} '
        f'nats a token\n'
        f'such as --config.model.depth={depth} --config.model.width={width}\n'
        f'by {about}: E={law.E:.4g} A={law.A:.4g} B={law.B:.4g} alpha={law.alpha:.4g} '
        f'beta={law.beta:.4g}; losses are of its data and tokenizer'
    )
    if not known[0] <= flops <= known[1]:
        print(
            f'{flops:.3g} FLOPs is beyond what was run, {known[0]:.3g} to {known[1]:.3g}: '
            f'an extrapolation'
        )
    return 0


def budget(args: argparse.Namespace) -> tuple[float, str]:
    """Training FLOPs, and how they were said."""
    from bigmodel.devices import PEAK_FLOPS

    if (args.flops > 0) == (args.gpu_hours > 0):
        raise UserError('give --flops=1e21 or --gpu-hours=100, a positive number of one of them')
    if args.flops > 0:
        return args.flops, f'{args.flops:.3g} FLOPs'
    names = [n for n in PEAK_FLOPS if args.gpu.lower() in (n.lower(), n.partition(' ')[2].lower())]
    if not names:
        raise unknown('--gpu', args.gpu, [name.partition(' ')[2] for name in PEAK_FLOPS])
    if not 0 < args.mfu <= 1:
        raise UserError(f'--mfu={args.mfu} must be in (0, 1]')
    flops = args.gpu_hours * 3600 * PEAK_FLOPS[names[0]] * args.mfu
    words = f'{args.gpu_hours:g} hours of {names[0]} at {args.mfu:.0%} of its peak'
    return flops, f'{words}, {flops:.3g} FLOPs'


def _short(number: float) -> str:
    for letter, exponent in (('T', 12), ('B', 9), ('M', 6), ('k', 3)):
        if number >= 10**exponent:
            return f'{number / 10**exponent:.3g}{letter}'
    return f'{number:.3g}'
