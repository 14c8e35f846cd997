import pytest

from lightllm.base import checkpoint_files
from lightllm.base.errors import ConfigError


def test_an_absent_file_is_empty_unless_it_is_required(tmp_path):
    assert checkpoint_files.read_json(tmp_path, "generation_config.json", required=False) == {}
    with pytest.raises(ConfigError, match="no config.json there"):
        checkpoint_files.read_json(tmp_path, "config.json", required=True)


@pytest.mark.parametrize("content", [b'{"a": ', b"\xff\xfe", b"[1]", b"", b"5"])
def test_a_broken_file_is_named(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.json"):
        checkpoint_files.read_json(tmp_path, "config.json", required=False)


def test_the_generation_configs_eos_goes_before_the_configs():
    assert checkpoint_files.eos_ids({"eos_token_id": 1}, {"eos_token_id": [2, 3]}) == [2, 3]
    assert checkpoint_files.eos_ids({"eos_token_id": 1}, {}) == [1]
    assert checkpoint_files.eos_ids({}, {"eos_token_id": 0}) == [0]
    assert checkpoint_files.eos_ids({}, {}) == []


def test_the_length_may_be_the_text_models():
    assert checkpoint_files.max_length({"text_config": {"max_position_embeddings": 77}}) == 77
    with pytest.raises(ConfigError, match="--max_req_total_len"):
        checkpoint_files.max_length({"max_position_embeddings": "many"})
