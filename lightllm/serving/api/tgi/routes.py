"""With --use_tgi_api: /generate, /generate_stream, / and /info in the form of text-generation-inference."""

from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from lightllm.base.errors import RequestError
from lightllm.base.grammar import Grammar
from lightllm.base.request import SamplingParams
from lightllm.base.version import package_version
from lightllm.serving import best_of
from lightllm.serving.api import body as bodies
from lightllm.serving.api import structured, terms
from lightllm.serving.api.body import Int
from lightllm.serving.api.documents import described
from lightllm.serving.api.errors import Dialect
from lightllm.serving.api.event_stream import EventStream
from lightllm.serving.api.generation import Generation
from lightllm.serving.api.openai import json
from lightllm.serving.api.service import Service
from lightllm.serving.api.tgi.answers import TgiEvent, TgiGenerated, TgiStream, Wording, whole
from lightllm.serving.api.tgi.wording import DIALECT, TgiError

DIALECTS: dict[str, Dialect] = dict.fromkeys(("/", "/generate", "/generate_stream", "/info"), DIALECT)
_MAKES_IT_SAMPLE = ("temperature", "top_p", "top_k", "typical_p")
_SAME_NAME = (*_MAKES_IT_SAMPLE, "repetition_penalty", "frequency_penalty", "seed")
NEUTRAL: dict[str, tuple[object, ...]] = {"watermark": (False,), "adapter_id": ()}


class TgiParameters(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """How to continue the prompt. null is the same as leaving a field out."""

    best_of: Int | None = None
    temperature: float | None = None
    top_k: Int | None = None
    top_p: float | None = None
    typical_p: float | None = None
    do_sample: bool | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: Int | None = None
    max_new_tokens: Int | None = None
    stop: list[str] | None = None
    truncate: Int | None = None
    return_full_text: bool | None = None
    details: bool | None = None
    decoder_input_details: bool | None = None
    top_n_tokens: Int | None = None
    # Extensions, named as in /v1/chat/completions
    priority: Int | None = None
    timeout_s: float | None = None
    user: str | None = None
    grammar: dict[str, Any] | None = None
    # Refused unless they say nothing, see NEUTRAL
    watermark: Any = None
    adapter_id: Any = None


class TgiBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """A text to continue."""

    inputs: str
    parameters: TgiParameters | None = None


class TgiEitherBody(TgiBody, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """As /generate_stream if `stream`, else as /generate."""

    stream: bool = False


class TgiInfo(msgspec.Struct, kw_only=True, frozen=True):
    """About the model and what may be asked for. `max_total_tokens`: longest prompt plus output."""

    model_id: str
    model_dtype: str
    model_pipeline_tag: str
    max_concurrent_requests: int
    max_best_of: int
    max_stop_sequences: int
    max_input_tokens: int
    max_total_tokens: int
    router: str
    version: str


_decoder = msgspec.json.Decoder(TgiBody)
_either_decoder = msgspec.json.Decoder(TgiEitherBody)


def router(service: Service) -> APIRouter:
    routes = APIRouter()

    async def body_of(request: Request, decoder: msgspec.json.Decoder[Any]) -> Any:
        return bodies.decode(await bodies.read(request, service.config.max_request_bytes), decoder)

    @routes.post("/generate", **described(TgiBody, TgiGenerated, error=TgiError))
    async def generate(request: Request) -> Response:
        """Continues a prompt; the answer comes as a whole."""
        return _json(await _whole(service, await body_of(request, _decoder), request))

    @routes.post("/generate_stream", **described(TgiBody, None, streams=TgiEvent, error=TgiError))
    async def generate_stream(request: Request) -> Response:
        """Continues a prompt; an event per token."""
        return await _stream(service, await body_of(request, _decoder), request)

    @routes.post("/", **described(TgiEitherBody, list[TgiGenerated], streams=TgiEvent, error=TgiError))
    async def either(request: Request) -> Response:
        """With stream=true /generate_stream, else /generate, its answer in a list."""
        body = await body_of(request, _either_decoder)
        return await _stream(service, body, request) if body.stream else _json([await _whole(service, body, request)])

    @routes.get("/info", **described(None, TgiInfo, error=TgiError))
    async def info() -> Response:
        """What is served."""
        config, most = service.config, service.max_model_len
        about = TgiInfo(
            model_id=service.model_name,
            model_dtype=config.data_type,
            model_pipeline_tag="text-generation",
            max_concurrent_requests=config.max_queued_requests + config.running_max_req_size,
            max_best_of=128,
            max_stop_sequences=64,
            max_input_tokens=most - 1,
            max_total_tokens=most,
            router="lightllm",
            version=package_version(),
        )
        return _json(about)

    return routes


async def _whole(service: Service, body: TgiBody, request: Request) -> TgiGenerated:
    asked = body.parameters or TgiParameters()
    wording, params = _wording(service, body, asked), _params(service, asked)
    generation = await _submitted(service, body.inputs, asked, params, request, until_end=True)
    first = int(service.client.prompt_of(generation.requests[0])[0])
    answers = await generation.whole(request.receive, with_tokens=True)
    best = best_of.chosen(answers, params)
    order = [*best, *(sample for sample in range(len(answers)) if sample not in best)]
    prefill = wording.prefill(first, answers[0].prompt) if asked.decoder_input_details else []
    return whole(wording, [wording.sequence(generation.requests[i], answers[i], prefill) for i in order])


async def _stream(service: Service, body: TgiBody, request: Request) -> EventStream:
    asked = body.parameters or TgiParameters()
    for name, wrong in (("best_of", (asked.best_of or 1) > 1), ("decoder_input_details", asked.decoder_input_details)):
        if wrong:
            raise RequestError(f"{name} does not come in a stream; use /generate, or leave it out", param=name)
    wording, params = _wording(service, body, asked), _params(service, asked)
    generation = await _submitted(service, body.inputs, asked, params, request, until_end=False)
    return EventStream(generation, TgiStream(wording, generation.requests[0]))


async def _submitted(
    service: Service, inputs: str, asked: TgiParameters, params: SamplingParams, request: Request, *, until_end: bool
) -> Generation:
    granted = terms.of(service, request, asked)
    prompt = await service.encode(inputs, add_special_tokens=True)
    generation = Generation(service.client, granted, until_end=until_end)
    await service.check_grammar(params)
    generation.submit(*await service.healed(prompt, params))
    return generation


def _wording(service: Service, body: TgiBody, asked: TgiParameters) -> Wording:
    return Wording(
        service,
        prefix=body.inputs if asked.return_full_text else "",
        top=asked.top_n_tokens or 0,
        seed=asked.seed,
        has_details=bool(asked.details or asked.decoder_input_details),
    )


def _grammar(asked: Mapping[str, Any]) -> Grammar | None:
    """{"type": "json" or "regex", "value": ...}. Raises RequestError."""
    kind, value = asked.get("type"), asked.get("value")
    if kind not in ("json", "regex") or value is None:
        raise RequestError('grammar must be {"type": "json" or "regex", "value": ...}', param="grammar")
    return structured.grammar_of_kinds({kind: value}, "grammar")


def _params(service: Service, asked: TgiParameters) -> SamplingParams:
    bodies.refuse_unsupported(asked, NEUTRAL)
    values = {name: getattr(asked, name) for name in _SAME_NAME}
    if not asked.do_sample and all(values[name] is None for name in _MAKES_IT_SAMPLE):
        values["temperature"] = 0.0
    if asked.top_n_tokens is not None and not 0 <= asked.top_n_tokens <= 20:
        raise RequestError(f"top_n_tokens={asked.top_n_tokens} is not allowed; use 0 to 20", param="top_n_tokens")
    return service.params(
        values
        | {
            "n": 1,
            "best_of": asked.best_of,
            "max_tokens": asked.max_new_tokens,
            "stop": asked.stop,
            # Its texts end with the stop sequence.
            "include_stop_str_in_output": True,
            "truncate_prompt_tokens": asked.truncate,
            "truncation_side": "left",
            "logprobs": asked.top_n_tokens or 0,
            "grammar": None if asked.grammar is None else _grammar(asked.grammar),
            "prompt_logprobs": 0 if asked.decoder_input_details else None,
        }
    )


def _json(answer: msgspec.Struct | list[TgiGenerated]) -> Response:
    return Response(json(answer), media_type="application/json")
