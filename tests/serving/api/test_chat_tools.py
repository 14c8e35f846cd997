"""Tools and reasoning in chat completions, as the official client sees them."""

import json

import httpx
import pytest
from openai import NOT_GIVEN, BadRequestError

from tests.serving import checkpoint_for_tests
from tests.serving.checkpoint_for_tests import END, TEMPLATE
from tests.serving.live_api import MODEL, client_of
from tests.serving.script_for_tests import count
from tests.serving.text.tokenizers_for_tests import byte_level

HELLO = [{"role": "user", "content": "hello"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in ("get_weather", "get_time")]
HERMES = TEMPLATE + "{# <tool_call> #}"
THINKS = TEMPLATE + "{# <tool_call> <|im_start|> </think> #}{% if enable_thinking %}<think>\n{% endif %}"
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich 世界"}}\n</tool_call>'
NOTHING = '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
REASONING = "Größe? 世界! I could write <tool_call>."


class Saying:
    """A script whose answer is `text`, or the text of the sample's number."""

    def __init__(self, *texts: str, end: str = END):
        self.texts, self._end = texts, end

    def __call__(self, prompt: list[int], seed: int) -> list[int]:
        tokenizer = byte_level()
        return [*tokenizer.encode(self.texts[seed % len(self.texts)]).ids, tokenizer.token_to_id(self._end)]


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Checkpoints by the name of their template."""
    templates = {
        "hermes": HERMES,
        "thinks": THINKS,
        "harmony": TEMPLATE + "{# <|channel|> <|message|> #}",
    }
    return {
        name: checkpoint_for_tests.write(tmp_path_factory.mktemp("checkpoint"), template=template)
        for name, template in templates.items()
    }


@pytest.fixture
def served(start, folders):
    """A client of a server whose model says the texts: served("hermes", text, ...)."""
    clients, lives = [], []

    def begin(kind: str, *texts: str, end: str = END, **flags):
        lives.append(start(Saying(*texts, end=end), model_dir=folders[kind], **flags))
        clients.append(client_of(lives[-1]))
        return clients[-1]

    yield begin
    for client, live in zip(clients, lives, strict=True):
        client.close()
        assert live.engine.is_idle(), "every request was released"


def ask(client, **options):
    return client.chat.completions.create(
        **({"model": MODEL, "messages": HELLO, "tools": TOOLS, "seed": 0, "temperature": 1} | options)
    )


def streamed(client, **options) -> list[dict]:
    """What the deltas of each choice amount to."""
    choices: dict[int, dict] = {}
    with ask(client, stream=True, stream_options={"include_usage": True}, **options) as stream:
        for chunk in stream:
            if not chunk.choices:
                usage = chunk.usage
                continue
            [piece] = chunk.choices
            delta = piece.delta
            choice = choices.setdefault(
                piece.index, {"content": "", "reasoning": "", "calls": [], "finish": None, "tokens": []}
            )
            assert choice["finish"] is None, "nothing follows the end"
            choice["content"] += delta.content or ""
            extra = delta.model_extra or {}
            assert extra.get("reasoning") == extra.get("reasoning_content")
            choice["reasoning"] += extra.get("reasoning_content") or ""
            for call in delta.tool_calls or []:
                if call.id is not None:
                    assert (call.index, call.type) == (len(choice["calls"]), "function")
                    choice["calls"].append([call.id, call.function.name, ""])
                choice["calls"][call.index][2] += call.function.arguments or ""
            choice["tokens"] += [] if piece.logprobs is None else [e.token for e in piece.logprobs.content]
            choice["finish"] = piece.finish_reason
    return [choices[i] | {"usage": usage} for i in sorted(choices)]


def whole(client, **options) -> list[dict]:
    answer = ask(client, **options)
    return [
        {
            "content": choice.message.content or "",
            "reasoning": (choice.message.model_extra or {}).get("reasoning_content", ""),
            "calls": [[c.id, c.function.name, c.function.arguments] for c in choice.message.tool_calls or []],
            "finish": choice.finish_reason,
            "tokens": [] if choice.logprobs is None else [entry.token for entry in choice.logprobs.content],
            "usage": answer.usage,
        }
        for choice in answer.choices
    ]


@pytest.fixture(params=[whole, streamed])
def answers(request):
    return request.param


def test_calls_come_with_names_ids_and_arguments(served, answers):
    [answer] = answers(served("hermes", f"I look.\n\n{CALL}\n{NOTHING}"))
    assert answer["content"] == "I look."
    assert [call[1:] for call in answer["calls"]] == [["get_weather", '{"city": "Zürich 世界"}'], ["get_time", "{}"]]
    assert len({id for id, *_ in answer["calls"]}) == 2
    assert all(id.startswith("call_") for id, *_ in answer["calls"])
    assert answer["finish"] == "tool_calls"


def test_a_whole_answer_of_calls_alone_has_null_for_content(served):
    message = ask(served("hermes", CALL)).choices[0].message
    assert message.content is None
    assert message.tool_calls[0].type == "function"
    assert "reasoning_content" not in message.model_extra


def test_a_stream_gives_a_name_first_and_arguments_in_pieces(served):
    with ask(served("hermes", CALL), stream=True) as stream:
        deltas = [chunk.choices[0].delta for chunk in stream]
    assert deltas[0].role == "assistant"
    first, *others = [delta.tool_calls[0] for delta in deltas if delta.tool_calls]
    assert (first.function.name, first.function.arguments) == ("get_weather", "")
    assert all(call.id is None and call.function.name is None for call in others)
    assert len(others) > 3


def test_without_tools_calls_are_text(served, answers):
    client = served("hermes", CALL)
    for options in ({"tools": None}, {"tool_choice": "none"}):
        [answer] = answers(client, **options)
        assert (answer["content"], answer["calls"], answer["finish"]) == (CALL, [], "stop")


def test_what_is_no_call_is_text_and_nothing_of_it_is_lost(served, answers):
    text = 'Write <tool_call>{"name": 7}</tool_call> or <tool_call>.'
    [answer] = answers(served("hermes", text))
    assert (answer["content"], answer["calls"], answer["finish"]) == (text, [], "stop")


def test_samples_are_read_each_for_itself(served, answers):
    first, second, third = answers(served("hermes", CALL, "No call.", f"{NOTHING} and {CALL}"), n=3)
    assert [len(answer["calls"]) for answer in (first, second, third)] == [1, 0, 2]
    assert [answer["finish"] for answer in (first, second, third)] == ["tool_calls", "stop", "tool_calls"]
    assert second["content"] == "No call."


@pytest.mark.parametrize("options", [{}, {"logprobs": True}, {"extra_body": {"return_token_ids": True}}])
def test_an_answer_ends_with_its_first_call_where_the_client_says_so(served, answers, options):
    texts = (f"I look. {CALL}\n{NOTHING}", f"{CALL}\nThat was it.", CALL, "No call.")
    several = answers(served("hermes", *texts), n=4, parallel_tool_calls=False, **options)
    assert [[call[1] for call in answer["calls"]] for answer in several] == [["get_weather"]] * 3 + [[]]
    assert [answer["content"] for answer in several] == ["I look.", "", "", "No call."]
    assert [answer["finish"] for answer in several] == ["tool_calls"] * 3 + ["stop"]
    counts = [count(f"I look. {CALL}\n"), count(f"{CALL}\n"), count(CALL) + 1, count("No call.") + 1]
    assert several[0]["usage"].completion_tokens == sum(counts)
    if "logprobs" in options:
        assert [len(answer["tokens"]) for answer in several] == counts


def test_nothing_is_generated_any_more_once_the_only_call_is_there(start, folders, answers):
    live = start(Saying(CALL + NOTHING * 100), model_dir=folders["hermes"], engine={"tick_s": 0.001})
    with client_of(live) as client:
        [answer] = answers(client, parallel_tool_calls=False)
        assert answer["finish"] == "tool_calls"
        assert live.engine.is_idle()
        assert live.engine.ticks < count(CALL + NOTHING * 100)
        assert "lightllm_request_aborted_total 0" in httpx.get(f"{live.url}/metrics").text


def test_logprobs_are_of_all_tokens_whatever_they_say(served, answers):
    [answer] = answers(served("hermes", CALL), logprobs=True)
    assert len(answer["tokens"]) == count(CALL) + 1
    assert answer["usage"].completion_tokens == count(CALL) + 1
    assert answer["usage"].completion_tokens_details is None


def test_a_stop_string_ends_a_call_like_any_text(served, answers):
    [answer] = answers(served("hermes", CALL), stop="世界")
    assert answer["calls"][0][2] == '{"city": "Zürich '


def test_a_maximum_ends_a_call_with_length(served, answers):
    [answer] = answers(served("hermes", CALL), max_tokens=count(CALL) - 12)
    assert answer["finish"] == "length"
    assert len(answer["calls"]) == 1


def test_a_client_may_leave_in_the_middle_of_a_call(served):
    with ask(served("hermes", CALL), stream=True) as stream:
        next(iter(stream))


def test_a_call_can_be_sent_back_with_its_result(served, folders):
    client = served("hermes", CALL)
    message = ask(client).choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain"}
    assert ask(client, messages=[*HELLO, message, result]).choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize(
    ("choice", "says"),
    [("any", "auto, none, required"), (5, "auto, none, required"), ({"type": "function"}, "auto, none, required")]
    + [({"type": "function", "function": {"name": "f"}}, "use one of get_weather, get_time")],
)
def test_a_choice_that_means_nothing_is_refused(served, choice, says):
    with pytest.raises(BadRequestError, match=says) as caught:
        ask(served("hermes", CALL), tool_choice=choice)
    assert caught.value.param == "tool_choice"


def allowed(*names: str, mode: str = "auto") -> dict:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def test_only_allowed_tools_are_shown_and_called(start, folders, answers):
    live = start(Saying(f"{CALL}\n{NOTHING}"), model_dir=folders["hermes"])
    with client_of(live) as client:
        [both] = answers(client, tool_choice=allowed("get_time", "get_weather"))
        assert [call[1] for call in both["calls"]] == ["get_weather", "get_time"]
        [one] = answers(client, tool_choice=allowed("get_time"))
    assert [call[1] for call in one["calls"]] == ["get_time"]
    assert one["content"].strip() == CALL, "what calls another is text"
    every, some = (live.engine.tokenizer.decode(tokens) for tokens in live.engine.prompts)
    assert "get_weather" in every
    assert "get_time" in some
    assert "get_weather" not in some


def test_one_of_the_allowed_tools_may_be_required(start, folders):
    live = start(Saying(NOTHING), model_dir=folders["hermes"])
    with client_of(live) as client:
        ask(client, tool_choice=allowed("get_time", mode="required"))
        ask(client, tool_choice="required", tools=TOOLS[1:])
    [grammar] = live.engine.grammars  # both ask for the same, which is asked about once
    assert b"get_time" in grammar
    assert b"get_weather" not in grammar


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        (allowed("get_time", mode="none"), '"auto" or "required"'),
        (allowed(), "one tool at least"),
        (allowed("get_news"), "use one of get_weather, get_time"),
        ({**allowed("get_time"), "name": "get_time"}, "allowed_tools must be"),
        ({"type": "allowed_tools", "mode": "auto", "tools": []}, "allowed_tools must be"),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": ["get_time"]}}, "'get_time' is not"),
    ],
)
def test_allowed_tools_that_make_no_sense_are_refused(served, choice, says):
    with pytest.raises(BadRequestError, match=says) as caught:
        ask(served("hermes", CALL), tool_choice=choice)
    assert caught.value.param == "tool_choice"


def test_a_call_cannot_be_required_without_tools(served):
    with pytest.raises(BadRequestError, match="needs tools"):
        ask(served("hermes", CALL), tools=NOT_GIVEN, tool_choice="required")


def test_parameters_that_are_no_schema_are_refused(served):
    tools = [{"type": "function", "function": {"name": "f", "parameters": [1]}}]
    with pytest.raises(BadRequestError, match=r"tools\[0\].function.parameters"):
        ask(served("hermes", CALL), tools=tools)


def test_strict_is_true_or_false(served):
    tools = [{"type": "function", "function": {"name": "f", "strict": "yes", "parameters": SCHEMA}}]
    with pytest.raises(BadRequestError, match=r"tools\[0\].function.strict"):
        ask(served("hermes", CALL), tools=tools)


def test_reasoning_is_told_from_the_answer_by_either_name(served, answers):
    text = f"<think>\n{REASONING}\n</think>\n\nYes. {CALL}"
    client = served("thinks", text)
    [answer] = answers(client)
    assert (answer["reasoning"], answer["content"]) == (REASONING, "Yes.")
    assert [call[1] for call in answer["calls"]] == ["get_weather"]
    message = ask(client).choices[0].message
    assert message.model_extra["reasoning"] == message.model_extra["reasoning_content"] == REASONING


def test_tokens_of_reasoning_are_counted(served, answers):
    thought = f"<think>\n{REASONING}\n</think>"
    [answer] = answers(served("thinks", f"{thought}Yes."))
    assert answer["usage"].completion_tokens_details.reasoning_tokens == count(thought)
    [answer] = answers(served("thinks", "Yes."))
    assert answer["usage"].completion_tokens_details.reasoning_tokens == 0


def test_reasoning_that_is_cut_short_is_reasoning(served, answers):
    [answer] = answers(served("thinks", f"<think>{REASONING} and so on"), max_tokens=12)
    assert (answer["content"], answer["finish"]) == ("", "length")
    assert f"{REASONING} and so on".startswith(answer["reasoning"])
    assert answer["usage"].completion_tokens_details.reasoning_tokens == 12


def test_a_prompt_may_open_the_reasoning(served, answers):
    client = served("thinks", f"{REASONING}\n</think>Yes.")
    [answer] = answers(client, extra_body={"chat_template_kwargs": {"enable_thinking": True}})
    assert (answer["reasoning"], answer["content"]) == (REASONING, "Yes.")
    [answer] = answers(client)
    assert (answer["reasoning"], answer["content"]) == ("", f"{REASONING}\n</think>Yes.")


def test_a_continued_answer_goes_on_with_its_reasoning(served, answers):
    messages = [*HELLO, {"role": "assistant", "content": "<think>Well,"}]
    [answer] = answers(
        served("thinks", "yes.</think>So."), messages=messages, extra_body={"continue_final_message": True}
    )
    assert (answer["reasoning"], answer["content"]) == ("yes.", "So.")


def test_reasoning_can_be_left_in_the_text_or_left_out(served, answers):
    text = f"<think>{REASONING}</think>\n\nYes."
    client = served("thinks", text)
    [answer] = answers(client, extra_body={"separate_reasoning": False})
    assert (answer["reasoning"], answer["content"]) == ("", text)
    [answer] = answers(client, extra_body={"include_reasoning": False})
    assert (answer["reasoning"], answer["content"]) == ("", "Yes.")


def test_special_tokens_of_a_format_are_seen_where_others_are_skipped(served, answers):
    text = (
        f"<|channel|>analysis<|message|>{REASONING}<|end|><|start|>assistant<|channel|>commentary "
        'to=functions.get_time <|constrain|>json<|message|>{"city": "Bern"}'
    )
    client = served("harmony", text, end="é!", eos_id=[byte_level().token_to_id("é!")])
    [answer] = answers(client)
    assert answer["reasoning"] == REASONING
    assert [call[1:] for call in answer["calls"]] == [["get_time", '{"city": "Bern"}']]


def test_flags_switch_the_formats_off(served, answers):
    text = f"<think>a</think>{CALL}"
    [answer] = answers(served("thinks", text, tool_call_parser="none", reasoning_parser="none"))
    assert (answer["content"], answer["calls"], answer["reasoning"]) == (text, [], "")


def test_arguments_of_a_call_are_json_that_a_client_can_read(served):
    [answer] = whole(served("hermes", CALL))
    assert json.loads(answer["calls"][0][2]) == {"city": "Zürich 世界"}


FUNCTIONS = {"tools": NOT_GIVEN, "functions": [tool["function"] for tool in TOOLS]}


def test_functions_are_answered_in_the_old_form(served):
    client = served("hermes", f"I look.\n\n{CALL}\n{NOTHING}")
    choice = ask(client, **FUNCTIONS).choices[0]
    assert choice.finish_reason == "function_call"
    assert choice.message.content == "I look."
    assert choice.message.tool_calls is None
    assert choice.message.function_call.name == "get_weather", "of several calls the first"
    assert json.loads(choice.message.function_call.arguments) == {"city": "Zürich 世界"}
    name, arguments = "", ""
    with ask(client, stream=True, **FUNCTIONS) as stream:
        for chunk in stream:
            assert chunk.choices[0].delta.tool_calls is None
            if (call := chunk.choices[0].delta.function_call) is not None:
                name, arguments = name + (call.name or ""), arguments + call.arguments
    assert (name, arguments) == ("get_weather", choice.message.function_call.arguments)
    assert chunk.choices[0].finish_reason == "function_call"
    assert ask(client, **FUNCTIONS, function_call="none").choices[0].message.function_call is None


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"functions": FUNCTIONS["functions"]}, "functions"),
        ({"tools": NOT_GIVEN, "function_call": {"name": "get_time"}}, "function_call"),
        (FUNCTIONS | {"function_call": "perhaps"}, "function_call"),
    ],
)
def test_what_makes_no_sense_in_the_old_form_is_refused(served, options, param):
    with pytest.raises(BadRequestError) as caught:
        ask(served("hermes", CALL), **options)
    assert caught.value.param == param
