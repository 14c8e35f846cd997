"""The HTTP application of an api process: all routes, errors and the OpenAPI document."""

from fastapi import FastAPI

from lightllm.serving.api import documents, errors, native, openai_chat, openai_completions, profiling, state_routes
from lightllm.serving.api.service import Service


def create_app(service: Service) -> FastAPI:
    """No middleware but pure ASGI ones may be added: any other triples what a streamed token costs."""
    app = FastAPI(title="LightLLM", description="Inference and serving of large language models", version="2")
    errors.install(app, service.metrics)
    for family in (openai_chat, openai_completions, native, state_routes, profiling):
        app.include_router(family.router(service))
    documents.install(app)
    return app
