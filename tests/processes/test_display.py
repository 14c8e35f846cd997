"""What a start shows."""

import json
import logging

import pytest

from lightllm.base.config import ServerConfig
from lightllm.processes.supervision import display
from tests import tiny_checkpoint

EXAMPLES = {
    "/v1/chat/completions": {},
    "/v1/completions": {"tokenizer_mode": "none"},
    "/v1/embeddings": {"task": "embed"},
    "/v1/rerank": {"architectures": ["Qwen3ForSequenceClassification"], "num_labels": 1},
    "/get_score": {"architectures": ["Qwen2ForRewardModel"]},
}


@pytest.mark.parametrize("route", EXAMPLES)
def test_the_example_is_one_that_the_model_answers(tmp_path, route):
    tiny_checkpoint.write(tmp_path)
    flags = {name: value for name, value in EXAMPLES[route].items() if name in ServerConfig.__struct_fields__}
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | EXAMPLES[route]))
    assert display._example(ServerConfig(model_dir=str(tmp_path), model_name="m", **flags))[0] == route


def test_the_sum_of_memory_is_shown(caplog, monkeypatch):
    monkeypatch.setattr(display._log, "propagate", True)
    with caplog.at_level(logging.INFO, logger=display._log.name):
        display.show_memory(ServerConfig(max_req_total_len=64), 100, [("weights", 3 << 20), ("KV pool", 1 << 20)])
    assert [line.split()[-2] for line in caplog.messages if line.endswith("MiB")] == ["3.0", "1.0", "4.0"]
