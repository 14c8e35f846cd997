import json

import pytest

from lightllm.base.errors import ConfigError
from lightllm.bench import datasets, prompts
from lightllm.bench.options import DatasetOptions
from lightllm.demo import MODEL_DIR


def make(**options):
    given = DatasetOptions(**({"num_prompts": 40} | options))
    return datasets.make(given, prompts.load(given, MODEL_DIR))


def test_random_lengths_are_within_the_range_ratio_and_reach_its_ends():
    turns = [
        turn for (turn,) in make(random_input_len=10, random_output_len=4, random_range_ratio=0.5, num_prompts=400)
    ]
    assert {turn.prompt_tokens for turn in turns} == set(range(5, 16))
    assert {turn.output_tokens for turn in turns} == set(range(2, 7))


@pytest.mark.parametrize("form", ["text", "ids"])
def test_a_common_prefix_comes_before_what_is_a_prompts_own(form):
    first, second, *_ = [turn for (turn,) in make(prompt_form=form, random_prefix_len=6, random_input_len=9)]
    assert first.prompt_tokens == second.prompt_tokens == 15
    common = next(i for i, (a, b) in enumerate(zip(first.prompt, second.prompt, strict=False)) if a != b)
    assert common >= 6


def test_the_same_seed_makes_the_same_prompts():
    assert make(seed=3) == make(seed=3)
    assert make(seed=3) != make(seed=4)


def test_prefixes_repeat_equally_often():
    turns = [
        turn
        for (turn,) in make(
            dataset_name="prefix-repetition", prompt_form="ids", prefix_repetition_num_prefixes=4,
            prefix_repetition_prefix_len=7, prefix_repetition_suffix_len=5,
        )
    ]  # fmt: skip
    prefixes = [tuple(turn.prompt[:7]) for turn in turns]
    assert sorted(prefixes.count(prefix) for prefix in set(prefixes)) == [10] * 4
    assert {turn.prompt_tokens for turn in turns} == {12}


def test_conversations_have_their_turns():
    conversation, *others = make(
        dataset_name="multi-turn", multi_turn_num_turns=3, multi_turn_first_input_len=20, random_input_len=5
    )
    assert [turn.prompt_tokens for turn in conversation] == [20, 0, 0]
    assert len(others) == 39
    with pytest.raises(ConfigError, match="use text"):
        make(dataset_name="multi-turn", prompt_form="ids")


def test_sharegpt_takes_first_questions_that_are_neither_short_nor_long(tmp_path):
    def entry(question: str, answer: str) -> dict:
        return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}

    entries = [entry(f"What is {number} and {number}?", "It is the sum of both.") for number in range(6)]
    entries += [entry("No", "It is the sum of both."), entry("word " * 2000, "It is."), {"conversations": []}]
    path = tmp_path / "sharegpt.json"
    path.write_text(json.dumps(entries))
    turns = [turn for (turn,) in make(dataset_name="sharegpt", dataset_path=str(path), num_prompts=6)]
    assert {turn.prompt for turn in turns} == {f"What is {number} and {number}?" for number in range(6)}
    assert all(turn.output_tokens >= 4 for turn in turns)
    given = DatasetOptions(dataset_name="sharegpt", dataset_path=str(path), num_prompts=4)
    made = prompts.load(given, MODEL_DIR)
    others = {turn.prompt for (turn,) in datasets.make_for_warm_up(given, made, 2)}
    assert not others & {turn.prompt for (turn,) in datasets.make(given, made)}
    fixed = make(dataset_name="sharegpt", dataset_path=str(path), num_prompts=2, sharegpt_output_len=9)
    assert {turn.output_tokens for (turn,) in fixed} == {9}
    with pytest.raises(ConfigError, match="has 6 usable prompts"):
        make(dataset_name="sharegpt", dataset_path=str(path), num_prompts=7)


@pytest.mark.parametrize("name", ["random", "multi-turn", "prefix-repetition"])
def test_lengths_can_be_given_without_the_datasets_name(name):
    turns = [turns[0] for turns in make(dataset_name=name, input_len=7, output_len=3)]
    prefix = DatasetOptions().prefix_repetition_prefix_len if name == "prefix-repetition" else 0
    assert {(turn.prompt_tokens, turn.output_tokens) for turn in turns} == {(prefix + 7, 3)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset_path": "a.json"}, "--dataset_path is of --dataset_name=sharegpt, and --dataset_name is random"),
        ({"dataset_name": "multi-turn", "random_range_ratio": 0.5}, "--random_range_ratio is of --dataset_name=random"),
        ({"dataset_name": "sharegpt", "random_output_len": 5}, "--random_output_len is of .*=random or multi-turn"),
        ({"dataset_name": "sharegpt", "input_len": 5}, "--input_len=5: prompts of --dataset_name=sharegpt are as they"),
        ({"output_len": 5, "random_output_len": 6}, "--output_len=5 and --random_output_len=6 are the same"),
        ({"dataset_name": "sharegpt"}, "reads a file; give --dataset_path=FILE"),
    ],
)
def test_settings_that_would_have_no_effect_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        make(**options)


@pytest.mark.parametrize("content", [None, "{", '[{"turns": 1}]', "3"])
def test_a_file_that_is_no_dataset_is_refused(tmp_path, content):
    path = tmp_path / "file.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match="--dataset_path"):
        make(dataset_name="sharegpt", dataset_path=str(path))
