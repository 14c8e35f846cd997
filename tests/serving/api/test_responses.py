"""The Responses API, as the official client sees it."""

import json
import time

import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from openai.types.responses import input_token_count_params, response_create_params

from lightllm.serving.api.responses.body import InputTokensBody, ResponsesBody
from tests.serving import checkpoint_for_tests
from tests.serving.checkpoint_for_tests import TEMPLATE
from tests.serving.live_api import MODEL, LiveApi, client_of
from tests.serving.script_for_tests import count
from tests.serving.text.tokenizers_for_tests import byte_level

RENDERED = "<|start|>user\nhello<|end|><|start|>assistant\n"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [{"type": "function", "name": "get_weather", "description": "Of a city.", "parameters": SCHEMA}]
THINKS = TEMPLATE + "{# <tool_call> <|im_start|> </think> #}{% if enable_thinking %}<think>\n{% endif %}"
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich 世界"}}\n</tool_call>'
TEXT = "Größe 世界; that is all."
LONG = "on and on, " * 100


class Server:
    """One server for all of these tests; `says` is what its model answers next."""

    def __init__(self, folder):
        self.says = TEXT
        self.live = LiveApi(folder, self._answer)
        self.client: OpenAI = client_of(self.live)

    def _answer(self, prompt: list[int], seed: int) -> list[int]:
        tokenizer = byte_level()
        return [*tokenizer.encode(self.says).ids, tokenizer.token_to_id("<|end|>")]

    def ask(self, says: str = TEXT, **options):
        self.says = says
        return self.client.responses.create(**({"model": MODEL, "input": "hello"} | options))

    def stream(self, says: str = TEXT, **options):
        """The final response and all events."""
        with self.ask(says, stream=True, **options) as stream:
            events = list(stream)
        return events[-1].response, events

    def prompt(self, **options) -> str:
        """The prompt as it reached the engine."""
        self.ask(**({"max_output_tokens": 1} | options))
        return self.live.engine.tokenizer.decode(self.live.engine.prompts[-1], skip_special_tokens=False)

    def ended(self, id: str):
        """The response when it has ended."""
        deadline = time.monotonic() + 10
        while (response := self.client.responses.retrieve(id)).status in ("queued", "in_progress"):
            assert time.monotonic() < deadline, "it ends"
            time.sleep(0.01)
        return response


@pytest.fixture(scope="module")
def whole_server(tmp_path_factory):
    server = Server(checkpoint_for_tests.write(tmp_path_factory.mktemp("checkpoint"), template=THINKS))
    yield server
    server.client.close()
    server.live.close()


@pytest.fixture
def server(whole_server):
    yield whole_server
    whole_server.live.engine.tick_s = 0
    assert whole_server.live.engine.is_idle(), "every request was released"


def test_a_text_is_answered_with_a_message_and_usage(server):
    answer = server.ask(instructions="Be brief.", metadata={"a": "b"}, temperature=0.5)
    assert answer.output_text == TEXT
    [message] = answer.output
    assert (message.type, message.role, message.status) == ("message", "assistant", "completed")
    assert (answer.object, answer.status, answer.model, answer.error) == ("response", "completed", MODEL, None)
    assert (answer.instructions, answer.metadata, answer.temperature) == ("Be brief.", {"a": "b"}, 0.5)
    usage = answer.usage
    assert usage.output_tokens == count(TEXT) + 1
    assert usage.input_tokens_details.cached_tokens == usage.input_tokens // 2
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens


def kinds(events) -> list[str]:
    """Types of events in order, repetitions of deltas left out."""
    names = [event.type.removeprefix("response.") for event in events]
    return [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name or not name.endswith("delta")]


def test_a_stream_gives_the_same_in_order(server):
    answer, events = server.stream()
    assert kinds(events) == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type.endswith("text.delta")) == TEXT
    whole = server.ask()
    assert answer.output_text == whole.output_text
    assert (answer.status, answer.usage) == (whole.status, whole.usage)
    assert len({event.response.id for event in events if hasattr(event, "response")}) == 1


def test_the_official_client_can_put_a_stream_together(server):
    server.says = "<think>\nHmm.\n</think>\nLet me see.\n" + CALL
    with server.client.responses.stream(model=MODEL, input="hello", tools=TOOLS) as stream:
        for _ in stream:
            pass
        final = stream.get_final_response()
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]
    assert final.output[2].arguments == '{"city": "Zürich 世界"}'


THOUGHT_AND_CALLS = "<think>\nGröße?\n</think>\n\nLet me see.\n" + CALL + "\n" + CALL


@pytest.mark.parametrize("form", ["ask", "stream"])
def test_reasoning_text_and_calls_are_items(server, form):
    answer = getattr(server, form)(THOUGHT_AND_CALLS, tools=TOOLS)
    response = answer[0] if form == "stream" else answer
    reasoning, message, first, second = response.output
    assert reasoning.content[0].text == "Größe?"
    assert message.content[0].text == "Let me see."
    assert (first.name, json.loads(first.arguments)) == ("get_weather", {"city": "Zürich 世界"})
    assert first.call_id != second.call_id
    assert response.status == "completed"
    assert 0 < response.usage.output_tokens_details.reasoning_tokens < response.usage.output_tokens
    if form == "stream":
        assert kinds(answer[1])[2:14] == [
            "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done",
            "content_part.done", "output_item.done", "output_item.added", "content_part.added", "output_text.delta",
            "output_text.done", "content_part.done", "output_item.done",
        ]  # fmt: skip
        assert kinds(answer[1])[14:18] == [
            "output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done",
        ]  # fmt: skip
    assert len(server.ask(THOUGHT_AND_CALLS, tools=TOOLS, parallel_tool_calls=False).output) == 3


def test_a_maximum_makes_a_response_incomplete(server):
    answer, events = server.stream(max_output_tokens=3)
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert events[-1].type == "response.incomplete"
    assert answer.usage.output_tokens == 3


@pytest.mark.parametrize("form", ["ask", "stream"])
def test_logprobs_come_with_the_text_if_included(server, form):
    options = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    answer = getattr(server, form)(**options)
    response = answer[0] if form == "stream" else answer
    logprobs = response.output[0].content[0].logprobs
    assert b"".join(bytes(entry.bytes) for entry in logprobs).decode() == TEXT + "<|end|>"
    assert [top.logprob for top in logprobs[0].top_logprobs] == [-0.5, -1.5]


def test_items_become_the_chat_that_they_are(server):
    given = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hmm."}]},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Wait.", "annotations": []}],
        },
        {"type": "function_call", "call_id": "1", "name": "get_weather", "arguments": '{"city": "Bern"}'},
        {"type": "function_call_output", "call_id": "1", "output": "rain"},
    ]
    prompt = server.prompt(input=given, instructions="Be brief.", tools=TOOLS)
    assert "<|start|>system\nBe brief.<|end|><|start|>system\nBe kind.<|end|><|start|>user\nWeather?<|end|>" in prompt
    assert '<|start|>assistant\nWait.get_weather{"city": "Bern"}<|end|><|start|>tool\nrain<|end|>' in prompt


def test_input_tokens_are_counted_as_the_model_sees_them(server):
    first = server.ask(CALL, tools=TOOLS)
    for options in (
        {"input": "hello"},
        {"input": [{"role": "user", "content": "hello"}], "instructions": "Be brief.", "tools": TOOLS},
        {"input": "And?", "previous_response_id": first.id},
    ):
        counted = server.client.responses.input_tokens.count(model=MODEL, **options)
        assert counted.input_tokens == server.ask(**options).usage.input_tokens
    for wrong in ({"personality": "friendly"}, {"conversation": "c"}, {"input": [IMAGE]}, {"temperature": 1}):
        with pytest.raises(BadRequestError) as caught:
            server.client.responses.input_tokens.count(extra_body={"input": "a"} | wrong)
        assert next(iter(wrong)) in caught.value.param


def test_every_field_of_the_official_client_is_known():
    for body, params in (
        (ResponsesBody, response_create_params.ResponseCreateParamsBase),
        (InputTokensBody, input_token_count_params.InputTokenCountParams),
    ):
        assert set(body.__struct_fields__) >= params.__annotations__.keys()


def test_a_response_goes_on_from_a_stored_one(server):
    first = server.ask(CALL, tools=TOOLS, instructions="Be brief.")
    result = [{"type": "function_call_output", "call_id": first.output[0].call_id, "output": "rain"}]
    second = server.ask(input=result, previous_response_id=first.id, tools=TOOLS)
    assert second.previous_response_id == first.id
    prompt = server.prompt(input="And now?", previous_response_id=second.id)
    assert "Be brief." not in prompt, "instructions are those of one response"
    assert prompt == (
        '<|start|>user\nhello<|end|><|start|>assistant\nget_weather{"city": "Zürich 世界"}<|end|>'
        f"<|start|>tool\nrain<|end|><|start|>assistant\n{TEXT}<|end|><|start|>user\nAnd now?<|end|><|start|>assistant\n"
    )
    listed = server.client.responses.input_items.list(second.id, order="asc")
    assert [item.type for item in listed] == ["message", "function_call", "function_call_output"]
    last = server.client.responses.input_items.list(second.id, limit=1)
    assert [item.type for item in last.data] == ["function_call_output"]
    assert last.has_more
    assert [item.type for item in last] == ["function_call_output", "function_call", "message"], "page by page"


def test_a_client_that_keeps_everything_itself_can_send_reasoning_back(server):
    included = {"store": False, "include": ["reasoning.encrypted_content"]}
    answer = server.ask("<think>\nGröße?\n</think>\nYes.", **included)
    sent = [{"role": "user", "content": "hello"}]
    for item in answer.output:
        fields = item.model_dump(exclude_none=True)
        sent.append({name: value for name, value in fields.items() if item.type != "reasoning" or name != "content"})
    assert "assistant\nYes.<|end|>" in server.prompt(input=sent, store=False)
    with pytest.raises(NotFoundError):
        server.client.responses.retrieve(answer.id)


def test_a_stored_response_is_retrieved_replayed_and_deleted(server):
    answer, events = server.stream(THOUGHT_AND_CALLS, tools=TOOLS)
    responses = server.client.responses
    assert responses.retrieve(answer.id) == answer
    with responses.retrieve(answer.id, stream=True) as replay:
        assert list(replay) == events
    with responses.retrieve(answer.id, stream=True, starting_after=5) as replay:
        assert list(replay) == events[6:]
    responses.delete(answer.id)
    for ask in (responses.retrieve, responses.delete, responses.cancel, responses.input_items.list):
        with pytest.raises(NotFoundError, match="no response"):
            ask(answer.id)
    with pytest.raises(BadRequestError, match="no response"):
        server.ask(previous_response_id=answer.id)


def test_a_response_is_written_in_the_background(server):
    queued = server.ask(background=True)
    assert (queued.status, queued.background, queued.output) == ("queued", True, [])
    ended = server.ended(queued.id)
    assert (ended.id, ended.status, ended.output_text) == (queued.id, "completed", TEXT)
    assert server.client.responses.cancel(queued.id) == ended, "it has ended already"


def test_a_background_response_is_streamed_and_taken_up_again(server):
    server.live.engine.tick_s = 0.005
    with server.ask(LONG, background=True, stream=True) as stream:
        events = [next(stream) for _ in range(10)]
    assert kinds(events)[:3] == ["created", "queued", "in_progress"]
    id = events[0].response.id
    with server.client.responses.retrieve(id, stream=True, starting_after=9) as stream:
        assert next(stream).sequence_number == 10
        server.live.engine.tick_s = 0
        rest = list(stream)
    assert rest[-1].type == "response.completed"
    assert rest[-1].response.output_text == LONG


def test_a_background_response_is_cancelled(server):
    server.live.engine.tick_s = 0.005
    queued = server.ask(LONG, background=True)
    cancelled = server.client.responses.cancel(queued.id)
    assert (cancelled.status, cancelled.id) == ("cancelled", queued.id)
    assert server.client.responses.retrieve(queued.id) == cancelled
    assert server.live.engine.is_idle()
    with pytest.raises(BadRequestError, match="background"):
        server.client.responses.cancel(server.ask().id)


def test_the_oldest_messages_give_way_if_truncation_is_auto(server):
    given = [{"role": "user", "content": f"{i} " + "word " * 150} for i in range(12)]
    with pytest.raises(BadRequestError, match="4096"):
        server.ask(input=given)
    prompt = server.prompt(input=given, truncation="auto", instructions="Be brief.")
    kept = [i for i in range(12) if f"user\n{i} word" in prompt]
    assert kept == list(range(kept[0], 12))
    assert prompt.startswith("<|start|>system\nBe brief.")
    assert 0 < kept[0] < 11


def test_a_stream_that_fails_says_so(start, checkpoint):
    live = start(lambda prompt, seed: byte_level().encode("on and on, ").ids, engine={"tick_s": 0.01})
    with client_of(live) as client, client.responses.create(model=MODEL, input="a", stream=True) as stream:
        assert next(stream).type == "response.created"
        live.lose_engine("worker 0 was killed")
        *_, last = stream
    assert (last.type, last.response.status) == ("response.failed", "failed")
    assert "worker 0 was killed" in last.response.error.message


def test_only_allowed_tools_are_shown(server):
    tools = [*TOOLS, {"type": "function", "name": "get_time", "parameters": {}}]
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "get_time"}]}
    prompt = server.prompt(tools=tools, tool_choice=choice)
    assert "get_time" in prompt
    assert "get_weather" not in prompt
    assert server.ask(tools=tools, tool_choice=choice).tool_choice.to_dict() == choice


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp", "server_label": "deepwiki"}]},
        {"type": "allowed_tools", "mode": "auto", "tools": 1},
        {"type": "allowed_tools", "mode": "never", "tools": [{"type": "function", "name": "get_weather"}]},
        {"type": "mcp", "server_label": "deepwiki"},
        {"type": "custom", "name": "get_weather"},
        {"type": "function", "name": "get_weather", "strict": True},
    ],
)
def test_choices_of_tools_that_are_not_there_are_refused(server, choice):
    with pytest.raises(BadRequestError) as caught:
        server.ask(tools=TOOLS, tool_choice=choice)
    assert caught.value.param == "tool_choice"


IMAGE = {"role": "user", "content": [{"type": "input_image", "image_url": "data:"}]}
REFUSED = {
    "input": [IMAGE],
    "tools": [{"type": "web_search"}],
    "tool_choice": {"type": "allowed_tools"},
    "conversation": "conv_1",
    "prompt": {"id": "p"},
    "include": ["everything"],
    "top_logprobs": 2,
    "reasoning": {"summary": "auto"},
    "wholly_unknown": 1,
    "temperature": -1,
    "max_output_tokens": 0,
    "previous_response_id": "resp_none",
    "metadata": {str(i): "" for i in range(17)},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name(server, name):
    with pytest.raises(BadRequestError) as caught:
        server.client.responses.create(extra_body={"model": MODEL, "input": "a"} | {name: REFUSED[name]})
    assert name in caught.value.param


@pytest.mark.parametrize("query", ["stream=maybe", "starting_after=x&stream=true", "starting_after=1", "unheard=1"])
def test_queries_that_make_no_sense_are_refused(server, query):
    answer = server.client._client.get(f"{server.live.url}/v1/responses/{server.ask().id}?{query}")
    assert answer.status_code == 400, answer.text


def test_responses_of_another_key_are_not_found(start, checkpoint):
    live = start(api_key=["one key-1", "two key-2"])
    with (
        OpenAI(base_url=live.url + "/v1", api_key="key-1", max_retries=0, timeout=20) as one,
        OpenAI(base_url=live.url + "/v1", api_key="key-2", max_retries=0, timeout=20) as two,
    ):
        answer = one.responses.create(model=MODEL, input="hello")
        assert one.responses.retrieve(answer.id) == answer
        with pytest.raises(NotFoundError):
            two.responses.retrieve(answer.id)
        with pytest.raises(BadRequestError, match="previous_response_id|no response"):
            two.responses.create(model=MODEL, input="and?", previous_response_id=answer.id)
