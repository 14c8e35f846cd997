"""A trace of a real server, on a CPU."""

import gzip
import json
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.end_to_end.serving import Server


def post(server: Server, path: str, body: dict | None = None) -> dict:
    data = json.dumps(body or {}).encode()
    with urlopen(Request(server.url + path, data, {"Content-Type": "application/json"}), timeout=60) as answer:
        return json.load(answer)


def test_a_trace_has_the_steps_between_start_and_stop(tmp_path):
    folder = tmp_path / "traces"
    with Server("--profile_dir", str(folder)) as server:
        with pytest.raises(HTTPError) as refused:
            post(server, "/stop_profile")
        assert "start one first" in refused.value.read().decode()
        post(server, "/v1/completions", {"prompt": "before", "max_tokens": 2})
        assert post(server, "/start_profile") == {"files": []}
        with pytest.raises(HTTPError, match="409"):
            post(server, "/start_profile")
        post(server, "/v1/completions", {"prompt": "What is 25 + 17?", "max_tokens": 5, "ignore_eos": True})
        files = post(server, "/stop_profile")["files"]
        assert sorted(map(Path, files)) == sorted(folder.iterdir())
        assert files[0].endswith("-rank0.trace.json.gz")
        trace = json.loads(gzip.decompress(Path(files[0]).read_bytes()))
        names = [event["name"] for event in trace["traceEvents"] if "name" in event]
        assert sum(name == "step: 1 sequences, 1 tokens" for name in names) >= 4
        assert any(name.startswith("aten::") for name in names)
        # Another one can follow.
        post(server, "/start_profile")
        assert len(post(server, "/stop_profile")["files"]) == 1
