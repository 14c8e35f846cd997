import io
import time

from lightllm.bench import clients
from lightllm.bench.outcome import Progress


def test_the_bar_moves_while_no_request_ends(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(clients.sys, "stderr", shown)
    with clients._bar(8, "random", is_shown=True) as bar:
        for done, tokens in ((4, 100), (4, 200), (4, 300)):
            time.sleep(1.5 * bar.mininterval)
            clients._show(bar, [Progress(done, 0, 2, tokens), Progress(0, 1, 1, 0)], start=time.perf_counter() - 1)
    assert all(f"3 running, {rate} tok/s, 1 failed" in shown.getvalue() for rate in (100, 200, 300))
