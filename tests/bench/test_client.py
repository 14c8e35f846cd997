import subprocess
import sys

import msgspec

from lightllm.base import env
from lightllm.bench.outcome import Outcome, Report

# A timer's signals interrupt writes to a full pipe, which then are short.
LARGE_REPORT = """
import signal
from lightllm.bench import client
from lightllm.bench.outcome import Outcome, Report
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
client.send(Report([Outcome(0, 0, 1, 1, 0.0, [0.5] * 300_000)], 0, 0.0, 0.0, 0.0))
signal.setitimer(signal.ITIMER_REAL, 0)
"""


def test_a_large_report_comes_whole_from_an_unbuffered_python():
    command = [sys.executable, "-u", "-c", LARGE_REPORT]
    for _ in range(3):
        done = subprocess.run(command, stdout=subprocess.PIPE, env=env.child_environment(), check=True)
        report = msgspec.json.decode(done.stdout, type=Report)
        assert report.outcomes == [Outcome(0, 0, 1, 1, 0.0, [0.5] * 300_000)]
