"""Chats with store=true, as the official client sees them."""

import pytest
from openai import BadRequestError, NotFoundError

from tests.serving import checkpoint_for_tests
from tests.serving.checkpoint_for_tests import END, TEMPLATE
from tests.serving.live_api import MODEL, LiveApi, client_of
from tests.serving.text.tokenizers_for_tests import byte_level

HELLO = [{"role": "system", "content": [{"type": "text", "text": "be"}]}, {"role": "user", "content": "hello"}]
TEXT = 'Größe 世界. <tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def script(prompt: list[int], seed: int) -> list[int]:
    return [*byte_level().encode(f"{seed} {TEXT}").ids, byte_level().token_to_id(END)]


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    template = TEMPLATE + "{# <tool_call> <|im_start|> </think> #}"
    api = LiveApi(checkpoint_for_tests.write(tmp_path_factory.mktemp("checkpoint"), template=template), script)
    yield api
    api.close()


@pytest.fixture
def chats(live):
    with client_of(live) as client:
        yield client.chat.completions
    assert live.engine.is_idle(), "every request was released"


def ask(chats, **options):
    return chats.create(**({"model": MODEL, "messages": HELLO, "store": True, "seed": 0} | options))


def test_a_chat_is_found_again_as_it_was_answered(chats):
    answer = ask(chats, n=2, logprobs=True, tools=[TOOL], metadata={"a": "b"})
    assert answer.metadata == {"a": "b"}
    assert chats.retrieve(answer.id) == answer
    assert answer.choices[1].message.tool_calls[0].function.name == "f"
    with pytest.raises(NotFoundError):
        chats.retrieve(ask(chats, store=False).id)


def test_a_streamed_chat_is_kept_as_the_client_has_seen_it(chats):
    asked = {"n": 2, "logprobs": True, "top_logprobs": 1, "tools": [TOOL], "stream_options": {"include_usage": True}}
    chunks = list(ask(chats, stream=True, **asked))
    kept = chats.retrieve(chunks[0].id)
    assert (kept.usage, kept.model) == (chunks[-1].usage, MODEL)
    for choice in kept.choices:
        pieces = [piece for chunk in chunks for piece in chunk.choices if piece.index == choice.index]
        assert (
            choice.message.content
            == "".join(piece.delta.content or "" for piece in pieces)
            == f"{choice.index} Größe 世界."
        )
        [call] = choice.message.tool_calls
        calls = [call for piece in pieces for call in piece.delta.tool_calls or []]
        assert call.id == calls[0].id, "what the client will name in its answer"
        assert call.function.arguments == "".join(one.function.arguments or "" for one in calls)
        assert choice.logprobs.content == [one for piece in pieces if piece.logprobs for one in piece.logprobs.content]
        assert choice.finish_reason == pieces[-1].finish_reason == "tool_calls"


def test_metadata_is_changed_and_finds_chats(chats):
    first, second = (ask(chats, metadata={"topic": name, "by": "test"}) for name in ("sums", "weather"))
    assert [one.id for one in chats.list(metadata={"topic": "sums"})] == [first.id]
    assert [one.id for one in chats.list(metadata={"by": "test"})] == [first.id, second.id]
    assert [one.id for one in chats.list(metadata={"by": "test"}, order="desc")] == [second.id, first.id]
    changed = chats.update(first.id, metadata={"topic": "weather"})
    assert changed.choices == first.choices
    assert chats.retrieve(first.id).metadata == {"topic": "weather"}
    assert {one.id for one in chats.list(metadata={"topic": "weather"}, model=MODEL)} == {first.id, second.id}
    assert not chats.list(metadata={"topic": "weather"}, model="other").data


def test_a_list_comes_in_pages(chats):
    ids = [ask(chats, metadata={"page": "yes"}).id for _ in range(5)]
    pages = chats.list(metadata={"page": "yes"}, limit=2)
    assert [one.id for one in pages] == ids, "the client asks for the next page itself"
    assert pages.has_more
    assert not chats.list(metadata={"page": "yes"}, after=ids[2]).has_more
    for wrong in ({"after": "nobody"}, {"order": "up"}, {"limit": 0}, {"extra_query": {"what": "1"}}):
        with pytest.raises(BadRequestError):
            chats.list(**wrong)


def test_its_messages_are_listed(chats):
    id = ask(chats).id
    first, second = chats.messages.list(id)
    assert (first.role, first.content, first.content_parts[0].text) == ("system", "be", "be")
    assert (second.id, second.content, second.content_parts) == (f"{id}-1", "hello", None)
    assert [one.id for one in chats.messages.list(id, order="desc", limit=1).data] == [second.id]


def test_a_chat_is_forgotten(chats):
    id = ask(chats).id
    assert chats.delete(id).deleted
    for gone in (chats.retrieve, chats.delete, chats.messages.list, lambda id: chats.update(id, metadata={})):
        with pytest.raises(NotFoundError, match=id):
            gone(id)


def test_chats_and_responses_are_not_taken_for_one_another(chats, live):
    with client_of(live) as client:
        response = client.responses.create(model=MODEL, input="hello")
        for get, id in ((client.responses.retrieve, ask(chats).id), (chats.retrieve, response.id)):
            with pytest.raises(NotFoundError):
                get(id)


def test_a_chat_of_another_key_is_not_found(start, checkpoint):
    live = start(script, model_dir=checkpoint, api_key=["a ka", "b kb"])
    with client_of(live) as client:
        mine, theirs = (client.with_options(api_key=key).chat.completions for key in ("ka", "kb"))
        id = ask(mine, metadata={"a": "b"}).id
        assert [one.id for one in mine.list(metadata={"a": "b"})] == [id]
        assert not theirs.list(metadata={"a": "b"}).data
        with pytest.raises(NotFoundError):
            theirs.retrieve(id)
