"""Routes that tell about the server: models, health, load, version, metrics."""

from typing import Any, Literal

import msgspec
from fastapi import APIRouter, Request, Response

from lightllm.base.version import package_version
from lightllm.serving import metrics
from lightllm.serving.api import errors
from lightllm.serving.api.documents import described
from lightllm.serving.api.openai import json
from lightllm.serving.api.service import Service


class Model(msgspec.Struct, kw_only=True, frozen=True):
    """`max_model_len`: longest prompt plus output."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "lightllm"
    max_model_len: int


class ModelList(msgspec.Struct, kw_only=True, frozen=True):
    object: Literal["list"] = "list"
    data: list[Model]


class ModelName(msgspec.Struct, frozen=True):
    model_name: str


class Health(msgspec.Struct, frozen=True):
    status: str


class TokenLoad(msgspec.Struct, frozen=True):
    """Shares of the KV pool: in use by requests now, and at the peak that is predicted for those that run."""

    current_load: float
    logical_max_load: float
    dynamic_max_load: float


class Load(msgspec.Struct, frozen=True):
    """Requests that run or wait."""

    server_load: int


class ServerInfo(msgspec.Struct, kw_only=True, frozen=True):
    """`settings`: the engine's, which nothing secret is among."""

    version: str
    model_path: str
    served_model_name: str
    max_model_len: int
    max_total_num_tokens: int
    settings: dict[str, Any]


class Version(msgspec.Struct, frozen=True):
    version: str


def router(service: Service) -> APIRouter:
    routes = APIRouter()

    @routes.get("/v1/models", **described(None, ModelList))
    async def list_models() -> Response:
        """The model that is served."""
        return _json(ModelList(data=[_model(service)]))

    @routes.get("/v1/models/{name:path}", **described(None, Model))
    async def find_model(name: str) -> Response:
        """The model of this name."""
        if name != service.model_name:
            message = f"the model {name[:200]!r} is not served here; use {service.model_name!r}"
            return errors.response(404, message, param="model")
        return _json(_model(service))

    async def health(request: Request) -> Response:
        """200 while requests can be served, else 503."""
        if reason := service.client.why_not_serving():
            return errors.response(503, reason)
        return _json(Health("ok"))

    async def liveness() -> Response:
        """200 as long as this process answers, whatever the engine does."""
        return _json(Health("ok"))

    async def model_name() -> Response:
        """The name of the model that is served."""
        return _json(ModelName(service.model_name))

    _add(routes, health, Health, "/health", "/healthz", "/readiness")
    _add(routes, liveness, Health, "/liveness")
    _add(routes, model_name, ModelName, "/get_model_name")
    _add_numbers(routes, service)
    return routes


def _add_numbers(routes: APIRouter, service: Service) -> None:
    @routes.get("/token_load", **described(None, TokenLoad))
    async def token_load() -> Response:
        """How full the KV pool is."""
        total = max(1.0, service.metrics.total("kv_slots_total"))
        peak = service.metrics.total("kv_slots_predicted_peak") / total
        return _json(TokenLoad(service.metrics.total("kv_slots_used") / total, peak, peak))

    @routes.get("/load", **described(None, Load))
    async def load() -> Response:
        """How many requests there are."""
        return _json(Load(sum(int(service.metrics.total(name)) for name in ("batch_current_size", "queue_size"))))

    async def server_info() -> Response:
        """What is served, and how the engine is set up."""
        info = ServerInfo(
            version=package_version(),
            model_path=service.config.model_dir,
            served_model_name=service.model_name,
            max_model_len=service.max_model_len,
            max_total_num_tokens=service.status.pool_tokens,
            settings=service.settings,
        )
        return _json(info)

    routes.get("/server_info", **described(None, ServerInfo))(server_info)
    routes.get("/get_server_info", include_in_schema=False)(server_info)

    @routes.get("/version", **described(None, Version))
    async def show_version() -> Response:
        """The version of the package."""
        return _json(Version(package_version()))

    @routes.get("/metrics", response_class=Response, **described(None, "text/plain"))
    async def show_metrics() -> Response:
        """Counters, gauges and histograms in the text format of Prometheus."""
        content = metrics.render(service.metrics, api_processes=service.config.httpserver_workers)
        return Response(content, headers={"content-type": metrics.CONTENT_TYPE})


def _add(routes: APIRouter, endpoint: Any, answer: type[msgspec.Struct], *paths: str) -> None:
    """For GET, and for HEAD and POST without mention in the document."""
    for path in paths:
        routes.get(path, **described(None, answer))(endpoint)
        routes.api_route(path, methods=["HEAD", "POST"], include_in_schema=False)(endpoint)


def _model(service: Service) -> Model:
    return Model(id=service.model_name, created=service.created, max_model_len=service.max_model_len)


def _json(answer: msgspec.Struct) -> Response:
    return Response(json(answer), media_type="application/json")
