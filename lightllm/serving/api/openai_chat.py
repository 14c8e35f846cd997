"""POST /v1/chat/completions."""

from typing import Any, NamedTuple

import msgspec
from fastapi import APIRouter, Request, Response

from lightllm.base.errors import RequestError
from lightllm.base.request import SamplingParams
from lightllm.serving.api import beams, chat_answers, chat_grammar, messages, old_functions, openai, stored_chats, terms
from lightllm.serving.api import body as bodies
from lightllm.serving.api.body import GenerationBody, Int
from lightllm.serving.api.chat_answers import ChatCompletion, ChatStream, ChoiceReader, Particulars
from lightllm.serving.api.chat_parsing import ChatParsing, TokenStarts
from lightllm.serving.api.chunks import ChatChunk
from lightllm.serving.api.documents import described
from lightllm.serving.api.event_stream import EventStream
from lightllm.serving.api.generation import Cut, Generation
from lightllm.serving.api.messages import DescribedMessage, DescribedTool
from lightllm.serving.api.one_call import OneCall
from lightllm.serving.api.openai import json
from lightllm.serving.api.service import Service
from lightllm.serving.api.tool_choice import DescribedChoice, tool_choice
from lightllm.serving.parsing.reasoning import Beginning
from lightllm.serving.records import Update, joined
from lightllm.serving.text.chat_template import ChatTemplate

NEUTRAL: dict[str, tuple[object, ...]] = bodies.NEUTRAL | {
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "moderation": (),
    "web_search_options": (),
    "verbosity": ("medium",),
    "echo": (False,),
}


class ChatBody(GenerationBody, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """A conversation to continue. max_completion_tokens is max_tokens by its new name."""

    messages: list[DescribedMessage]
    max_completion_tokens: Int | None = None
    best_of: Int | None = None
    store: bool | None = None
    logprobs: bool | None = None
    top_logprobs: Int | None = None
    tools: list[DescribedTool] | None = None
    tool_choice: DescribedChoice = None
    parallel_tool_calls: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    documents: list[dict[str, Any]] | None = None
    # Variables of the template, by the seed system's names
    role_settings: dict[str, Any] | None = None
    character_settings: dict[str, Any] | None = None
    # tools and tool_choice by their old names; the answer has the old form then
    functions: list[dict[str, Any]] | None = None
    function_call: str | dict[str, Any] | None = None
    # Extensions, named as in other servers
    separate_reasoning: bool | None = None
    include_reasoning: bool | None = None
    # Refused unless they say nothing, see NEUTRAL
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    moderation: Any = None
    web_search_options: Any = None
    verbosity: Any = None
    echo: Any = None


_decoder = msgspec.json.Decoder(ChatBody)
_VARIABLES = ("documents", "role_settings", "character_settings")
SWITCHES = ("enable_thinking", "thinking")  # by which templates let models reason or not


def router(service: Service) -> APIRouter:
    routes = APIRouter()

    @routes.post("/v1/chat/completions", **described(ChatBody, ChatCompletion, streams=ChatChunk))
    async def chat_completions(request: Request) -> Response:
        """Continues a conversation. With stream=true: chunks as server-sent events, then `[DONE]`."""
        body = bodies.decode(await bodies.read(request, service.config.max_request_bytes), _decoder)
        body = _with_tools(body)
        generation, readers, needs_tokens, params = await begun(service, request, body, until_end=not body.stream)
        prompt_token_ids = openai.prompt_token_ids(service, body, generation.requests[0])
        particulars = Particulars(openai.answer_id("chatcmpl"), bool(body.logprobs), prompt_token_ids)

        async def answer_of(answers: list[Update], readers: list[ChoiceReader]) -> ChatCompletion:
            """The whole answer, which is stored if it is to be."""
            answer = chat_answers.completion(service, body, generation, answers, readers, params, particulars)
            if body.store:
                await stored_chats.keep(service, request, answer, body.messages)
            return answer

        if body.stream:
            form = ChatStream(
                service, body, generation, readers, particulars,
                needs_tokens=needs_tokens, keeps_updates=bool(body.store),
            )  # fmt: skip

            async def store() -> None:
                await answer_of([joined(updates) for updates in form.updates], [reader.anew() for reader in readers])

            return EventStream(generation, form, before_end=store if body.store else None)
        answer = await answer_of(await generation.whole(request.receive, with_tokens=needs_tokens), readers)
        return Response(json(answer), media_type="application/json")

    stored_chats.add(routes, service)
    return routes


class Chat(NamedTuple):
    """A chat whose answers are under way, `readers` by sample."""

    generation: Generation
    readers: list[ChoiceReader]
    needs_tokens: bool  # to be read with the text
    params: SamplingParams


async def begun(service: Service, request: Request, body: ChatBody, *, until_end: bool) -> Chat:
    """Submits a chat, whichever API it was asked through. Raises RequestError."""
    service.check_model(body.model)
    parsing = parsing_of(service, body)
    params = _params(service, body, parsing)
    prompt = await prompt_of(service, body, parsing)
    params = chat_grammar.held(params, parsing, prompt.beginning)
    readers = [
        ChoiceReader(service, parsing, prompt.beginning, skips_special_tokens=params.skip_special_tokens)
        for _ in range(params.num_samples)
    ]
    cuts = _cuts(service, parsing, prompt.beginning, params)
    granted = terms.of(service, request, body, cache_salt=body.cache_salt)
    # What is cut has to be read as it comes, but for beams, of which there is nothing to read before their end.
    generation = Generation(
        service.client, granted, until_end=until_end and (not cuts or params.beams is not None), cuts=cuts
    )
    await service.check_grammar(params)
    generation.submit(prompt.tokens, params)
    shows_tokens = params.num_logprobs >= 0 or bool(body.return_token_ids)
    needs_tokens = shows_tokens or parsing.reasoning_format is not None or bool(cuts)
    return Chat(generation, readers, needs_tokens, params)


def _cuts(service: Service, parsing: ChatParsing, beginning: Beginning, params: SamplingParams) -> list[Cut]:
    """What ends each sample after its first call, where there may be one only and no grammar sees to it."""
    if parsing.tool_format is None or parsing.choice.several or params.grammar is not None:
        return []
    skips, shown = params.skip_special_tokens, parsing.shown_tokens
    return [
        OneCall(parsing, beginning, TokenStarts(service, skips_special_tokens=skips, shown=shown)).cut
        for _ in range(params.num_samples)
    ]


def parsing_of(service: Service, body: ChatBody) -> ChatParsing:
    """What the answers are to be read for."""
    formats = service.formats
    several = body.parallel_tool_calls is not False and not body.functions
    tools = messages.prepared_tools(body.tools) or []
    choice = tool_choice(body.tool_choice, tools, several=several)
    wants_calls = bool(choice.tools)
    tool_format = formats.tools if wants_calls else None
    markers = [marker for format in (tool_format, formats.reasoning) if format is not None for marker in format.markers]
    return ChatParsing(
        tool_format,
        formats.reasoning,
        tools=messages.parameters_by_name(choice.shown(tools)) if wants_calls else None,
        separates_reasoning=body.separate_reasoning is not False,
        shows_reasoning=body.include_reasoning is not False,
        choice=choice,
        has_old_form=bool(body.functions),
        shown_tokens=frozenset(service.need_tokenizer().special_tokens_in(markers) if markers else []),
    )


def _with_tools(body: ChatBody) -> ChatBody:
    """The same with the tools that its functions are. Raises RequestError."""
    if not body.functions and body.function_call is None:
        return body
    if body.tools or body.tool_choice is not None:
        raise RequestError("functions and function_call are tools and tool_choice; give one pair", param="functions")
    choice = old_functions.choice_of(body.function_call, has_functions=bool(body.functions))
    tools = old_functions.tools_of(body.functions or [])
    return msgspec.structs.replace(body, tools=tools, tool_choice=choice)


def _params(service: Service, body: ChatBody, parsing: ChatParsing) -> SamplingParams:
    bodies.refuse_unsupported(body, NEUTRAL)
    openai.check_stream_options(body)
    if body.top_logprobs is not None and not body.logprobs:
        raise RequestError("top_logprobs needs logprobs=true", param="top_logprobs")
    given = {body.max_tokens, body.max_completion_tokens} - {None}
    if len(given) > 1:
        raise RequestError(
            f"max_tokens={body.max_tokens} and max_completion_tokens={body.max_completion_tokens} disagree; give one",
            param="max_completion_tokens",
        )
    if body.top_logprobs is not None and not 0 <= body.top_logprobs <= 20:
        raise RequestError(f"top_logprobs={body.top_logprobs} is not allowed; use 0 to 20", param="top_logprobs")
    most = (body.top_logprobs or 0) if body.logprobs else None
    values = openai.sampling_values(service, body, max_tokens=next(iter(given), None), logprobs=most)
    values |= beams.values(body, best_of=body.best_of, stream=bool(body.stream))
    return service.params(values | {"shown_special_tokens": sorted(parsing.shown_tokens)})


class ChatPrompt(NamedTuple):
    tokens: list[int]
    beginning: Beginning


async def prompt_of(service: Service, body: ChatBody, parsing: ChatParsing) -> ChatPrompt:
    """The conversation, rendered with the model's template."""
    if body.continue_final_message and body.add_generation_prompt:
        raise RequestError(
            "continue_final_message and add_generation_prompt exclude one another", param="continue_final_message"
        )
    template, tokenizer = service.need_template(), service.need_tokenizer()
    conversation = messages.prepared(body.messages)
    tools = parsing.choice.shown(messages.prepared_tools(body.tools) or [])
    continues = bool(body.continue_final_message)
    begins_answer = not continues if body.add_generation_prompt is None else body.add_generation_prompt
    variables = _effort(body.reasoning_effort, template, has_tools=bool(tools))
    given = {name: getattr(body, name) for name in _VARIABLES}
    variables |= {name: value for name, value in given.items() if value is not None}

    def render() -> ChatPrompt:
        text = template.render(
            conversation,
            tools=tools or None,
            add_generation_prompt=begins_answer,
            continue_final_message=continues,
            variables=variables | (body.chat_template_kwargs or {}),
        )
        # A template writes special tokens itself, unless the client knows that this one does not.
        tokens = tokenizer.encode(text, add_special_tokens=bool(body.add_special_tokens))
        return ChatPrompt(tokens, parsing.beginning(text, conversation[-1]["content"] if continues else None))

    return await service.aside(render, messages.num_characters(conversation))


def _effort(effort: str | None, template: ChatTemplate, *, has_tools: bool) -> dict[str, Any]:
    """What tells a template how much the model is to reason."""
    if effort is None:
        return {}
    if effort == "none" and not template.knows("reasoning_effort", has_tools=has_tools):
        for switch in SWITCHES:
            if template.knows(switch, has_tools=has_tools):
                return {switch: False}
    return {"reasoning_effort": effort}
