"""The one place where stored responses are, for all api processes: a thread of the supervisor.

It lives exactly as long as the server, so nothing is lost when an api process dies, and nobody has to be told where
it has gone.
"""

import asyncio
import contextlib
import os
import socket
import struct
import threading
import time

from lightllm.base import log
from lightllm.serving.archive.entries import Archive, Entry
from lightllm.serving.archive.frames import (
    AnyFrame,
    Append,
    Cancel,
    Delete,
    Done,
    End,
    Events,
    Find,
    Follow,
    Found,
    Frame,
    Get,
    Missing,
    Put,
    Relabel,
    Stop,
    Stored,
    framed,
    receive,
)

_BACKLOG = 1024
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
_log = log.get(__name__)


class ArchiveServer:
    """Serves from a thread of its own on an abstract unix socket, which leaves nothing in the file system."""

    def __init__(self, *, most: int, most_bytes: int, keep_s: float):
        self._archive = Archive(most=most, most_bytes=most_bytes, keep_s=keep_s)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind("")  # the kernel finds a name
        self._socket.listen(_BACKLOG)
        self.address: bytes = self._socket.getsockname()
        self._loop = asyncio.new_event_loop()
        self._connections: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, daemon=True, name="archive")

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Everything is forgotten. May be called although it was not started."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()
        self._socket.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_unix_server(self._accept, sock=self._socket))
        self._loop.run_forever()
        server.close()
        for task in self._connections:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*self._connections, return_exceptions=True))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "runs as a task"
        self._connections.add(task)
        try:
            if _is_ours(writer):
                await self._serve(reader, writer)
        except ConnectionError:
            pass  # whoever asked has gone
        except Exception:
            _log.exception("a question to the archive failed")
        finally:
            self._connections.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        question = await receive(reader)
        if isinstance(question, Put):
            await self._put(question, reader, writer)
        elif isinstance(question, Find):
            await _send(writer, self._found(question))
        elif isinstance(question, Get | Follow | Cancel | Delete | Relabel):
            entry = self._archive.get(question.id, question.caller, time.monotonic())
            if entry is None:
                await _send(writer, Missing())
            else:
                await self._answer(question, entry, writer)

    async def _answer(self, question: AnyFrame, entry: Entry, writer: asyncio.StreamWriter) -> None:
        match question:
            case Delete():
                self._archive.delete(entry)
                await _send(writer, Done())
            case Relabel(response=response, labels=labels):
                if not entry.is_open:
                    self._archive.relabel(entry, response, labels, time.monotonic())
                await _send(writer, Missing() if entry.is_open else Done())
            case Follow(start=start):
                await _follow(entry, start, writer)
            case Cancel():
                if entry.stop is not None:
                    entry.stop()
                while entry.is_open:
                    await entry.news.wait()
                await _send(writer, Stored(entry.response, entry.items))
            case _:
                await _send(writer, Stored(entry.response, entry.items))

    def _found(self, question: Find) -> Found | Missing:
        entries = self._archive.find(question.caller, question.labels, time.monotonic())
        if question.newest_first:
            entries.reverse()
        if question.after is not None:
            at = next((i for i, entry in enumerate(entries) if entry.id == question.after), None)
            if at is None:
                return Missing()
            entries = entries[at + 1 :]
        return Found([entry.response for entry in entries[: question.limit]], len(entries) > question.limit)

    async def _put(self, put: Put, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        entry = Entry(
            put.id, put.caller, put.response, put.items, put.events, put.is_open, time.monotonic(), put.labels
        )
        if put.is_open:
            entry.stop = lambda: writer.write(framed(Stop()))
        self._archive.put(entry, time.monotonic())
        try:
            await _send(writer, Done())
            while entry.is_open:
                match await receive(reader):
                    case Append(events):
                        entry.events += events
                        entry.tell()
                    case End(response, events):
                        self._archive.end(entry, response, events, time.monotonic())
                        await _send(writer, Done())
                    case _:
                        break
        finally:
            if entry.is_open:
                self._archive.end(entry, put.lost, [_lost(entry, put.lost)], time.monotonic())


async def _follow(entry: Entry, start: int, writer: asyncio.StreamWriter) -> None:
    """Sends events as they come, and waits for those that read slowly: all read from the same list."""
    at = start
    while True:
        is_open, news, events = entry.is_open, entry.news, entry.events[at:]
        at += len(events)
        await _send(writer, Events(events))
        if not is_open:
            return
        if at >= len(entry.events):
            await news.wait()


def _lost(entry: Entry, response: bytes) -> bytes:
    """The event of an open response whose writer has died."""
    number = len(entry.events)
    return b'event: response.failed\ndata: {"type":"response.failed","sequence_number":%d,"response":%s}\n\n' % (
        number,
        response,
    )


async def _send(writer: asyncio.StreamWriter, frame: Frame) -> None:
    writer.write(framed(frame))
    await writer.drain()


def _is_ours(writer: asyncio.StreamWriter) -> bool:
    """Whether a process of the same user is at the other end: anyone on the machine can find the socket's name."""
    end = writer.get_extra_info("socket")
    _, uid, _ = _CREDENTIALS.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return uid == os.getuid()
