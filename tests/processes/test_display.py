"""What a start shows."""

import json

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
