"""`prepare`: tokenise a config's data before a run, or train a tokenizer on it."""

import argparse
import pathlib

from bigmodel.commands.open_run import load_config
from bigmodel.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `prepare`."""
    parser.add_argument('--splits', default='', help='comma-separated (default: all the run reads)')
    parser.add_argument('--train_bpe', default='', help='write a BPE tokenizer.json here instead')
    parser.add_argument('--vocab_size', type=int, default=4096, help='of --train_bpe')


def run(args: argparse.Namespace) -> int:
    """Prepares the splits that the config reads and says what was written."""
    from bigmodel.data.opened import open_stores, training_texts
    from bigmodel.data.tokenizers import train_bpe

    config = load_config(args)
    if args.train_bpe:
        path = pathlib.Path(args.train_bpe)
        if path.suffix != '.json':
            raise UserError(f'--train_bpe={path} must end in .json')
        train_bpe(training_texts(config.data), args.vocab_size, str(path))
        print(f'wrote {path}; use it with --config.data.tokenizer=\'hf("{path}")\'')
        return 0
    named = [s for s in args.splits.split(',') if s]
    for split in named or ['train', *sorted({e.split for e in config.evals.values()})]:
        for name, store in open_stores(config.data, split).items():
            state = 'prepared' if store.newly_prepared else 'already there'
            print(f'{split}{f", {name}" if name else ""}: {state}')
            for key, value in store.summary().items():
                print(f'  {key}: {value}')
    return 0
