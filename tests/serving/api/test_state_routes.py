import time

import httpx
import pytest

from lightllm.base.status import State
from tests.serving.live_api import MODEL


def test_the_model_is_listed_and_found(client):
    (model,) = client.models.list().data
    assert model.id == MODEL
    assert client.models.retrieve(MODEL) == model
    assert model.max_model_len == 4096


def test_another_model_is_not_found(http):
    response = http.get("/v1/models/none")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("path", ["/health", "/healthz", "/readiness"])
@pytest.mark.parametrize("state", list(State))
def test_health_is_what_the_supervisor_says(http, live, path, state):
    live.engine.status.state = state
    try:
        assert http.get(path).status_code == (200 if state is State.SERVING else 503)
        assert http.head(path).status_code == (200 if state is State.SERVING else 503)
        assert http.get("/liveness").status_code == 200
    finally:
        live.engine.status.state = State.SERVING


def test_small_answers(http):
    assert http.get("/get_model_name").json() == {"model_name": MODEL}
    assert set(http.get("/token_load").json()) == {"current_load", "logical_max_load", "dynamic_max_load"}
    assert http.get("/version").json()["version"]


def test_the_server_tells_of_itself_and_of_no_secrets(http, start):
    live = start(api_key=["ka"], max_total_token_num=5000)
    info = http.get(live.url + "/server_info", headers={"x-api-key": "ka"})
    assert info.json() == http.get(live.url + "/get_server_info", headers={"x-api-key": "ka"}).json()
    assert info.json()["max_model_len"] == live.engine.max_length
    assert info.json()["settings"]["max_total_token_num"] == 5000
    assert "ka" not in info.json()["settings"].values()
    assert "api_key" not in info.text


def test_requests_that_run_or_wait_are_the_load(http, live):
    live.metrics.set("queue_size", 3)
    live.metrics.set("batch_current_size", 2)
    assert http.get("/load").json() == {"server_load": 5}


@pytest.mark.parametrize("path", ["/flush_cache", "/reset_prefix_cache"])
def test_the_cache_is_emptied_on_demand(http, live, path):
    assert http.post(path).json() == {"tokens": len(live.engine.prompts)}


def test_nobody_waits_for_an_engine_that_only_starts(http, live):
    live.engine.status.state = State.STARTING
    try:
        assert http.post("/flush_cache").status_code == 503
    finally:
        live.engine.status.state = State.SERVING


def test_who_waits_for_an_empty_cache_is_told_that_the_engine_died(start):
    live = start()
    told = []
    live.service.client.flush_cache(told.append)
    live.lose_engine("gone")
    deadline = time.monotonic() + 10
    while not told and time.monotonic() < deadline:
        time.sleep(0.005)
    assert told[0] in (None, 0), "it may have answered before"
    assert httpx.post(live.url + "/flush_cache", verify=False).status_code == 503


def test_metrics_count_requests(http, live):
    before = live.metrics.total("request_success")
    http.post("/v1/completions", json={"prompt": "a", "max_tokens": 3})
    text = http.get("/metrics").text
    assert f"lightllm_request_success_total {before + 1}" in text
    assert 'lightllm_request_generated_tokens_bucket{le="4.0"}' in text
    assert "# HELP lightllm_event_loop_lag " in text


def test_no_such_route_and_no_such_method(http):
    missing, wrong = http.get("/v1/nothing"), http.get("/v1/completions")
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found_error")
    assert (wrong.status_code, wrong.json()["error"]["type"]) == (405, "method_not_allowed_error")
    assert wrong.headers["allow"] == "POST"
    assert http.put("/v1/responses/x").headers["allow"] == "DELETE, GET"


def test_the_document_describes_bodies_and_answers(http):
    document = http.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    chat = document["paths"]["/v1/chat/completions"]["post"]
    assert chat["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ChatBody"}
    assert "messages" in schemas["ChatBody"]["required"]
    assert schemas["ChatCompletion"]["properties"]["choices"]["type"] == "array"
    assert all(name in schemas for name in _references(document))
    assert http.get("/docs").status_code == 200


def _references(document: object) -> set[str]:
    if isinstance(document, dict):
        own = {document["$ref"].rsplit("/")[-1]} if isinstance(document.get("$ref"), str) else set()
        return own.union(*map(_references, document.values()))
    return set().union(*map(_references, document)) if isinstance(document, list) else set()
