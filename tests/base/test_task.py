"""What a checkpoint is for is read from its files."""

import json
from dataclasses import replace

import pytest

from lightllm.base.config import EngineConfig
from lightllm.base.errors import ConfigError
from lightllm.base.task import Task

CONFIG = {"hidden_size": 64, "vocab_size": 700}


def task_of(folder, *, flags=None, **config) -> Task:
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    return Task.of(EngineConfig(model_dir=str(folder), **(flags or {})))


def write_modules(folder, settings: dict[str, dict]) -> None:
    """sentence-transformers' files; the settings of each module, by the name of its class."""
    modules = [{"path": name, "type": f"sentence_transformers.any.{name}"} for name in settings]
    (folder / "modules.json").write_text(json.dumps(modules))
    for name, values in settings.items():
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "config.json").write_text(json.dumps(values))


def test_a_reward_may_be_read_from_a_token_of_its_own(tmp_path):
    architectures = ["AnyForRewardModel"]
    assert task_of(tmp_path, architectures=architectures) == Task("reward", 1)
    assert task_of(tmp_path, architectures=architectures, reward_token_id=699) == Task("reward", 1, last_token=699)
    with pytest.raises(ConfigError, match="reward_token_id=700 of the checkpoint is no token; there are 700"):
        task_of(tmp_path, architectures=architectures, reward_token_id=700)


YES_AND_NO = {"model": {"vocab": {"a": 0, "no": 5}}, "added_tokens": [{"id": 6, "content": "yes"}]}


def test_a_model_that_answers_yes_or_no_is_a_classifier(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(YES_AND_NO))
    assert task_of(tmp_path, flags={"task": "rerank"}) == Task("classify", 1, answers=(6, 5))
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
    write_modules(tmp_path, {"Transformer": {}, "LogitScore": score})
    assert task_of(tmp_path) == Task("classify", 1, answers=answers)
    write_modules(tmp_path, {"Transformer": {}, "LogitScore": {}})
    with pytest.raises(ConfigError, match="true_token_id=None of the checkpoint is no token"):
        task_of(tmp_path)


def test_a_decoder_without_a_head_is_for_embeddings(tmp_path):
    assert task_of(tmp_path, architectures=["AnyModel"]) == Task("embed", 64, normalizes=True, widths=(64,))
    assert task_of(tmp_path, architectures=["AnyForRewardModel"]).kind == "reward"


def test_what_is_asked_for_goes_before_what_the_checkpoint_says(tmp_path):
    architectures = ["AnyForSequenceClassification"]
    assert task_of(tmp_path, architectures=architectures).kind == "classify"
    assert task_of(tmp_path, architectures=architectures, flags={"task": "generate"}) == Task()
    embed = Task("embed", 64, normalizes=True, widths=(64,))
    assert task_of(tmp_path, flags={"task": "embed"}) == embed
    assert task_of(tmp_path, flags={"task": "embed", "pooling": "mean"}) == replace(embed, pooling="mean")
    write_modules(tmp_path, {"Transformer": {}, "Pooling": {"pooling_mode": "cls"}})
    assert task_of(tmp_path, flags={"pooling": "mean"}) == replace(embed, pooling="mean", normalizes=False)
    (tmp_path / "modules.json").unlink()
    with pytest.raises(ConfigError, match="for embedding models; to serve this one as such add --task=embed"):
        task_of(tmp_path, flags={"pooling": "mean"})


@pytest.mark.parametrize(
    ("said", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": False, "include_prompt": True}, "mean"),
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_lasttoken": True, "include_prompt": False}, "last"),
        ({"pooling_mode": "mean", "embedding_dimension": 64}, "mean"),
        ({"pooling_mode": ["lasttoken"]}, "last"),
    ],
)
def test_embeddings_are_pooled_as_sentence_transformers_says(tmp_path, said, pooling):
    write_modules(tmp_path, {"Transformer": {}, "Pooling": said, "Normalize": {}})
    assert task_of(tmp_path) == Task("embed", 64, normalizes=True, pooling=pooling, widths=(64,))


@pytest.mark.parametrize(
    ("settings", "config", "message"),
    [
        ({"Pooling": {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}}, {}, r"\['mean', 'max'\]"),
        ({"Pooling": {"pooling_mode": "weightedmean"}}, {}, "pooling_mode=weightedmean is not supported; supported: l"),
        ({"Pooling": {"pooling_mode": "mean", "include_prompt": False}}, {}, "include_prompt=false is not supported"),
        ({"Pooling": {"pooling_mode": "cls"}, "Dense": {}}, {}, "Dense in modules.json is not supported"),
        ({"Pooling": {"pooling_mode": "mean"}}, {"is_causal": False}, "attention to later tokens"),
    ],
)
def test_what_embeddings_are_not_made_of_is_named(tmp_path, settings, config, message):
    write_modules(tmp_path, settings)
    with pytest.raises(ConfigError, match=message):
        task_of(tmp_path, **config)


def test_embeddings_may_be_shortened_where_the_model_was_trained_for_it(tmp_path):
    embed = {"task": "embed"}
    assert task_of(tmp_path, flags=embed).widths == (64,)
    assert task_of(tmp_path, flags=embed, matryoshka_dimensions=[32, 8, 128]).widths == [8, 32, 64]
    for said in ({"is_matryoshka": True}, {"flags": embed | {"is_matryoshka": True}}):
        assert task_of(tmp_path, **{"flags": embed} | said).widths == range(1, 65)


@pytest.mark.parametrize(
    ("said", "activation"),
    [
        ({}, "Sigmoid"),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, "Identity"),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Tanh"}}, "Tanh"),
    ],
)
def test_what_becomes_of_a_classifiers_only_label_is_told_by_sentence_transformers(tmp_path, said, activation):
    said = said | {"architectures": ["AnyForSequenceClassification"], "num_labels": 1}
    assert task_of(tmp_path, **said) == Task("classify", 1, activation=activation)
    (tmp_path / "config_sentence_transformers.json").write_text('{"activation_fn": "torch.nn.Identity"}')
    assert task_of(tmp_path, **said) == Task("classify", 1, activation="Identity")
    (tmp_path / "config_sentence_transformers.json").write_text('{"activation_fn": "torch.nn.GELU"}')
    with pytest.raises(ConfigError, match="activation_fn=torch.nn.GELU is not supported; supported: Sigmoid, Id"):
        task_of(tmp_path, **said)
