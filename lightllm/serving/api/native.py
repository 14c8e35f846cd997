"""The seed system's routes: POST /generate, /generate_stream, / (either, by its `stream`), /tokens.

Names and forms are the seed's. Differences, each on purpose: errors are the OpenAI envelope with its status codes;
without max_new_tokens an answer may be as long as model and pool allow; cumlogprob is the sum, not the mean.
Without do_sample an answer is greedy, unless generation_config.json or a sampling parameter of the request says other.
"""

from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Request, Response

from lightllm.base.errors import RequestError
from lightllm.base.request import SamplingParams
from lightllm.serving import best_of
from lightllm.serving.api import beams, structured, terms
from lightllm.serving.api import body as bodies
from lightllm.serving.api.body import Int
from lightllm.serving.api.chunks import TokenEvent
from lightllm.serving.api.documents import described
from lightllm.serving.api.errors import Dialect, envelope
from lightllm.serving.api.event_stream import EventStream
from lightllm.serving.api.generation import Generation
from lightllm.serving.api.logprobs import for_prompt
from lightllm.serving.api.native_answers import Generated, TokenStream, generated
from lightllm.serving.api.openai import json
from lightllm.serving.api.service import Service

_SAME_NAME = (
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed",
    "ignore_eos", "skip_special_tokens", "prompt_logprobs", "typical_p", "logit_bias", "bad_words",
    "exponential_decay_length_penalty", "truncate_prompt_tokens", "truncation_side", "long_truncation_mode",
    "include_stop_str_in_output", "input_penalty", "first_token_ids", "token_healing",
)  # fmt: skip
_GRAMMARS = ("regular_constraint", "guided_grammar", "guided_json")
_MAKES_IT_SAMPLE = ("temperature", "top_p", "top_k", "min_p", "typical_p")
NEUTRAL: dict[str, tuple[object, ...]] = {
    "image_max_patch_num": (-1,),
    "add_spaces_between_special_tokens": (True, False),  # there are none between those of a tokenizer.json
    "print_eos_token": (False,),
    "group_request_id": (-1,),
    "suggested_dp_index": (-1,),
    "move_kv_to_decode_node": (),
}


_NAMES = {
    "max_tokens": "max_new_tokens",
    "min_tokens": "min_new_tokens",
    "stop": "stop_sequences",
    "prompt": "inputs",
}
DIALECTS = dict.fromkeys(("/", "/generate", "/generate_stream"), Dialect(envelope, names=_NAMES))


class Parameters(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """How to continue the prompt. null is the same as leaving a field out."""

    best_of: Int | None = None
    n: Int | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    input_penalty: bool | None = None
    seed: Int | None = None
    logit_bias: dict[Int, float] | None = None
    allowed_token_ids: list[Int] | None = None
    bad_words: list[str] | None = None
    exponential_decay_length_penalty: tuple[Int, float] | None = None
    max_new_tokens: Int | None = None
    min_new_tokens: Int | None = None
    ignore_eos: bool | None = None
    stop_sequences: str | list[str | Int | list[Int]] | None = None
    include_stop_str_in_output: bool | None = None
    truncate_prompt_tokens: Int | None = None
    truncation_side: Literal["left", "right"] | None = None
    long_truncation_mode: Literal["none", "head", "center", "tail"] | None = None
    skip_special_tokens: bool | None = None
    add_special_tokens: bool | None = None
    return_details: bool | None = None
    return_token_ids: bool | None = None
    cache_salt: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    prompt_logprobs: Int | None = None
    first_token_ids: list[Int] | None = None
    token_healing: bool | None = None
    use_beam_search: bool | None = None
    num_beams: Int | None = None
    num_beam_groups: Int | None = None
    diversity_penalty: float | None = None
    length_penalty: float | None = None
    early_stopping: bool | Literal["never"] | None = None
    priority: Int | None = None
    timeout_s: float | None = None
    user: str | None = None
    # What the answer must look like: one at most
    regular_constraint: str | None = None
    guided_grammar: str | None = None
    guided_json: Any = None
    # Refused unless they say nothing, see NEUTRAL
    image_max_patch_num: Any = None
    add_spaces_between_special_tokens: Any = None
    print_eos_token: Any = None
    group_request_id: Any = None
    suggested_dp_index: Any = None
    move_kv_to_decode_node: Any = None


class GenerateBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Text or token ids to continue."""

    inputs: str | list[Int]
    parameters: Parameters = Parameters()
    multimodal_params: Any = None


class EitherBody(GenerateBody, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """As /generate_stream if `stream`, else as /generate."""

    stream: bool = False


class TokensBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Text to count the tokens of."""

    text: str
    parameters: Parameters = Parameters()
    multimodal_params: Any = None


class TokenCount(msgspec.Struct, frozen=True):
    ntokens: int


_generate_decoder = msgspec.json.Decoder(GenerateBody)
_either_decoder = msgspec.json.Decoder(EitherBody)
_tokens_decoder = msgspec.json.Decoder(TokensBody)


def router(service: Service) -> APIRouter:
    routes = APIRouter()
    if not service.config.use_tgi_api:
        _add_generation(routes, service)

    async def count_tokens(request: Request) -> Response:
        """How many tokens a text has."""
        body = await _body_of(service, request, _tokens_decoder)
        refuse_media(body.multimodal_params)
        bodies.refuse_unsupported(body.parameters, NEUTRAL)
        adds = body.parameters.add_special_tokens is not False
        count = len(await service.encode(body.text, add_special_tokens=adds))
        return Response(json(TokenCount(count)), media_type="application/json")

    routes.post("/tokens", **described(TokensBody, TokenCount))(count_tokens)
    routes.get("/tokens", include_in_schema=False)(count_tokens)
    return routes


def _add_generation(routes: APIRouter, service: Service) -> None:
    @routes.post("/generate", **described(GenerateBody, Generated))
    async def generate(request: Request) -> Response:
        """Continues a prompt; the answer comes as a whole."""
        return await _generate(service, await _body_of(service, request, _generate_decoder), request)

    @routes.post("/generate_stream", **described(GenerateBody, None, streams=TokenEvent))
    async def generate_stream(request: Request) -> Response:
        """Continues a prompt; an event per token."""
        return await _generate_stream(service, await _body_of(service, request, _generate_decoder), request)

    @routes.post("/", **described(EitherBody, Generated, streams=TokenEvent))
    async def either(request: Request) -> Response:
        """/generate, or with stream=true /generate_stream."""
        body = await _body_of(service, request, _either_decoder)
        return await (_generate_stream(service, body, request) if body.stream else _generate(service, body, request))


async def _body_of(service: Service, request: Request, decoder: msgspec.json.Decoder[Any]) -> Any:
    return bodies.decode(await bodies.read(request, service.config.max_request_bytes), decoder)


def refuse_media(multimodal_params: Any) -> None:
    """Raises RequestError if there is any image or audio in it."""
    if multimodal_params and (not isinstance(multimodal_params, dict) or any(multimodal_params.values())):
        raise RequestError("this model takes text only; leave multimodal_params out", param="multimodal_params")


async def _generate(service: Service, body: GenerateBody, request: Request) -> Response:
    wants_details = bool(body.parameters.return_details)
    params = _params(service, body.parameters, logprobs=0 if wants_details else None)
    generation = await _submit(service, body, request, params, until_end=True)
    returns_ids = bool(body.parameters.return_token_ids)
    prompt_ids = service.client.prompt_of(generation.requests[0]).tolist() if returns_ids else None
    answers = await generation.whole(request.receive, with_tokens=params.num_logprobs >= 0 or returns_ids)
    chosen = best_of.chosen(answers, params)
    pairs = [(generation.requests[sample], answers[sample]) for sample in chosen]
    answer = generated(service, pairs, wants_details=wants_details)
    if prompt_ids is not None:
        answer.prompt_token_ids = prompt_ids
        answer.token_ids = [update.tokens.ids.tolist() for _, update in pairs]
    if params.prompt_logprobs is not None:
        answer.prompt_logprobs = for_prompt(service, answers[0].prompt, params.prompt_logprobs)
    return Response(json(answer), media_type="application/json")


async def _generate_stream(service: Service, body: GenerateBody, request: Request) -> EventStream:
    params = _params(service, body.parameters, logprobs=0)
    if params.prompt_logprobs is not None:
        raise RequestError("prompt_logprobs do not come in a stream; use /generate", param="prompt_logprobs")
    if body.parameters.return_token_ids:
        raise RequestError(
            "return_token_ids is for /generate: in a stream each token has its id", param="return_token_ids"
        )
    if params.num_samples > 1:
        raise RequestError("best_of must be 1 where the answer is streamed", param="best_of")
    if params.num_beams is not None:
        raise RequestError("what beams find is known only at the end; use /generate", param="num_beams")
    generation = await _submit(service, body, request, params, until_end=False)
    return EventStream(generation, TokenStream(service, generation.requests[0]))


async def _submit(
    service: Service, body: GenerateBody, request: Request, params: SamplingParams, *, until_end: bool
) -> Generation:
    refuse_media(body.multimodal_params)
    salt, prompt = body.parameters.cache_salt, body.inputs
    granted = terms.of(service, request, body.parameters, cache_salt=salt)
    if isinstance(prompt, str):
        prompt = await service.encode(prompt, add_special_tokens=body.parameters.add_special_tokens is not False)
    await service.check_grammar(params)
    generation = Generation(service.client, granted, until_end=until_end)
    generation.submit(*await service.healed(prompt, params))
    return generation


def _params(service: Service, parameters: Parameters, *, logprobs: int | None) -> SamplingParams:
    bodies.refuse_unsupported(parameters, NEUTRAL)
    values = {name: getattr(parameters, name) for name in _SAME_NAME}
    samples = parameters.do_sample
    if samples is None and not service.samples_by_default:
        samples = any(values[name] is not None for name in _MAKES_IT_SAMPLE)
    values["temperature"] = service.temperature(parameters.temperature, samples=samples)
    stop, stop_token_ids = _stops(service, parameters.stop_sequences)
    return service.params(
        values
        | {
            # By itself best_of is how many answers there are.
            "n": parameters.best_of if parameters.n is None else parameters.n,
            **beams.values(parameters, best_of=parameters.best_of, stream=False),
            "max_tokens": parameters.max_new_tokens,
            "min_tokens": parameters.min_new_tokens,
            # The seed system's way to say that all are.
            "allowed_token_ids": parameters.allowed_token_ids or None,
            "stop": stop,
            "stop_token_ids": stop_token_ids,
            "logprobs": logprobs,
            "grammar": structured.grammar_of({name: getattr(parameters, name) for name in _GRAMMARS}),
        }
    )


def _stops(service: Service, sequences: str | list[Any] | None) -> tuple[list[str], list[int]]:
    """Stop strings and stop tokens. Several tokens in a row are the text that they are."""
    strings: list[str] = []
    tokens: list[int] = []
    for sequence in [sequences] if isinstance(sequences, str) else sequences or []:
        if isinstance(sequence, str):
            strings.append(sequence)
        elif isinstance(sequence, int):
            tokens.append(sequence)
        elif len(sequence) == 1:
            tokens += sequence
        else:
            strings.append(service.need_tokenizer().decode(sequence))
    return strings, tokens
