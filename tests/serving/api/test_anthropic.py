"""The Messages API, as Anthropic's own client sees it."""

import json

import pytest
from anthropic import Anthropic, APIStatusError, BadRequestError, NotFoundError
from anthropic.types import message_count_tokens_params, message_create_params

from lightllm.serving.api.anthropic.body import CountTokensBody, MessagesBody
from tests.serving import checkpoint_for_tests
from tests.serving.checkpoint_for_tests import TEMPLATE
from tests.serving.live_api import MODEL, LiveApi
from tests.serving.script_for_tests import count
from tests.serving.text.tokenizers_for_tests import byte_level

HELLO = [{"role": "user", "content": "hello"}]
RENDERED = "<|start|>user\nhello<|end|><|start|>assistant\n"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [{"name": "get_weather", "description": "Of a city.", "input_schema": SCHEMA}]
THINKS = TEMPLATE + "{# <tool_call> <|im_start|> </think> #}{% if enable_thinking %}<think>\n{% endif %}"
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich 世界"}}\n</tool_call>'
TEXT = "Größe 世界; that is all."


class Server:
    """One server for all of these tests; `says` is what its model answers next."""

    def __init__(self, folder):
        self.says = TEXT
        self.live = LiveApi(folder, self._answer)
        self.client = Anthropic(base_url=self.live.url, api_key="none", max_retries=0, timeout=20)

    def _answer(self, prompt: list[int], seed: int) -> list[int]:
        tokenizer = byte_level()
        return [*tokenizer.encode(self.says).ids, tokenizer.token_to_id("<|end|>")]

    def ask(self, says: str = TEXT, **options):
        self.says = says
        return self.client.messages.create(**({"model": MODEL, "messages": HELLO, "max_tokens": 500} | options))

    def stream(self, says: str = TEXT, **options):
        """The whole message and all events."""
        self.says = says
        values = {"model": MODEL, "messages": HELLO, "max_tokens": 500} | options
        with self.client.messages.stream(**values) as stream:
            events = list(stream)
            return stream.get_final_message(), events

    def prompt(self, **options) -> str:
        """The prompt as it reached the engine."""
        self.ask(**({"max_tokens": 1} | options))
        return self.live.engine.tokenizer.decode(self.live.engine.prompts[-1], skip_special_tokens=False)


@pytest.fixture(scope="module")
def whole_server(tmp_path_factory):
    server = Server(checkpoint_for_tests.write(tmp_path_factory.mktemp("checkpoint"), template=THINKS))
    yield server
    server.client.close()
    server.live.close()


@pytest.fixture
def server(whole_server):
    yield whole_server
    assert whole_server.live.engine.is_idle(), "every request was released"


def test_a_message_is_answered_with_text_and_usage(server):
    answer = server.ask()
    assert [(block.type, block.text) for block in answer.content] == [("text", TEXT)]
    assert (answer.type, answer.role, answer.model) == ("message", "assistant", MODEL)
    assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)
    usage = answer.usage
    assert usage.input_tokens + usage.cache_read_input_tokens == count(RENDERED)
    assert usage.cache_read_input_tokens == count(RENDERED) // 2
    assert usage.output_tokens == count(TEXT) + 1
    assert answer._request_id


def test_a_stream_gives_the_same_in_order(server):
    answer, events = server.stream()
    whole = server.ask()
    assert answer.content[0].text == whole.content[0].text
    assert (answer.stop_reason, answer.usage) == (whole.stop_reason, whole.usage)
    kinds = [event.type for event in events if event.type != "text"]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_events_have_names_and_a_ping_comes_first(server):
    body = {"model": MODEL, "messages": HELLO, "max_tokens": 2, "stream": True}
    with server.client._client.stream("POST", "/v1/messages", json=body) as response:
        pairs = [part.split("\n") for part in response.read().decode().split("\n\n") if part]
    names = [name.removeprefix("event: ") for name, _ in pairs]
    assert names == [json.loads(data.removeprefix("data: "))["type"] for _, data in pairs]
    assert names[:2] == ["message_start", "ping"]


THOUGHT_AND_CALL = "<think>\nGröße?\n</think>\n\nLet me see.\n" + CALL + "\n" + CALL


@pytest.mark.parametrize("form", ["ask", "stream"])
def test_thoughts_text_and_tool_use_are_blocks(server, form):
    answer = getattr(server, form)(THOUGHT_AND_CALL, tools=TOOLS)
    message = answer[0] if form == "stream" else answer
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
    thinking, text, first, second = message.content
    assert thinking.thinking == "Größe?"
    assert text.text == "Let me see."
    assert (first.name, first.input) == ("get_weather", {"city": "Zürich 世界"})
    assert first.id != second.id
    assert message.stop_reason == "tool_use"
    assert 0 < message.usage.output_tokens_details.thinking_tokens < message.usage.output_tokens


def test_at_most_one_tool_is_used_where_the_client_wants_so(server):
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    answer = server.ask(CALL + "\n" + CALL, tools=TOOLS, tool_choice=choice)
    assert [block.type for block in answer.content] == ["tool_use"]
    assert answer.stop_reason == "tool_use"
    assert answer.usage.output_tokens == count(CALL + "\n")


@pytest.mark.parametrize("form", ["ask", "stream"])
def test_a_call_that_is_cut_short_is_shown_as_it_is(server, form):
    answer = getattr(server, form)(
        CALL[: CALL.index("rich")], tools=TOOLS, max_tokens=count(CALL[: CALL.index("rich")])
    )
    message = answer[0] if form == "stream" else answer
    assert message.stop_reason == "max_tokens"
    if form == "ask":
        assert message.content[0].input == {"INVALID_JSON": '{"city": "Zü'}


def test_a_stop_sequence_and_a_maximum_end_the_answer(server):
    answer = server.ask(stop_sequences=["nowhere", "that"])
    assert answer.content[0].text == TEXT.split("that")[0]
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "that")
    answer = server.ask(max_tokens=3)
    assert (answer.stop_reason, answer.usage.output_tokens) == ("max_tokens", 3)


def test_a_round_of_tools_is_rendered(server):
    messages = [
        *HELLO,
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hmm.", "signature": ""},
                {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "1", "name": "get_weather", "input": {"city": "Bern"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "1", "content": "no such city", "is_error": True},
                {"type": "text", "text": "Well?", "cache_control": {"type": "ephemeral"}},
            ],
        },
        {"role": "system", "content": "Be quick."},
    ]
    system = [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}]
    prompt = server.prompt(messages=messages, system=system, tools=TOOLS)
    assert "<|start|>system\nBe brief.\nBe kind.<|end|>" in prompt
    assert "<|start|>assistant\nLet me see.get_weather" in prompt
    assert (
        "<|start|>tool\nError: no such city<|end|><|start|>user\nWell?<|end|><|start|>system\nBe quick.<|end|>"
        in prompt
    )
    assert '"parameters": {"type": "object"' in prompt
    assert "get_time" not in server.prompt(tools=TOOLS, tool_choice={"type": "none"})


def test_an_answer_can_be_sent_back_as_it_came(server):
    answer = server.ask(THOUGHT_AND_CALL, tools=TOOLS)
    result = [{"type": "tool_result", "tool_use_id": block.id} for block in answer.content if block.type == "tool_use"]
    messages = [*HELLO, {"role": "assistant", "content": answer.content}, {"role": "user", "content": result}]
    assert server.prompt(messages=messages, tools=TOOLS).count("get_weather") == 3


def test_the_assistants_last_message_is_continued(server):
    prompt = server.prompt(messages=[*HELLO, {"role": "assistant", "content": "Once upon "}])
    assert prompt.endswith("<|start|>assistant\nOnce upon ")


def test_thinking_is_switched_by_the_templates_variable(server):
    enabled = {"type": "enabled", "budget_tokens": 1024}
    assert server.prompt(thinking=enabled, max_tokens=2000).endswith("<think>\n")
    assert not server.prompt(thinking={"type": "disabled"}).endswith("<think>\n")


def test_sampling_parameters_reach_the_engine(server):
    sampling = {"temperature": 0.5, "top_p": 0.25, "top_k": 7}
    server.ask(metadata={"user_id": "me"}, service_tier="auto", extra_body=sampling)
    record = server.live.engine.records[-1]
    assert [float(record[name]) for name in ("temperature", "top_p", "top_k")] == [0.5, 0.25, 7]
    assert record["tenant"] != 0


def test_tokens_are_counted_as_the_model_sees_them(server):
    options = {"messages": HELLO, "system": "Be brief.", "tools": TOOLS}
    counted = server.client.messages.count_tokens(model=MODEL, **options)
    usage = server.ask(**options).usage
    assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}}
REFUSED = {
    "messages": [{"role": "user", "content": [IMAGE]}],
    "tools": [{"type": "web_search_20250305", "name": "web_search"}],
    "tool_choice": {"type": "tool"},
    "thinking": {"type": "enabled", "budget_tokens": 5},
    "container": "c",
    "mcp_servers": [{}],
    "wholly_unknown": 1,
    "temperature": -1,
    "max_tokens": 0,
    "stop_sequences": [""],
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_refused_in_anthropics_words(server, name):
    body = {"model": MODEL, "messages": HELLO, "max_tokens": 5} | {name: REFUSED[name]}
    with pytest.raises(BadRequestError) as caught:
        server.client.messages.create(**{"model": "", "messages": [], "max_tokens": 1}, extra_body=body)
    error = caught.value
    assert error.body["type"] == "error"
    assert error.body["error"]["type"] == "invalid_request_error"
    assert name in error.body["error"]["message"]
    assert error.body["request_id"] == error.request_id


def test_every_field_of_the_official_client_is_known():
    for body, params in (
        (MessagesBody, message_create_params.MessageCreateParamsBase),
        (CountTokensBody, message_count_tokens_params.MessageCountTokensParams),
    ):
        assert set(body.__struct_fields__) >= params.__annotations__.keys()


def test_a_model_that_is_not_served_is_not_found(server):
    with pytest.raises(NotFoundError) as caught:
        server.ask(model="other")
    assert caught.value.body["error"]["type"] == "not_found_error"


def test_another_version_of_the_api_is_refused(server):
    with pytest.raises(BadRequestError, match="2023-06-01"):
        server.ask(extra_headers={"anthropic-version": "2023-01-01"})


def test_a_stream_that_fails_ends_with_an_error(start, checkpoint):
    live = start(lambda prompt, seed: byte_level().encode("on and on, ").ids, engine={"tick_s": 0.01})
    with (
        Anthropic(base_url=live.url, api_key="none", max_retries=0, timeout=20) as client,
        client.messages.create(model=MODEL, messages=HELLO, max_tokens=3000, stream=True) as stream,
    ):
        assert next(iter(stream)).type == "message_start"
        live.lose_engine("worker 0 was killed")
        with pytest.raises(APIStatusError, match="worker 0 was killed") as caught:
            list(stream)
    assert caught.value.body["error"]["type"] == "overloaded_error"
