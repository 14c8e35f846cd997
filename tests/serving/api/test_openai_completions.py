import pytest
from openai import BadRequestError, OpenAI

from lightllm.base.beams import BeamOptions
from tests.serving.live_api import MODEL, client_of
from tests.serving.script_for_tests import count, text_for
from tests.serving.text.tokenizers_for_tests import byte_level

PROMPT = "The quick brown fox"


def complete(client: OpenAI, prompt=PROMPT, **options):
    return client.completions.create(**({"model": MODEL, "prompt": prompt, "seed": 3} | options))


def chunks(client: OpenAI, prompt=PROMPT, **options) -> list:
    with complete(client, prompt, stream=True, **options) as stream:
        return list(stream)


def test_a_prompt_is_continued(client):
    answer = complete(client)
    assert answer.object == "text_completion"
    assert answer.choices[0].text == text_for(count(PROMPT), 3)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == count(PROMPT) + count(answer.choices[0].text) + 1


@pytest.mark.parametrize(
    "prompts",
    [["one", "two three"], [[1, 2, 3], [4, 5]], [[1, 2, 3]], ["one"]],
    ids=["texts", "lists of ids", "one list of ids", "one text"],
)
def test_a_list_of_prompts_is_answered_in_order(client, prompts):
    lengths = [count(prompt) if isinstance(prompt, str) else len(prompt) for prompt in prompts]
    answer = complete(client, prompts, n=2)
    assert [choice.index for choice in answer.choices] == list(range(2 * len(prompts)))
    assert [choice.text for choice in answer.choices] == [text_for(n, seed) for n in lengths for seed in (3, 4)]
    assert answer.usage.prompt_tokens == sum(lengths)


def test_token_ids_are_a_prompt(client):
    ids = byte_level().encode(PROMPT).ids
    assert complete(client, ids).choices[0].text == complete(client).choices[0].text


def test_a_stream_of_many_prompts_gives_each_its_own_text(client):
    texts = [""] * 4
    for chunk in chunks(client, ["a", "b c"], n=2):
        assert chunk.object == "text_completion"
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in complete(client, ["a", "b c"], n=2).choices]


def test_stream_usage_is_the_whole_answers_usage(client):
    last = chunks(client, stream_options={"include_usage": True})[-1]
    assert last.choices == []
    assert last.usage == complete(client).usage


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_have_text_and_offset_of_each_token(client, stream):
    if stream:
        pieces = [chunk.choices[0] for chunk in chunks(client, logprobs=2)]
        text = "".join(piece.text for piece in pieces)
        parts = [piece.logprobs for piece in pieces if piece.logprobs]
    else:
        choice = complete(client, logprobs=2).choices[0]
        text, parts = choice.text, [choice.logprobs]
    tokens = [token for part in parts for token in part.tokens]
    offsets = [offset for part in parts for offset in part.text_offset]
    assert tokens[-1] == "<|end|>"
    assert offsets[-1] == len(text)
    for token, start, end in zip(tokens, offsets, [*offsets[1:], len(text)], strict=True):
        # A token that is part of a character adds to the text when the character is complete.
        assert token.startswith("bytes:") or token == "<|end|>" or text[start:end].endswith(token)
    first = parts[0].top_logprobs[0]
    assert list(first.values()) == [-0.5, -1.5]
    assert next(iter(first)) == tokens[0]


@pytest.mark.parametrize("prompt", [PROMPT, [34, 35, 36]], ids=["text", "ids"])
def test_echo_puts_the_prompt_before_the_answer(client, prompt):
    plain = complete(client, prompt).choices[0].text
    text = prompt if isinstance(prompt, str) else byte_level().decode(prompt)
    assert complete(client, prompt, echo=True).choices[0].text == text + plain
    assert "".join(chunk.choices[0].text for chunk in chunks(client, prompt, echo=True)) == text + plain


def test_best_of_answers_with_n_choices_of_each_prompt_and_counts_all_tokens(client):
    assert len(complete(client, best_of=1).choices) == 1
    prompts = ["one", "two three"]
    all_of_them = complete(client, prompts, n=3)
    answer = complete(client, prompts, n=2, best_of=3, echo=True)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    # Every token of the fake engine is as likely as any other, so that the first are the best.
    texts = [prompts[i // 3] + choice.text for i, choice in enumerate(all_of_them.choices)]
    assert [choice.text for choice in answer.choices] == [texts[0], texts[1], texts[3], texts[4]]
    assert [choice.logprobs for choice in answer.choices] == [None] * 4
    assert answer.usage == all_of_them.usage


@pytest.mark.parametrize("options", [{"n": 3, "best_of": 2}, {"n": 2, "best_of": 3, "stream": True}, {"best_of": 129}])
def test_a_best_of_that_makes_no_sense_is_refused(client, options):
    with pytest.raises(BadRequestError, match=f"best_of={options['best_of']}"):
        complete(client, **options)


@pytest.mark.parametrize(
    ("asked", "searched"),
    [
        ({"use_beam_search": True, "best_of": 4}, BeamOptions(4)),
        (
            {"use_beam_search": True, "length_penalty": 0.5, "early_stopping": "never"},
            BeamOptions(2, 1, 0, 0.5, "never"),
        ),
        ({"num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 0.7}, BeamOptions(6, 3, 0.7)),
    ],
)
def test_beams_are_searched_for_as_asked(client, live, asked, searched):
    answer = complete(client, n=2, temperature=0, extra_body=asked)
    assert len(answer.choices) == 2
    assert [options.beams for options in live.engine.options[-2:]] == [searched] * 2
    complete(client)
    assert live.engine.options[-1].beams is None


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"use_beam_search": True, "stream": True}, "stream"),
        ({"use_beam_search": True, "top_p": 0.5}, "top_p"),
        ({"use_beam_search": True, "temperature": 0.5}, "temperature"),
        ({"use_beam_search": True, "stop": "a"}, "stop"),
        ({"use_beam_search": True, "prompt_logprobs": 1}, "prompt_logprobs"),
        ({"use_beam_search": False, "num_beams": 2}, "use_beam_search=false"),
        ({"num_beams": 2, "best_of": 3}, "best_of=3"),
        ({"num_beams": 2, "n": 3}, "num_beams=2"),
        ({"num_beams": 4, "num_beam_groups": 3}, "num_beams=4"),
        ({"length_penalty": 2}, "length_penalty=2.0 has no effect without"),
        ({"early_stopping": "soon"}, "early_stopping"),
    ],
)
def test_what_beams_cannot_do_is_refused(http, asked, named):
    response = http.post("/v1/completions", json={"prompt": "a", "max_tokens": 2, **asked})
    assert response.status_code == 400
    assert named in response.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", [PROMPT, [34, 35, 36]], ids=["text", "ids"])
def test_echo_with_logprobs_has_those_of_the_prompt_before_those_of_the_answer(client, prompt, stream):
    ids = byte_level().encode(prompt).ids if isinstance(prompt, str) else prompt
    options = {"logprobs": 2, "echo": True, "n": 2}
    if stream:
        parts = [chunk.choices[0] for chunk in chunks(client, prompt, **options)]
    else:
        parts = complete(client, prompt, **options).choices
    for choice in range(2):
        mine = [part for part in parts if part.index == choice]
        text, known = "".join(part.text for part in mine), [part.logprobs for part in mine if part.logprobs]
        tokens, offsets = sum((part.tokens for part in known), []), sum((part.text_offset for part in known), [])
        assert tokens[: len(ids)] == [byte_level().decode([token]) for token in ids]
        assert sum((part.token_logprobs for part in known), [])[: len(ids) + 1] == [None, *[-i for i in ids[1:]], -0.5]
        top = sum((part.top_logprobs for part in known), [])
        assert top[0] is None
        assert list(top[1].values()) == [-ids[1], -ids[1] - 1]
        assert offsets[-1] == len(text)
        for token, at in zip(tokens[: len(ids)], offsets, strict=False):
            assert text.startswith(token, at)


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_is_scored_without_an_answer(client, stream):
    options = {"echo": True, "logprobs": 1, "max_tokens": 0}
    if stream:
        *parts, end = chunks(client, stream_options={"include_usage": True}, **options)
        usage, choices = end.usage, [chunk.choices[0] for chunk in parts]
    else:
        answer = complete(client, **options)
        usage, choices = answer.usage, answer.choices
    assert "".join(choice.text for choice in choices) == PROMPT
    assert [len(choice.logprobs.tokens) for choice in choices if choice.logprobs] == [count(PROMPT)]
    assert choices[-1].finish_reason == "length"
    assert usage.completion_tokens == 0
    with pytest.raises(BadRequestError, match="max_tokens=0"):
        complete(client, max_tokens=0)


@pytest.mark.parametrize("stream", [False, True])
def test_the_text_of_a_healed_token_is_not_shown_again(start, stream):
    ids = byte_level().encode(PROMPT).ids
    end = byte_level().token_to_id("<|end|>")

    def script(prompt: list[int], seed: int) -> list[int]:
        return [ids[-1], *byte_level().encode(" jumps").ids, end]

    live = start(script)
    with client_of(live) as client:
        options = {"extra_body": {"token_healing": True}}
        if stream:
            assert "".join(chunk.choices[0].text for chunk in chunks(client, **options)) == " jumps"
        else:
            assert complete(client, **options).choices[0].text == " jumps"
    assert live.engine.prompts == [ids[:-1]]


def test_prompt_logprobs_name_each_token_and_the_likeliest(client):
    ids = byte_level().encode(PROMPT).ids
    answer = complete(client, n=2, extra_body={"prompt_logprobs": 2})
    for choice in answer.choices:
        first, second, *_ = choice.prompt_logprobs
        assert first is None
        name = byte_level().decode([ids[1]])
        assert second[str(ids[1])] == {"logprob": -ids[1], "rank": 1, "decoded_token": name}
        assert second[str(ids[1] + 1)]["logprob"] == -ids[1] - 1
        assert len(choice.prompt_logprobs) == len(ids)
    assert not hasattr(complete(client).choices[0], "prompt_logprobs")
    with pytest.raises(BadRequestError, match="prompt_logprobs"):
        complete(client, stream=True, extra_body={"prompt_logprobs": 2})


def test_a_suffix_is_refused(client):
    with pytest.raises(BadRequestError, match="suffix"):
        complete(client, suffix=" end")


def test_without_a_tokenizer_ids_go_in_and_out(start):
    live = start(tokenizer_mode="none")
    with client_of(live) as client:
        choice = complete(client, [1, 2, 3], logprobs=0).choices[0]
        assert choice.logprobs.tokens[0].startswith("token_id:")
        with pytest.raises(BadRequestError, match="tokenizer_mode"):
            complete(client)
