"""The HTTP application of an api process: all routes, errors and the OpenAPI document."""

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from lightllm.base.version import package_version
from lightllm.serving.api import (
    cache_routes,
    documents,
    errors,
    native,
    openai_chat,
    openai_completions,
    pages,
    pooling,
    profiling,
    state_routes,
    tokenization,
)
from lightllm.serving.api.anthropic import routes as anthropic
from lightllm.serving.api.guard import Guard
from lightllm.serving.api.keys import Keyring
from lightllm.serving.api.responses import routes as responses
from lightllm.serving.api.service import Service
from lightllm.serving.api.tgi import routes as tgi


def create_app(service: Service) -> ASGIApp:
    """The routes behind what guards them. No middleware but pure ASGI may be added: other triples a token's cost."""
    config = service.config
    dialects = anthropic.DIALECTS | responses.DIALECTS | (tgi.DIALECTS if config.use_tgi_api else native.DIALECTS)
    guarded = Guard(_routes(service), Keyring(config.api_key), config.access_log, dialects)
    if not config.allowed_origins:
        return guarded
    # Outside of the guard: browsers send no key when they ask what they may, and must be able to read a refusal.
    return CORSMiddleware(
        guarded,
        allow_origins=config.allowed_origins,
        allow_methods=config.allowed_methods or ["*"],
        allow_headers=config.allowed_headers or ["*"],
        allow_credentials=config.allow_credentials,
        expose_headers=["x-request-id", "retry-after"],
    )


def _routes(service: Service) -> FastAPI:
    app = FastAPI(
        title="LightLLM",
        description="Inference and serving of large language models",
        version=package_version(),
        docs_url=None,  # FastAPI's pages load from elsewhere; ours are in pages.py
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=documents.operation_id,
    )
    errors.install(app, service.metrics)
    for family in (
        openai_chat,
        openai_completions,
        responses,
        anthropic,
        native,
        pooling,
        tokenization,
        state_routes,
        profiling,
        cache_routes,
        pages,
    ):
        app.include_router(family.router(service))
    if service.config.use_tgi_api:
        app.include_router(tgi.router(service))
    documents.install(app, needs_key=bool(service.config.api_key))
    return app
