"""What is sent: conversations of one turn or several, each turn with the length that its answer shall have."""

import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from lightllm.base.errors import ConfigError
from lightllm.bench.options import DatasetOptions
from lightllm.bench.prompts import Prompt, Prompts, TextPrompts

# Conversations of the sharegpt file outside these lengths are left out, as other benchmarks do.
_FEWEST_TOKENS = 4
_MOST_PROMPT_TOKENS = 1024
_MOST_TOKENS = 2048
_SHAREGPT = 'a JSON list of {"conversations": [{"from", "value"}, ...]}'
_AT_A_TIME = 1000  # that are tokenized
_WARM_UP_SEED = 1 << 30

# How settings of each dataset begin; all others are of all.
_SETTINGS = {
    "random": ("random_",),
    "sharegpt": ("sharegpt_", "dataset_path"),
    "prefix-repetition": ("prefix_repetition_",),
    "multi-turn": ("multi_turn_", "random_input_len", "random_output_len"),
}

# Which of these are meant by lengths of whatever dataset.
_RANDOM_LENGTHS = {"input_len": "random_input_len", "output_len": "random_output_len"}
_LENGTHS = {
    "random": _RANDOM_LENGTHS,
    "sharegpt": {"output_len": "sharegpt_output_len"},
    "prefix-repetition": {
        "input_len": "prefix_repetition_suffix_len",
        "output_len": "prefix_repetition_output_len",
    },
    "multi-turn": _RANDOM_LENGTHS,
}


class Turn(msgspec.Struct, frozen=True):
    """What is added to the conversation so far. prompt_tokens: as the server should count, 0 if that is not known."""

    prompt: Prompt
    prompt_tokens: int
    output_tokens: int


Conversation = list[Turn]


def make(options: DatasetOptions, prompts: Prompts) -> list[Conversation]:
    """What counts. Raises ConfigError."""
    _check_other_datasets(options)
    options = _with_general_lengths(options)
    return _MAKERS[options.dataset_name](options, prompts, random.Random(options.seed), options.num_prompts)


def make_for_warm_up(options: DatasetOptions, prompts: Prompts, count: int) -> list[Conversation]:
    """So many others of the kind, which put nothing of what counts into a cache. Raises ConfigError."""
    begin = options.num_prompts
    if options.dataset_name == "sharegpt":
        return make(msgspec.structs.replace(options, num_prompts=begin + count), prompts)[begin:]
    return make(msgspec.structs.replace(options, num_prompts=count, seed=options.seed + _WARM_UP_SEED), prompts)


def _check_other_datasets(options: DatasetOptions) -> None:
    """Raises ConfigError for a setting of another dataset, as what was meant would not be measured."""
    usual = DatasetOptions()
    for name in usual.__struct_fields__:
        owners = [dataset for dataset, its_own in _SETTINGS.items() if name.startswith(its_own)]
        if owners and options.dataset_name not in owners and getattr(options, name) != getattr(usual, name):
            raise ConfigError(
                f"--{name} is of --dataset_name={' or '.join(owners)}, and --dataset_name is {options.dataset_name}"
            )


def _with_general_lengths(options: DatasetOptions) -> DatasetOptions:
    """`input_len` and `output_len` where the dataset has its own. Raises ConfigError for a length given twice."""
    usual, changes = DatasetOptions(), {}
    for name in ("input_len", "output_len"):
        length, own = getattr(options, name), _LENGTHS[options.dataset_name].get(name)
        if length is None:
            continue
        if own is None:
            raise ConfigError(f"--{name}={length}: prompts of --dataset_name={options.dataset_name} are as they are")
        if getattr(options, own) != getattr(usual, own):
            raise ConfigError(f"--{name}={length} and --{own}={getattr(options, own)} are the same; give one of them")
        changes[own] = length
    return msgspec.structs.replace(options, **changes)


def _random(options: DatasetOptions, prompts: Prompts, draw: random.Random, count: int) -> list[Conversation]:
    own, ratio = options.random_input_len, options.random_range_ratio
    has_prefix = options.random_prefix_len > 0
    prefix = prompts.make(draw, options.random_prefix_len) if has_prefix else None
    whole, lengths = [], []
    for _ in range(count):
        prompt = prompts.make(draw, _length(draw, own, ratio), begins=not has_prefix)
        whole.append(prompt if prefix is None else prefix + prompt)  # type: ignore[operator]  # both are of one kind
        lengths.append(_length(draw, options.random_output_len, ratio))
    return _single_turns(prompts, whole, lengths)


def _length(draw: random.Random, length: int, ratio: float) -> int:
    return draw.randint(max(1, math.floor(length * (1 - ratio))), math.ceil(length * (1 + ratio)))


def _single_turns(prompts: Prompts, whole: list[Prompt], lengths: list[int]) -> list[Conversation]:
    counts = prompts.counts(whole)  # type: ignore[arg-type]  # of the kind that it makes
    return [[Turn(*about)] for about in zip(whole, counts, lengths, strict=True)]


def _prefix_repetition(
    options: DatasetOptions, prompts: Prompts, draw: random.Random, count: int
) -> list[Conversation]:
    prefixes = [
        prompts.make(draw, options.prefix_repetition_prefix_len) for _ in range(options.prefix_repetition_num_prefixes)
    ]
    whole = []
    for number in range(count):
        suffix = prompts.make(draw, options.prefix_repetition_suffix_len, begins=False)
        whole.append(prefixes[number % len(prefixes)] + suffix)  # type: ignore[operator]
    draw.shuffle(whole)
    return _single_turns(prompts, whole, [options.prefix_repetition_output_len] * count)


def _multi_turn(options: DatasetOptions, prompts: Prompts, draw: random.Random, count: int) -> list[Conversation]:
    if not isinstance(prompts, TextPrompts):
        raise ConfigError("--prompt_form=ids: answers come back as text, so turns must be text too; use text")
    first = options.multi_turn_first_input_len or options.random_input_len
    begins = [prompts.make(draw, first) for _ in range(count)]
    made = _single_turns(prompts, list(begins), [options.random_output_len] * count)
    for turns in made:
        for _ in range(options.multi_turn_num_turns - 1):
            more = prompts.make(draw, options.random_input_len, begins=False)
            turns.append(Turn(more, 0, options.random_output_len))
    return made


def _sharegpt(options: DatasetOptions, prompts: Prompts, draw: random.Random, count: int) -> list[Conversation]:
    if not isinstance(prompts, TextPrompts):
        raise ConfigError("--prompt_form=ids: the sharegpt dataset is text; use text")
    if not options.dataset_path:
        raise ConfigError(f"--dataset_name=sharegpt reads a file; give --dataset_path=FILE, {_SHAREGPT}")
    pairs = list(_pairs(options.dataset_path))
    draw.shuffle(pairs)
    made: list[Conversation] = []
    for first in range(0, len(pairs), _AT_A_TIME):
        questions, answers = zip(*pairs[first : first + _AT_A_TIME], strict=True)
        lengths = [options.sharegpt_output_len or length for length in prompts.counts(answers)]
        made += [turns for turns in _single_turns(prompts, list(questions), lengths) if _is_usual(turns[0])]
        if len(made) >= count:
            return made[:count]
    raise ConfigError(
        f"--dataset_path={options.dataset_path} has {len(made)} usable prompts, of {_FEWEST_TOKENS} to "
        f"{_MOST_PROMPT_TOKENS} tokens, with their answers up to {_MOST_TOKENS}; lower --num_prompts"
    )


def _is_usual(turn: Turn) -> bool:
    shortest, both = min(turn.prompt_tokens, turn.output_tokens), turn.prompt_tokens + turn.output_tokens
    return shortest >= _FEWEST_TOKENS and turn.prompt_tokens <= _MOST_PROMPT_TOKENS and both <= _MOST_TOKENS


def _pairs(path: str) -> Iterator[tuple[str, str]]:
    """First question and answer of each conversation of the file."""
    try:
        conversations = json.loads(Path(path).read_text(encoding="utf-8"))
        for entry in conversations:
            turns = [turn["value"] for turn in entry["conversations"][:2]]
            if len(turns) == 2:
                yield turns[0], turns[1]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"--dataset_path={path}: {type(error).__name__}: {error}; give {_SHAREGPT}") from None


_MAKERS: dict[str, Callable[[DatasetOptions, Prompts, random.Random, int], list[Conversation]]] = {
    "random": _random,
    "sharegpt": _sharegpt,
    "prefix-repetition": _prefix_repetition,
    "multi-turn": _multi_turn,
}
