"""POST /v1/embeddings, /v1/score, /v1/rerank (and /rerank), /get_score: routes of models that do not generate."""

import base64
import time
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from fastapi import APIRouter, Request, Response

from lightllm.base.errors import RequestError
from lightllm.serving import vectors
from lightllm.serving.api import body as bodies
from lightllm.serving.api import openai, terms
from lightllm.serving.api.body import Int
from lightllm.serving.api.documents import described
from lightllm.serving.api.generation import Generation, UnfinishedError
from lightllm.serving.api.native import refuse_media
from lightllm.serving.api.openai import json
from lightllm.serving.api.service import Service


class PoolingBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """What the bodies have in common."""

    model: str | None = None
    priority: Int | None = None
    timeout_s: float | None = None
    user: str | None = None


class EmbeddingBody(PoolingBody, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Text or token ids to embed, or a list of either. dimensions: how many of an embedding's first numbers are wanted,
    of a model that was trained for it."""

    input: str | list[Int | str | list[Int]]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Int | None = None


class ScoreBody(PoolingBody, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """One text and others, or as many texts on both sides, to be compared pair by pair. instruct: what a model that is
    told what counts as a match is told."""

    text_1: str | list[str]
    text_2: str | list[str]
    instruct: str | None = None


class Document(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    text: str


class RerankBody(PoolingBody, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Documents to be put in the order in which they match the query. instruct: as for scores."""

    query: str
    documents: list[str | Document]
    top_n: Int | None = None
    return_documents: bool = True
    instruct: str | None = None


class RewardBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """A conversation as text, rendered with the model's template, or as token ids. If the model's rewards are read from
    a token of their own, it is added at the end unless it is there."""

    chat: str | list[Int]
    multimodal_params: Any = None


class PoolingUsage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    total_tokens: int


class Embedding(msgspec.Struct, kw_only=True, frozen=True):
    """base64: of float32, little endian."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Embeddings(msgspec.Struct, kw_only=True, frozen=True):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: PoolingUsage


class Score(msgspec.Struct, kw_only=True, frozen=True):
    index: int
    object: Literal["score"] = "score"
    score: float


class Scores(msgspec.Struct, kw_only=True, frozen=True):
    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[Score]
    usage: PoolingUsage


class Ranked(msgspec.Struct, frozen=True, omit_defaults=True):
    """`index` of the document in the request."""

    index: int
    relevance_score: float
    document: Document | None = None


class Ranking(msgspec.Struct, frozen=True):
    """Best first."""

    id: str
    model: str
    usage: PoolingUsage
    results: list[Ranked]


class RewardScore(msgspec.Struct, frozen=True):
    score: float
    prompt_tokens: int
    finish_reason: str = "stop"


def router(service: Service) -> APIRouter:
    routes = APIRouter()

    async def body_of(request: Request, kind: type[Any]) -> Any:
        data = await bodies.read(request, service.config.max_request_bytes)
        body = bodies.decode(data, msgspec.json.Decoder(kind))
        service.check_model(getattr(body, "model", None))
        return body

    @routes.post("/v1/embeddings", **described(EmbeddingBody, Embeddings))
    async def embeddings(request: Request) -> Response:
        """The vectors of one or more texts."""
        return _answer(await _embeddings(service, request, await body_of(request, EmbeddingBody)))

    @routes.post("/v1/score", **described(ScoreBody, Scores))
    async def score(request: Request) -> Response:
        """How well texts match, pair by pair."""
        return _answer(await _scores(service, request, await body_of(request, ScoreBody)))

    async def rerank(request: Request) -> Response:
        """The documents that match a query best, first."""
        return _answer(await _ranking(service, request, await body_of(request, RerankBody)))

    routes.post("/v1/rerank", **described(RerankBody, Ranking))(rerank)
    routes.post("/rerank", include_in_schema=False)(rerank)

    @routes.post("/get_score", **described(RewardBody, RewardScore))
    async def get_score(request: Request) -> Response:
        """What a reward model thinks of a conversation."""
        return _answer(await _reward(service, request, await body_of(request, RewardBody)))

    return routes


def _answer(content: msgspec.Struct) -> Response:
    return Response(json(content), media_type="application/json")


async def _embeddings(service: Service, request: Request, body: EmbeddingBody) -> Embeddings:
    _need(service, "embed")
    task, width = service.client.task, body.dimensions
    vectors.check_width(task, width)
    prompts = [
        text if isinstance(text, list) else await service.encode(text, add_special_tokens=True)
        for text in openai.several(body.input, param="input")
    ]
    found, usage = await _vectors(service, request, body, prompts)
    wanted = (vectors.shortened(task, one, width) for one in found)
    data = [Embedding(index=at, embedding=_written(one, body.encoding_format)) for at, one in enumerate(wanted)]
    return Embeddings(data=data, model=service.model_name, usage=usage)


async def _scores(service: Service, request: Request, body: ScoreBody) -> Scores:
    left, right = ([text] if isinstance(text, str) else text for text in (body.text_1, body.text_2))
    if not left or not right or (len(left) != len(right) and len(left) != 1):
        raise RequestError(
            f"{len(left)} and {len(right)} texts make no pairs; give one, or as many, as text_1", param="text_1"
        )
    left = left * len(right) if len(left) == 1 else left
    scores, usage = await _compare(service, request, body, zip(left, right, strict=True))
    data = [Score(index=at, score=score) for at, score in enumerate(scores)]
    return Scores(
        id=openai.answer_id("score"), created=int(time.time()), model=service.model_name, data=data, usage=usage
    )


async def _ranking(service: Service, request: Request, body: RerankBody) -> Ranking:
    if not body.documents or (body.top_n is not None and body.top_n < 1):
        raise RequestError("give at least one of documents and of top_n", param="documents")
    texts = [one if isinstance(one, str) else one.text for one in body.documents]
    scores, usage = await _compare(service, request, body, [(body.query, text) for text in texts])
    order = sorted(range(len(texts)), key=lambda at: -scores[at])[: body.top_n]
    results = [Ranked(at, scores[at], Document(texts[at]) if body.return_documents else None) for at in order]
    return Ranking(openai.answer_id("rerank"), service.model_name, usage, results)


async def _reward(service: Service, request: Request, body: RewardBody) -> RewardScore:
    refuse_media(body.multimodal_params)
    task = service.client.task
    if task.kind not in ("reward", "classify") or task.width != 1:
        raise RequestError(f"the model {task.name}; it gives no single score for a conversation", param="model")
    chat = body.chat
    prompt = chat if isinstance(chat, list) else await service.encode(chat, add_special_tokens=True)
    [vector], usage = await _vectors(service, request, PoolingBody(), [prompt])
    return RewardScore(float(vector[0]), usage.prompt_tokens)


async def _compare(
    service: Service, request: Request, body: ScoreBody | RerankBody, texts: Iterable[tuple[str, str]]
) -> tuple[list[float], PoolingUsage]:
    """A score for each pair."""
    texts, pairs_of, instruct, task = list(texts), service.pairs.of, body.instruct, service.client.task
    characters = sum(len(left) + len(right) for left, right in texts)
    pairs = await service.aside(lambda: [pairs_of(*both, instruct) for both in texts], characters)
    prompts = [prompt for pair in pairs for prompt in pair]
    found, usage = await _vectors(service, request, body, prompts)
    each = len(found) // len(pairs)
    return [vectors.score(task, found[at : at + each]) for at in range(0, len(found), each)], usage


async def _vectors(
    service: Service, request: Request, body: PoolingBody, prompts: Sequence[Sequence[int]]
) -> tuple[list[np.ndarray], PoolingUsage]:
    """The vectors of the prompts, in order."""
    generation = Generation(service.client, terms.of(service, request, body), until_end=True)
    for prompt in prompts:
        generation.submit(prompt, vectors.PARAMS, wants_vector=True)
    answers = await generation.whole(request.receive, with_tokens=False)
    found = [answer.vector for answer in answers if answer.vector is not None]
    if len(found) < len(answers):
        late = next(answer for answer in answers if answer.vector is None)
        raise UnfinishedError(late.error or "its time was up", status=503)
    count = sum(one.prompt_tokens for one in generation.requests)
    return found, PoolingUsage(count, count)


def _need(service: Service, kind: str) -> None:
    if (task := service.client.task).kind != kind:
        raise RequestError(f"the model {task.name}; /v1/embeddings needs an embedding model", param="model")


def _written(vector: np.ndarray, encoding: str) -> list[float] | str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode() if encoding == "base64" else vector.tolist()
