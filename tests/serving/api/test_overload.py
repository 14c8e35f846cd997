"""What HTTP clients see of a server that has more to do than it can, on every route, streaming or not."""

import contextlib
import threading

import httpx
import pytest

from lightllm.base.request import Refusal
from tests.serving.api.test_streams import eventually
from tests.serving.live_api import LiveApi
from tests.serving.script_for_tests import endless

OPENAI = {"prompt": "go", "ignore_eos": True, "max_tokens": 4000}
CHAT = {"messages": [{"role": "user", "content": "go"}], "ignore_eos": True, "max_tokens": 4000}
NATIVE = {"inputs": "go", "parameters": {"ignore_eos": True, "max_new_tokens": 4000}}
ROUTES = {
    "completions": ("/v1/completions", OPENAI),
    "completions, streaming": ("/v1/completions", OPENAI | {"stream": True}),
    "chat, two samples": ("/v1/chat/completions", CHAT | {"n": 2}),
    "chat, two samples, streaming": ("/v1/chat/completions", CHAT | {"n": 2, "stream": True}),
    "generate": ("/generate", NATIVE),
    "generate_stream": ("/generate_stream", NATIVE),
}
routes = pytest.mark.parametrize(("path", "body"), ROUTES.values(), ids=ROUTES)


def post(live, path: str, body: dict, **headers: str) -> httpx.Response:
    return httpx.post(live.url + path, json=body, timeout=20, verify=False, headers=headers)


@contextlib.contextmanager
def expiring(live, when):
    """Ends what the server does once `when()` holds, in a thread beside the block."""
    thread = threading.Thread(target=lambda: eventually(when) and live.engine.expire())
    thread.start()
    yield
    thread.join()


@pytest.fixture(scope="module")
def refusing(checkpoint):
    """A server whose scheduler refuses all that comes."""
    live = LiveApi(checkpoint, endless, engine={"refusal": Refusal.TOO_LATE, "predicted_wait": 7.2})
    yield live
    live.close()


@routes
def test_what_the_scheduler_refuses_is_429_with_the_predicted_wait(refusing, path, body):
    refused = post(refusing, path, body)
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "8"
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert "--ttft_target_s" in refused.json()["error"]["message"]
    assert refusing.engine.is_idle()


@pytest.mark.parametrize(
    ("refusal", "flag"),
    [(Refusal.QUEUE_REQUESTS, "--max_queued_requests=4096"), (Refusal.QUEUE_TOKENS, "--max_queued_tokens=500")],
)
def test_a_refusal_names_its_flag(start, refusal, flag):
    live = start(endless, max_queued_tokens=500, engine={"refusal": refusal})
    refused = post(live, "/v1/completions", OPENAI)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert flag in refused.json()["error"]["message"]
    assert eventually(lambda: live.metrics.total("request_failure") == 1)


def test_where_there_is_surely_no_room_the_engine_is_not_asked(start):
    live = start(endless, max_queued_requests=5, clients=2)
    live.engine.status.show_queue(5, 100, 700.0)
    refused = post(live, "/v1/completions", OPENAI)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "600")
    assert not live.engine.prompts
    assert live.metrics.total("refused_queue_requests") == 1
    live.engine.status.show_queue(4, 100, 700.0)
    assert post(live, "/v1/completions", OPENAI | {"max_tokens": 2}).status_code == 200


@routes
def test_what_expires_in_the_queue_is_503(start, path, body):
    live = start(endless, engine={"max_running": 0})
    with expiring(live, lambda: live.engine.waiting):
        expired = post(live, path, body)
    assert expired.status_code == 503
    assert expired.headers["retry-after"]
    assert "timeout_s" in expired.json()["error"]["message"]
    assert live.engine.is_idle()


@routes
def test_what_expires_while_it_runs_ends_with_what_there_is(start, path, body):
    live = start(endless, engine={"tick_s": 0.001})
    with expiring(live, lambda: live.engine.ticks > 5):
        answer = post(live, path, body)
    assert answer.status_code == 200
    reason = "timeout" if path.startswith("/generate") else "length"
    assert f'"finish_reason":"{reason}"' in answer.text
    assert "stream" in answer.headers["content-type"] or '"on and ' in answer.text
    if not path.startswith("/generate"):
        assert '"stop_reason":"timeout"' in answer.text
    if body.get("stream"):
        assert answer.text.endswith("data: [DONE]\n\n")
    assert live.engine.is_idle()


def test_terms_reach_the_scheduler(start):
    live = start(endless, schedule_policy="priority", timeout_s=100)
    body = OPENAI | {"max_tokens": 1, "priority": -3, "timeout_s": 50, "user": "me"}
    native = {"inputs": "go", "parameters": {"max_new_tokens": 1, "priority": 4, "user": "me"}}
    assert post(live, "/v1/completions", body).status_code == 200
    assert post(live, "/generate", native).status_code == 200
    first, second = live.engine.records
    assert [first["priority"], second["priority"]] == [-3, 4]
    assert [first["timeout_s"], second["timeout_s"]] == [50, 100]
    assert first["tenant"] == second["tenant"] != 0


@pytest.mark.parametrize(("by", "is_same"), [("user", [True, False, False]), ("api_key", [False, True, True])])
def test_a_tenant_is_a_user_or_an_api_key(start, by, is_same):
    live = start(endless, fair_share_by=by)
    asks = [("me", "a"), ("me", "b"), ("you", "a"), (None, "a")]
    for user, key in asks:
        post(live, "/v1/completions", OPENAI | {"max_tokens": 1, "user": user}, authorization=f"Bearer {key}")
    first, *others = [record["tenant"] for record in live.engine.records]
    assert [tenant == first for tenant in others] == is_same


BAD_TERMS = {
    "priority without its policy": ({"priority": 1}, {}, "--schedule_policy=fcfs"),
    "a priority too large": ({"priority": 1001}, {"schedule_policy": "priority"}, "-1000"),
    "no time at all": ({"timeout_s": 0}, {}, "above 0"),
    "more time than there is": ({"timeout_s": 11}, {"timeout_s": 10}, "at most 10"),
}


@pytest.mark.parametrize(("terms", "flags", "named"), BAD_TERMS.values(), ids=BAD_TERMS)
def test_terms_that_are_not_granted_are_400(start, terms, flags, named):
    live = start(endless, **flags)
    for path, body in [("/v1/completions", OPENAI | terms), ("/generate", NATIVE | {"parameters": terms})]:
        refused = post(live, path, body)
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == next(iter(terms))
        assert named in refused.json()["error"]["message"]
