"""`generate`: text from a checkpoint."""

import argparse

from bigmodel.commands.open_run import STEP, load_run_config, step
from bigmodel.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `generate`."""
    parser.add_argument(
        '--prompt',
        default='',
        help='what the text begins with; of an encoder-decoder what its encoder reads, where '
        '<extra_id_0>, <extra_id_1>, ... stand for the spans to spell out',
    )
    parser.add_argument('--max_tokens', type=int, default=200)
    parser.add_argument('--temperature', type=float, default=0.8, help='0: most likely token')
    parser.add_argument('--top_k', type=int, default=0, help='0: all tokens')
    parser.add_argument('--top_p', type=float, default=1.0)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--num_samples', type=int, default=1)
    parser.add_argument('--step', type=step, default=0, help=STEP)


def run(args: argparse.Namespace) -> int:
    """Prints the samples; needs only the run directory, not its data."""
    from bigmodel import devices
    from bigmodel.data.formats import build_format
    from bigmodel.data.tokenizers import load_tokenizer
    from bigmodel.inference.generate import Sampling, generate
    from bigmodel.tasks.build import build_task

    config = load_run_config(args)
    if args.num_samples < 1:
        raise UserError(f'--num_samples={args.num_samples} must be at least 1')
    devices.configure(host_devices=1, rows=1)
    from bigmodel.inference.load import load_model
    from bigmodel.training.restore import learned_length

    tokenizer = load_tokenizer(f'{args.workdir}/tokenizer')
    sampling = Sampling(args.max_tokens, args.temperature, args.top_k, args.top_p, args.seed)
    sampling.check()
    task, format = build_task(config.task), build_format(config.data.format)
    num_ids = tokenizer.vocab_size + task.extra_ids
    model, params = load_model(config, args.workdir, args.step, num_ids)
    texts = generate(
        model,
        params,
        tokenizer,
        args.prompt,
        sampling,
        args.num_samples,
        learned_length(config),
        task,
        format,
    )
    print(('\n' + '-' * 72 + '\n').join(texts))
    return 0
