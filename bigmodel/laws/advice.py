"""How large a model, on how many tokens: what a law advises for a number of FLOPs."""

from collections.abc import Callable, Sequence

from bigmodel.errors import UserError, unknown
from bigmodel.laws.law import Law
from bigmodel.laws.shapes import nearest
from bigmodel.peaks import PEAK_FLOPS
from bigmodel.quantities import COUNTS, short

LEVEL = 0.95
FAR = 10  # times as large as the best model: no config is near


def flops_of(gpu_hours: float, gpu: str, mfu: float) -> float:
    """What so many hours of one device do at the share `mfu` of its peak.

    Raises UserError for an unknown device and numbers that cannot be.
    """
    if gpu_hours <= 0 or not 0 < mfu <= 1:
        raise UserError(f'--gpu-hours={gpu_hours} must be above 0 and --mfu={mfu} in (0, 1]')
    return gpu_hours * 3600 * _peak(gpu) * mfu


def _peak(gpu: str) -> float:
    matching = [peak for name, peak in PEAK_FLOPS.items() if gpu.lower() in name.lower()]
    if not gpu or len(set(matching)) != 1:
        raise unknown('--gpu', gpu, [name.removeprefix('NVIDIA ') for name in PEAK_FLOPS])
    return matching[0]


def advice(
    flops: float, law: Law, draws: Sequence[Law] = (), vocab_size: int = 32_000
) -> list[str]:
    """The answer in lines; `draws` are laws of resamples, for intervals.

    The config is a decoder with a vocabulary of `vocab_size`. Raises UserError where the smallest
    one is much too large for so few FLOPs.
    """
    params, tokens = law.optimum(flops)
    shape = nearest(max(params, 1.0), vocab_size, law.counts)
    count = shape.count(law.counts)
    if count >= FAR * params:
        raise UserError(
            f'{flops:.3g} FLOPs are too few: the best model would have {params:.2g} parameters by '
            f'{law.source}, and the smallest config has {short(count, COUNTS)} with a vocabulary '
            f'of {vocab_size:,}; give more FLOPs, or a smaller --vocab_size'
        )
    what = 'parameters' if law.counts == 'all' else 'parameters without embeddings'

    def between(read: Callable[[Law], float]) -> str:
        return _between([read(draw) for draw in draws])

    lines = [
        f'{flops:.3g} FLOPs, by {law.source}:',
        f'  {what:<17} {short(params, COUNTS):>8}{between(lambda d: d.optimum(flops)[0])}',
        f'  {"tokens":<17} {short(tokens, COUNTS):>8}{between(lambda d: d.optimum(flops)[1])}',
        f'  {"tokens each":<17} {tokens / params:>8.3g}',
        f'  {"expected loss":<17} {law.loss(params, tokens):>8.4g}'
        f'{between(lambda d: d.loss(*d.optimum(flops)))} nats a token',
        '',
        f'nearest config: {short(count, COUNTS)} {what} ({short(shape.params, COUNTS)} in all, '
        f'with a vocabulary of {vocab_size:,}), expected loss '
        f'{law.loss(count, flops / law.flops_per_weight / count):.4g}',
        f'  {shape.flags}',
        '',
        f'E={law.E:.5g} A={law.A:.5g} B={law.B:.5g} alpha={law.alpha:.4g} beta={law.beta:.4g}, '
        f'{law.flops_per_weight:.3g} FLOPs a parameter and token. They hold for the data, the '
        f'tokenizer and the training of those runs only.',
    ]
    return lines + [f'warning: outside of the fit: {s}' for s in law.outside(flops, params, tokens)]


def _between(values: Sequence[float]) -> str:
    """The middle 95 % in words; '' where there are no values."""
    if not values:
        return ''
    ordered = sorted(values)
    cut = round((1 - LEVEL) / 2 * (len(ordered) - 1))
    return f'  (95 %: {short(ordered[cut], COUNTS)} to {short(ordered[-1 - cut], COUNTS)})'
