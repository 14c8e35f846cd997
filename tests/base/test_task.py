"""What a checkpoint is for is read from its files."""

import json

import pytest

from lightllm.base.config import EngineConfig
from lightllm.base.errors import ConfigError
from lightllm.base.task import Task

CONFIG = {"hidden_size": 64, "vocab_size": 700}


def task_of(folder, *, asked="auto", **config) -> Task:
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    return Task.of(EngineConfig(model_dir=str(folder), task=asked))


def test_a_reward_may_be_read_from_a_token_of_its_own(tmp_path):
    architectures = ["AnyForRewardModel"]
    assert task_of(tmp_path, architectures=architectures) == Task("reward", 1)
    assert task_of(tmp_path, architectures=architectures, reward_token_id=699) == Task("reward", 1, last_token=699)
    with pytest.raises(ConfigError, match="reward_token_id=700 of the checkpoint is no token; there are 700"):
        task_of(tmp_path, architectures=architectures, reward_token_id=700)


YES_AND_NO = {"model": {"vocab": {"a": 0, "no": 5}}, "added_tokens": [{"id": 6, "content": "yes"}]}


def test_a_model_that_answers_yes_or_no_is_a_classifier(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(YES_AND_NO))
    assert task_of(tmp_path, asked="rerank") == Task("classify", 1, answers=(6, 5))
    assert task_of(tmp_path, classifier_from_token=["a", "yes"]) == Task("classify", 1, answers=(6, 0))
    assert task_of(tmp_path, classifier_from_token=["a"]) == Task("classify", 1, answers=(0,))
    with pytest.raises(ConfigError, match="has no token 'Yes'"):
        task_of(tmp_path, classifier_from_token=["Yes"])
    with pytest.raises(ConfigError, match=r"classifier_from_token=\['a', 'no', 'yes'\] is not supported"):
        task_of(tmp_path, classifier_from_token=["a", "no", "yes"])


@pytest.mark.parametrize(
    ("score", "answers"), [({"true_token_id": 7, "false_token_id": 8}, (7, 8)), ({"true_token_id": 7}, (7,))]
)
def test_the_answers_may_be_told_by_sentence_transformers(tmp_path, score, answers):
    kinds = {"": "base.modules.transformer.Transformer", "1_S": "cross_encoder.modules.logit_score.LogitScore"}
    modules = [{"path": path, "type": f"sentence_transformers.{kind}"} for path, kind in kinds.items()]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_S").mkdir()
    (tmp_path / "1_S" / "config.json").write_text(json.dumps(score))
    assert task_of(tmp_path) == Task("classify", 1, answers=answers)
    (tmp_path / "1_S" / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="true_token_id=None of the checkpoint is no token"):
        task_of(tmp_path)


def test_what_is_asked_for_goes_before_what_the_checkpoint_says(tmp_path):
    architectures = ["AnyForSequenceClassification"]
    assert task_of(tmp_path, architectures=architectures).kind == "classify"
    assert task_of(tmp_path, architectures=architectures, asked="generate") == Task()
    assert task_of(tmp_path, asked="embed") == Task("embed", 64, normalizes=True)
