"""What a checkpoint is for is read from its files."""

import json

import pytest

from lightllm.base.errors import ConfigError
from lightllm.base.task import Task

CONFIG = {"hidden_size": 64, "vocab_size": 700}


def task_of(folder, **config) -> Task:
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    return Task.of(folder)


def test_a_reward_may_be_read_from_a_token_of_its_own(tmp_path):
    architectures = ["AnyForRewardModel"]
    assert task_of(tmp_path, architectures=architectures) == Task("reward", 1)
    assert task_of(tmp_path, architectures=architectures, reward_token_id=699) == Task("reward", 1, last_token=699)
    with pytest.raises(ConfigError, match="reward_token_id=700 of config.json is no token; there are 700"):
        task_of(tmp_path, architectures=architectures, reward_token_id=700)
