"""`python -m lightllm.server.api_server --model_dir ...`: the same as `lightllm serve`."""

import sys

from lightllm.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
