"""Every field that the official clients can send, at any depth, is taken or refused by name; nothing else is taken."""

import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, NotRequired, Required, Union, get_args, get_origin

import httpx
import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import input_token_count_params, response_create_params
from typing_extensions import get_type_hints, is_typeddict

from lightllm.serving.api.native import GenerateBody, Parameters
from lightllm.serving.api.openai_chat import ChatBody
from lightllm.serving.api.pooling import EmbeddingBody
from tests.serving import checkpoint_for_tests
from tests.serving.checkpoint_for_tests import TEMPLATE
from tests.serving.live_api import MODEL, LiveApi
from tests.serving.script_for_tests import answer

HELLO = [{"role": "user", "content": "hello"}]
KNOWS_ALL = TEMPLATE + "{# <tool_call> <|im_start|> </think> #}{% if enable_thinking %}<think>\n{% endif %}"
Names = tuple[str, ...]  # of fields, the outermost first
Wrap = Callable[[Any], dict[str, Any]]


class Route(NamedTuple):
    """`passed_on`: objects that go to the template, to a grammar or back to the client as they are, by their places."""

    path: str
    params: type
    base: dict[str, Any]
    passed_on: frozenset[str]


ROUTES = {
    "chat": Route(
        "/v1/chat/completions",
        chat_create_params.CompletionCreateParamsBase,
        {"model": MODEL, "messages": HELLO, "max_tokens": 3},
        frozenset({
            "messages.", "messages.function_call", "messages.tool_calls.", "messages.tool_calls.function", "tools.",
            "tools.function", "tools.function.parameters", "functions.", "functions.parameters",
            "response_format.json_schema.schema", "metadata",
        }),
    ),
    "completions": Route(
        "/v1/completions",
        completion_create_params.CompletionCreateParamsBase,
        {"model": MODEL, "prompt": "hello", "max_tokens": 3},
        frozenset(),
    ),
    "responses": Route(
        "/v1/responses",
        response_create_params.ResponseCreateParamsBase,
        {"model": MODEL, "input": "hello", "max_output_tokens": 3, "store": False},
        frozenset({
            "input.content.annotations.", "input.content.logprobs.", "input.content.logprobs.top_logprobs.",
            "input.summary.", "tools.parameters", "text.format.schema", "metadata",
        }),
    ),
    "input_tokens": Route(
        "/v1/responses/input_tokens",
        input_token_count_params.InputTokenCountParams,
        {"model": MODEL, "input": "hello"},
        frozenset({
            "input.content.annotations.", "input.content.logprobs.", "input.content.logprobs.top_logprobs.",
            "input.summary.", "tools.parameters", "text.format", "text.format.schema",
        }),
    ),
    "messages": Route(
        "/v1/messages",
        message_create_params.MessageCreateParamsBase,
        {"model": MODEL, "messages": HELLO, "max_tokens": 3},
        frozenset({"tools.input_schema", "tools.input_schema.properties", "output_config.format.schema"}),
    ),
    "count_tokens": Route(
        "/v1/messages/count_tokens",
        message_count_tokens_params.MessageCountTokensParams,
        {"model": MODEL, "messages": HELLO},
        frozenset({"tools.input_schema", "tools.input_schema.properties", "output_config.format.schema"}),
    ),
}  # fmt: skip
# What servers like this one take besides: vLLM's sampling, and all of the seed system's parameters.
SAMPLING = [
    "add_generation_prompt", "add_special_tokens", "allowed_token_ids", "bad_words", "best_of", "cache_salt",
    "chat_template_kwargs", "continue_final_message", "documents", "echo", "guided_choice", "guided_grammar",
    "guided_json", "guided_regex", "ignore_eos", "include_reasoning", "include_stop_str_in_output", "length_penalty",
    "min_p", "min_tokens", "priority", "prompt_logprobs", "repetition_penalty", "response_format", "return_token_ids",
    "return_tokens_as_token_ids", "skip_special_tokens", "spaces_between_special_tokens", "stop_token_ids",
    "structured_outputs", "top_k", "truncate_prompt_tokens", "truncation_side", "use_beam_search",
]  # fmt: skip
NATIVE = [
    "add_spaces_between_special_tokens", "add_special_tokens", "allowed_token_ids", "best_of", "do_sample",
    "exponential_decay_length_penalty", "frequency_penalty", "group_request_id", "guided_grammar", "guided_json",
    "ignore_eos", "image_max_patch_num", "input_penalty", "max_new_tokens", "min_new_tokens", "move_kv_to_decode_node",
    "n", "presence_penalty", "print_eos_token", "regular_constraint", "repetition_penalty", "return_details",
    "skip_special_tokens", "stop_sequences", "suggested_dp_index", "temperature", "top_k", "top_p",
]  # fmt: skip
# And what they take that is refused here.
OTHERS = [
    "chat_template", "custom_logit_processor", "ec_transfer_params", "extra_key", "input_ids", "kv_transfer_params",
    "logprob_token_ids", "lora_path", "media_io_kwargs", "mm_processor_kwargs", "no_stop_trim", "repetition_detection",
    "request_id", "return_hidden_states", "return_meta_info", "return_prompt_text", "rid", "session_id", "stop_regex",
    "stream_interval", "thinking_token_budget", "vllm_xargs", "watermarking",
]  # fmt: skip


@pytest.fixture(scope="module")
def http(tmp_path_factory):
    live = LiveApi(checkpoint_for_tests.write(tmp_path_factory.mktemp("checkpoint"), template=KNOWS_ALL), answer)
    with httpx.Client(base_url=live.url, timeout=20, verify=False) as http:
        yield http
    live.close()


def kinds_of(hint: Any) -> Iterator[Any]:
    """The types that a field may have, but for None."""
    if get_origin(hint) in (Required, NotRequired):
        yield from kinds_of(get_args(hint)[0])
    elif get_origin(hint) in (Union, types.UnionType):
        for one in get_args(hint):
            yield from kinds_of(one)
    elif hint is not type(None):
        yield hint


def fields_of(params: type) -> dict[str, Any]:
    return get_type_hints(params, include_extras=True)


def smallest(kind: Any) -> Any:
    """A value of the type that says as little as it can."""
    if is_typeddict(kind):
        required = {name: hint for name, hint in fields_of(kind).items() if get_origin(hint) is Required}
        return {name: smallest(next(kinds_of(hint), None)) for name, hint in required.items()}
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return arguments[0]
    if origin in (list, Iterable, Sequence):
        return [smallest(next(kinds_of(arguments[0])))]
    if origin in (dict, Mapping):
        return {"a": smallest(next(kinds_of(arguments[1])))}
    return {int: 1, float: 0.5, bool: True, None: None}.get(kind, "x")


def values_of(kind: Any, names: Names, wrap: Wrap, seen: set[Any]) -> Iterator[tuple[Names, Any]]:
    """(names of the fields down to it, body) for each value of the type, each field of an object once."""
    origin, arguments = get_origin(kind), get_args(kind)
    if is_typeddict(kind):
        if (kind, names[-1]) not in seen:
            seen.add((kind, names[-1]))
            yield names, wrap(smallest(kind))
            yield from bodies_of(kind, names, lambda fields: wrap(smallest(kind) | fields), seen)
    elif origin is Literal:
        yield from ((names, wrap(value)) for value in arguments)
    elif origin in (list, Iterable, Sequence):
        for one in kinds_of(arguments[0]):
            yield from values_of(one, names, lambda value: wrap([value]), seen)
    else:
        yield names, wrap(smallest(kind))


def bodies_of(params: type, names: Names, wrap: Wrap, seen: set[Any]) -> Iterator[tuple[Names, Any]]:
    """The same for each field of the type."""
    for name, hint in fields_of(params).items():
        for kind in kinds_of(hint):
            yield from values_of(kind, (*names, name), lambda value, name=name: wrap({name: value}), seen)


def objects_in(value: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(where it is, the object), outermost first. `a.` is in the list `a`."""
    if isinstance(value, dict):
        yield place, value
        for name, inner in list(value.items()):
            yield from objects_in(inner, f"{place}.{name}".lstrip(".") if place[-1:] != "." else f"{place}{name}")
    elif isinstance(value, list):
        for inner in value:
            yield from objects_in(inner, f"{place}.")


@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)
def test_every_field_is_taken_or_refused_by_name(http, route):
    taken, tried, lax = set(), set(), set()
    for names, body in bodies_of(route.params, (), lambda fields: route.base | fields, set()):
        answer = http.post(route.path, json=body)
        if names == ("model",):
            assert answer.status_code == 404
        elif answer.status_code == 400:
            assert any(name in answer.text for name in names), (body, answer.text)
        else:
            assert answer.status_code == 200, (body, answer.text)
            taken.add(names)
            for place, given in objects_in(body):
                what = (place, given.get("type"), *given)
                if what not in tried and takes_anything(http, route, body, place, given):
                    lax.add(place)
                tried.add(what)
    assert len(taken) > 10, "most requests make sense"
    assert lax <= route.passed_on


def takes_anything(http: httpx.Client, route: Route, body: dict[str, Any], place: str, given: dict[str, Any]) -> bool:
    """Whether a field that nobody knows may be in `given`, which is at `place` of `body`."""
    given["wholly_unknown"] = "x"
    answer = http.post(route.path, json=body)
    del given["wholly_unknown"]
    name = place.rstrip(".").rpartition(".")[2]
    assert answer.status_code == 200 or "wholly_unknown" in answer.text or name in answer.text, (body, answer.text)
    return answer.status_code == 200


def test_every_field_of_embeddings_is_known():
    assert set(EmbeddingBody.__struct_fields__) >= fields_of(embedding_create_params.EmbeddingCreateParams).keys()


def test_what_servers_like_this_one_take_is_known():
    assert set(ChatBody.__struct_fields__) >= set(SAMPLING)
    assert set(Parameters.__struct_fields__) >= set(NATIVE)
    assert set(GenerateBody.__struct_fields__) == {"inputs", "parameters", "multimodal_params"}


@pytest.mark.parametrize("route", ["chat", "completions"])
def test_fields_of_other_servers_are_refused_by_name(http, route):
    for name in OTHERS:
        answer = http.post(ROUTES[route].path, json=ROUTES[route].base | {name: "x"})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == name
