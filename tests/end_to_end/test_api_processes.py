"""Several api processes on one port."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from urllib.request import Request, urlopen

from tests.end_to_end.serving import Server, eventually


def test_all_api_processes_serve_and_show_how_late_their_event_loops_are():
    with Server("--httpserver_workers", "2") as server:

        def ask(number: int) -> str:
            body = {"prompt": f"What is {number} + 1?", "max_tokens": 4, "ignore_eos": True, "temperature": 0}
            request = Request(server.url + "/v1/completions", json.dumps(body).encode())
            with urlopen(request, timeout=60) as answer:
                return json.load(answer)["usage"]["completion_tokens"]

        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(ask, range(24))) == [4] * 24
        assert server.metric("request_count") == 24
        lags = re.findall(r'^lightllm_event_loop_lag\{api="(\d)"\} (\S+)$', server.get("/metrics"), re.MULTILINE)
        assert [api for api, _ in lags] == ["0", "1"]
        assert eventually(lambda: server.metric("event_loop_lag_duration_count") > 4)
        assert len(server.children()["api"]) == 2
