#!/usr/bin/env python3
"""bigmodel's command line: `python launch.py [COMMAND] --config=FILE [--config.key=value ...]`."""

import sys

from bigmodel.commands.main import main

if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
