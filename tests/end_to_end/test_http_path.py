"""benchmarks/http_path.py measures every process of a server whose worker computes nothing."""

import subprocess
import sys


def test_the_path_of_a_token_is_measured():
    command = [sys.executable, "-m", "benchmarks.http_path", "--streams", "4", "--tokens", "8", "--step-ms", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    for process in ("api", "detokenizer", "scheduler", "instant_worker"):
        assert f"| {process} 0 |" in done.stdout
