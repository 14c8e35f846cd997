"""Stored responses, as several processes use them."""

import asyncio

import pytest

from lightllm.serving.archive.client import ArchiveClient
from lightllm.serving.archive.entries import Archive, Entry
from lightllm.serving.archive.frames import Put
from lightllm.serving.archive.server import ArchiveServer


def entry(name: str, size: int = 10, *, is_open: bool = False, caller: int = 0) -> Entry:
    return Entry(name, caller, b"x" * size, b"", [], is_open, 0.0)


def kept(archive: Archive, names: str, now: float = 0.0) -> str:
    return "".join(name for name in names if archive.get(name, 0, now))


def test_the_oldest_make_room_by_number_bytes_and_age():
    archive = Archive(most=3, most_bytes=1000, keep_s=100)
    for name in "abcd":
        archive.put(entry(name), now=0)
    assert kept(archive, "abcd") == "bcd"
    archive.put(entry("e", 990), now=50)
    assert kept(archive, "abcde", now=50) == "de"
    assert archive.num_bytes == 1000
    assert kept(archive, "abcde", now=100) == "e"
    assert kept(archive, "abcde", now=150) == ""
    assert archive.num_bytes == 0


def test_what_is_being_written_is_not_forgotten():
    archive = Archive(most=1, most_bytes=5, keep_s=10)
    first, second = entry("a", is_open=True), entry("b", 3)
    archive.put(first, now=0)
    archive.put(second, now=0)
    assert kept(archive, "ab", now=50) == "a"
    archive.end(first, b"done", [b"!"], now=50)
    assert kept(archive, "ab", now=55) == "a"
    assert (first.response, first.events, first.is_open) == (b"done", [b"!"], False)


def test_nobody_sees_what_is_anothers():
    archive = Archive(most=9, most_bytes=99, keep_s=9)
    archive.put(entry("a", caller=1), now=0)
    assert archive.get("a", 2, 0) is None
    assert archive.get("a", 1, 0) is not None


def test_what_is_deleted_while_it_is_written_is_asked_to_end_and_stays_away():
    asked, archive = [], Archive(most=9, most_bytes=99, keep_s=9)
    one = entry("a", is_open=True)
    one.stop = lambda: asked.append("a")
    archive.put(one, now=0)
    archive.delete(one)
    archive.end(one, b"", [], now=0)
    assert asked == ["a"]
    assert len(archive) == 0


@pytest.fixture
def server():
    server = ArchiveServer(most=10, most_bytes=1 << 20, keep_s=60)
    server.start()
    yield server
    server.close()


def put(name: str = "r", *, is_open: bool = False) -> Put:
    return Put(name, 7, b"{}", b"[1]", [b"a", b"b"], is_open, lost=b'{"lost":1}')


async def test_one_process_finds_what_another_stored(server):
    one, other = ArchiveClient(server.address), ArchiveClient(server.address)
    await one.put(put())
    stored = await other.get("r", 7)
    assert (stored.response, stored.items) == (b"{}", b"[1]")
    assert await other.get("r", 8) is None
    assert not await other.delete("r", 8)
    assert await other.delete("r", 7)
    assert await one.get("r", 7) is None
    assert await one.follow("r", 7, 0) is None


async def test_events_are_followed_from_any_number_while_they_are_written(server):
    writer, reader = ArchiveClient(server.address), ArchiveClient(server.address)
    response = await writer.open(put(is_open=True))
    followed = await reader.follow("r", 7, 1)
    assert await anext(followed) == b"b"
    await response.append([b"c"])
    assert await anext(followed) == b"c"
    await response.end(b"[]", [b"d"])
    assert [events async for events in followed] == [b"d"]
    assert (await reader.get("r", 7)).response == b"[]"
    again = await reader.follow("r", 7, 0)
    assert [events async for events in again] == [b"abcd"]
    await response.close()


async def test_a_response_is_cancelled_from_another_process(server):
    writer, other = ArchiveClient(server.address), ArchiveClient(server.address)
    response = await writer.open(put(is_open=True))
    cancelled = asyncio.create_task(other.cancel("r", 7))
    assert (await response.receive())["type"] == "http.disconnect"
    await response.end(b"cancelled", [])
    assert (await cancelled).response == b"cancelled"
    assert (await other.cancel("r", 7)).response == b"cancelled"
    await response.close()


async def test_a_response_has_failed_whose_writer_is_gone(server):
    writer, other = ArchiveClient(server.address), ArchiveClient(server.address)
    response = await writer.open(put(is_open=True))
    followed = await other.follow("r", 7, 0)
    await response.close()
    events = b"".join([events async for events in followed])
    assert events.startswith(b"abevent: response.failed\n")
    assert b'"sequence_number":2' in events
    assert (await other.get("r", 7)).response == b'{"lost":1}'
