"""Sends hostile requests to a server and judges the answers.

What must hold: no answer is a 5xx or takes 5 s; what is no JSON, or not as the document wants it, is a 4xx; every
answer is as the document says; afterwards nothing is held: no request, record, page or memory.
"""

import http.client
import json
import random
import time
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from jsonschema_rs import Draft202012Validator

from tests.fuzzing_http import mutations
from tests.fuzzing_http.document import Document, Route

LONGEST_S = 5.0
_PATH_PARTS = ["x", "\x00", "..", "../../etc", "%", "a" * 3000, "😀", "\x1b[2J", ""]


class Campaign:
    """`counts` of answers by status. Each method sends requests; AssertionError names what was sent. Use in `with`."""

    def __init__(
        self,
        url: str,
        seed: int,
        *,
        model: str,
        headers: Mapping[str, str] | None = None,
        paths: Collection[str] | None = None,
    ):
        """`paths`: the routes to send to, if not all of them."""
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=LONGEST_S)
        self.draw, self._always = random.Random(seed), dict(headers or {})
        self.counts: dict[int, int] = {}
        status, _, data = self._exchange("GET", "/openapi.json", b"", {})
        assert status == 200
        self.document = Document(json.loads(data), model=model)
        self._routes = [route for route in self.document.routes if paths is None or route.path in paths]
        self.with_body = [route for route in self._routes if route.body is not None]

    def __enter__(self) -> "Campaign":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    @property
    def num_sent(self) -> int:
        return sum(self.counts.values())

    def every_field(self, values_each: int) -> None:
        """Hostile values in each field of each route, `values_each` of all there are."""
        for route in self.with_body:
            assert route.body is not None
            for place in dict.fromkeys(self.document.places(route.body)):
                for value in self.draw.sample(mutations.HOSTILE, min(values_each, len(mutations.HOSTILE))):
                    self.send(route, mutations.encoded(mutations.with_value(self._body(route), place, value)))

    def at_random(self, count: int) -> None:
        """Requests of all kinds to all routes."""
        for _ in range(count):
            draw = self.draw
            if draw.random() < 0.05:
                self.send(draw.choice(self._routes), b"")
                continue
            route = draw.choice(self.with_body)
            body = self._body(route)
            match draw.randrange(6):
                case 0:
                    data = mutations.encoded(body)
                case 1:
                    data = mutations.encoded(mutations.repeated_name(body, draw))
                case 2:
                    data = mutations.encoded(draw.choice(mutations.HOSTILE))
                case 3:
                    data = mutations.encoded(body | {draw.choice(["", "unknown", "\x00", "stream ", "a" * 5000]): 1})
                case _:
                    data = mutations.damaged(mutations.encoded(body), draw)
            self.send(route, data)

    def send(self, route: Route, data: bytes) -> None:
        """One request to a route, and a verdict on its answer."""
        path = route.path
        while "{" in path:
            before, _, rest = path.partition("{")
            path = before + quote(self.draw.choice(_PATH_PARTS)) + rest.partition("}")[2]
        said = f"{route.method} {path[:200]} {data[:500]!r} of {len(data)} bytes"
        began = time.monotonic()
        try:
            status, headers, answer = self._exchange(route.method, path, data, self._headers())
        except TimeoutError:
            raise AssertionError(f"no answer in {LONGEST_S} s: {said}") from None
        took = time.monotonic() - began
        assert took < LONGEST_S, f"an answer after {took:.1f} s: {said}"
        self.counts[status] = self.counts.get(status, 0) + 1
        assert 200 <= status < 500, f"{status} {answer[:500]!r}: {said}"
        if status >= 400:
            self._judge_error(route, answer, said)
            return
        assert not (route.body is not None and self._must_be_refused(route, data)), f"{status}, not refused: {said}"
        self._judge_answer(route, status, headers["content-type"].partition(";")[0], answer, said)

    def _judge_error(self, route: Route, answer: bytes, said: str) -> None:
        error = json.loads(answer)
        errors = route.answers["default"]["application/json"]
        assert errors is not None
        assert errors.is_valid(error), f"{answer[:500]!r}: {said}"
        message = error["error"] if isinstance(error["error"], str) else error["error"]["message"]
        assert message.isprintable(), f"{answer[:500]!r}: {said}"
        assert len(answer) < 6000, f"{len(answer)} bytes of error: {said}"

    def _judge_answer(self, route: Route, status: int, kind: str, answer: bytes, said: str) -> None:
        documented = route.answers.get(str(status), {})
        assert kind in documented, f"{status} {kind} is not documented: {said}"
        if kind == "text/event-stream":
            assert b"internal_server_error" not in answer, f"{answer[-500:]!r}: {said}"
            assert answer.endswith(b"\n\n"), f"the stream broke off: {said}"
            for event in answer.split(b"\n\n")[:-1]:
                self._judge_event(event, documented[kind], said)
        elif (validator := documented[kind]) is not None and kind == "application/json":
            value = json.loads(answer)
            assert validator.is_valid(value), f"{answer[:1000]!r}: {said}: {list(validator.iter_errors(value))[:2]}"

    def _judge_event(self, event: bytes, validator: Draft202012Validator | None, said: str) -> None:
        data = next(line[5:] for line in event.split(b"\n") if line.startswith(b"data:")).strip()
        if data != b"[DONE]":
            value = json.loads(data)
            assert "error" not in value, f"{event!r}: {said}"
            if validator is not None:
                assert validator.is_valid(value), f"{event!r}: {said}: {list(validator.iter_errors(value))[:2]}"

    def _must_be_refused(self, route: Route, data: bytes) -> bool:
        try:
            value = mutations.strictly_parsed(data)
        except (ValueError, RecursionError):
            return True
        assert route.takes is not None
        return not route.takes.is_valid(value)

    def _body(self, route: Route) -> dict[str, Any]:
        assert route.body is not None
        return self.document.value(route.body, self.draw)

    def _headers(self) -> dict[str, str]:
        if self.draw.random() < 0.8:
            return {"content-type": "application/json"}
        name = self.draw.choice(
            ["authorization", "x-request-id", "content-type", "accept-encoding", "traceparent", "x" * 500]
        )
        return {name: self.draw.choice(["", "Bearer", "\xff\xfe", "a\tb", "x" * 5000, "application/xml"])}

    def _exchange(self, method: str, path: str, data: bytes, headers: dict[str, str]) -> tuple[int, Any, bytes]:
        try:
            self._connection.request(method, path, data, headers | self._always)
            response = self._connection.getresponse()
            return response.status, response.headers, response.read()
        except (http.client.HTTPException, ConnectionError, TimeoutError):
            self._connection.close()
            raise
