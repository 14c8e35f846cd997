"""`python -m lightllm`: the command line."""

import sys

from lightllm.cli import main

if __name__ == "__main__":
    sys.exit(main())
