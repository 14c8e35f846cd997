"""Routes of models that do not generate, before a fake engine that makes vectors of prompts' lengths."""

import base64
import json
import math

import httpx
import numpy as np
import pytest

from tests.serving import checkpoint_for_tests
from tests.serving.live_api import LiveApi, client_of
from tests.serving.script_for_tests import answer, count
from tests.serving.text.tokenizers_for_tests import byte_level

SHORT, LONG = "a", "a text of several tokens"


def serve(folder, vector_of, *, modules=(), pooling="pooling_mode_lasttoken", engine=None, **changes) -> LiveApi:
    checkpoint_for_tests.write(folder)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | changes))
    named = [{"type": f"sentence_transformers.models.{kind}", "path": "pool"} for kind in modules]
    (folder / "modules.json").write_text(json.dumps(named))
    (folder / "pool").mkdir()
    (folder / "pool" / "config.json").write_text(json.dumps({pooling: True}))
    return LiveApi(folder, answer, engine={"vector_of": vector_of} | (engine or {}))


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedder")
    live = serve(folder, lambda prompt: [len(prompt), 1.0], modules=["Transformer", "Pooling"], hidden_size=2)
    yield live
    live.close()


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder, one = tmp_path_factory.mktemp("classifier"), {"0": "LABEL_0"}
    architectures = ["Qwen3ForSequenceClassification"]
    live = serve(folder, lambda prompt: [len(prompt) / 8], architectures=architectures, id2label=one)
    yield live
    live.close()


@pytest.fixture(scope="module")
def rewarder(tmp_path_factory):
    live = serve(
        tmp_path_factory.mktemp("rewarder"), lambda prompt: [-len(prompt)], architectures=["Qwen2ForRewardModel"]
    )
    yield live
    live.close()


def post(live: LiveApi, route: str, body: dict) -> dict:
    response = httpx.post(live.url + route, json=body, timeout=20, verify=False)
    assert response.status_code == 200, response.text
    assert live.engine.is_idle(), "every request was released"
    return response.json()


def refused(live: LiveApi, route: str, body: dict) -> str:
    response = httpx.post(live.url + route, json=body, timeout=20, verify=False)
    assert response.status_code == 400
    return response.json()["error"]["message"]


def test_the_official_client_reads_embeddings(embedder):
    with client_of(embedder) as client:
        for given in ([SHORT, LONG], [byte_level().encode(text).ids for text in (SHORT, LONG)]):
            got = client.embeddings.create(model="test-model", input=given)
            assert [one.embedding for one in got.data] == [[count(SHORT), 1], [count(LONG), 1]]
            assert [one.index for one in got.data] == [0, 1]
            assert got.usage.prompt_tokens == got.usage.total_tokens == count(SHORT) + count(LONG)
        plain = client.embeddings.create(model="test-model", input=SHORT, encoding_format="float", dimensions=2)
        assert plain.data[0].embedding == [count(SHORT), 1]


def test_embeddings_may_come_as_base64(embedder):
    answer = post(embedder, "/v1/embeddings", {"input": SHORT, "encoding_format": "base64"})
    assert np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), "<f4").tolist() == [count(SHORT), 1]


def test_embeddings_may_be_shortened_where_the_model_was_trained_for_it(tmp_path):
    live = serve(
        tmp_path, lambda prompt: [3.0, 4.0, len(prompt)], hidden_size=3, modules=["Pooling"], is_matryoshka=True
    )
    try:
        for asked, expected in (({}, [3, 4, count(SHORT)]), ({"dimensions": 2}, [3, 4]), ({"dimensions": 1}, [3])):
            assert post(live, "/v1/embeddings", {"input": SHORT} | asked)["data"][0]["embedding"] == expected
        for wrong in (0, 4):
            assert f"dimensions={wrong}: embeddings of this model have 1 to 3" in refused(
                live, "/v1/embeddings", {"input": SHORT, "dimensions": wrong}
            )
    finally:
        live.close()


def test_an_embedding_model_scores_by_cosine(embedder):
    answer = post(embedder, "/v1/score", {"text_1": SHORT, "text_2": [SHORT, LONG]})
    short, long = np.array([count(SHORT), 1]), np.array([count(LONG), 1])
    cosine = short @ long / np.linalg.norm(short) / np.linalg.norm(long)
    assert [one["score"] for one in answer["data"]] == pytest.approx([1.0, cosine])


@pytest.mark.parametrize("route", ["/v1/rerank", "/rerank"])
def test_a_classifier_ranks_documents(classifier, route):
    documents = [SHORT, {"text": LONG}, "two words"]
    answer = post(classifier, route, {"query": "q", "documents": documents, "top_n": 2})
    assert [one["index"] for one in answer["results"]] == [1, 2]
    assert answer["results"][0]["document"] == {"text": LONG}
    length = count("q") + count(LONG)  # both texts make one prompt
    assert answer["results"][0]["relevance_score"] == pytest.approx(1 / (1 + math.exp(-length / 8)))
    bare = post(classifier, route, {"query": "q", "documents": documents, "return_documents": False})
    assert len(bare["results"]) == 3
    assert "document" not in bare["results"][0]


def test_a_reward_model_scores_a_conversation(rewarder):
    for chat in (LONG, byte_level().encode(LONG).ids):
        answer = post(rewarder, "/get_score", {"chat": chat})
        assert answer == {"score": -count(LONG), "prompt_tokens": count(LONG), "finish_reason": "stop"}


def test_a_reward_comes_from_the_token_that_it_is_read_from(tmp_path):
    said = {"architectures": ["AnyForRewardModel"], "reward_token_id": 7}
    live = serve(tmp_path, lambda prompt: [100 * prompt[-1] + len(prompt)], **said)
    try:
        ids = byte_level().encode(LONG).ids
        for chat in (LONG, ids, [*ids, 7]):
            assert post(live, "/get_score", {"chat": chat})["score"] == 700 + len(ids) + 1
    finally:
        live.close()


@pytest.mark.parametrize(
    ("route", "body"),
    [("/v1/embeddings", {"input": [SHORT, LONG]}), ("/v1/score", {"text_1": SHORT, "text_2": LONG})],
)
def test_where_one_vector_does_not_come_in_time_there_is_no_answer(tmp_path, route, body):
    def vector_of(prompt):
        live.engine.expire()  # the other one's time, which waits
        return [1.0, 2.0]

    live = serve(tmp_path, vector_of, modules=["Pooling"], hidden_size=2, engine={"max_running": 1})
    try:
        response = httpx.post(live.url + route, json=body, timeout=20, verify=False)
        assert response.status_code == 503
        assert "its time was up" in response.json()["error"]["message"]
    finally:
        live.close()


def test_what_a_model_is_not_for_is_refused_by_what_it_is(live, embedder, classifier, rewarder):
    generate = ("/v1/completions", {"prompt": "a"})
    embed, score = ("/v1/embeddings", {"input": "a"}), ("/v1/score", {"text_1": "a", "text_2": "b"})
    reward = ("/get_score", {"chat": "a"})
    for server, name, routes in (
        (live, "generates text", (embed, score, reward)),
        (embedder, "is an embedding model", (generate, reward)),
        (classifier, "is a classifier", (generate, embed)),
        (rewarder, "is a reward model", (generate, embed, score)),
    ):
        for route in routes:
            assert name in refused(server, *route)


@pytest.mark.parametrize(
    ("route", "body", "named"),
    [
        ("/v1/embeddings", {"input": "a", "dimensions": 3}, "dimensions=3"),
        ("/v1/embeddings", {"input": []}, "input"),
        ("/v1/embeddings", {"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ("/v1/embeddings", {"input": "a", "normalize": True}, "normalize"),
        ("/v1/score", {"text_1": ["a", "b"], "text_2": ["c", "d", "e"]}, "2 and 3 texts"),
        ("/v1/rerank", {"query": "a", "documents": []}, "documents"),
        ("/v1/rerank", {"query": "a", "documents": ["b"], "instruct": "c"}, "leave instruct out"),
        ("/v1/rerank", {"query": "a", "documents": ["b"], "top_n": 0}, "top_n"),
    ],
)
def test_bad_input_is_named(embedder, route, body, named):
    assert named in refused(embedder, route, body)
