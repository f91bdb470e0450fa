"""``python -m ckpt_async.cli``."""

import sys

from ckpt_async.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
