"""`lightllm chat`: a conversation with a server, streamed in the terminal."""

import contextlib
import json
import sys
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from lightllm.base.errors import LightLLMError

_TIMEOUT_S = 600
_PROMPT = "\n> "


class ChatError(LightLLMError):
    """The server cannot be reached, or does not answer as asked."""


def run(*, url: str, model: str, system: str) -> int:
    """Answers line after line, until the input ends."""
    server = _Server(url.rstrip("/"))
    model = model or server.first_model()
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # editing and history of the line
        print(f"{model} at {url}; ctrl-C ends an answer, ctrl-D the conversation")
    messages = [{"role": "system", "content": system}] if system else []
    while (question := _ask(is_terminal)) is not None:
        if question.strip():
            messages.append({"role": "user", "content": question})
            _answer(server, model, messages)
    return 0


def _ask(is_terminal: bool) -> str | None:
    """The next line, or None at the end."""
    try:
        return input(_PROMPT if is_terminal else "")
    except (EOFError, KeyboardInterrupt):
        return None


def _answer(server: "_Server", model: str, messages: list[dict[str, str]]) -> None:
    """Prints the answer as it comes and adds it to the conversation; a question without one is taken back.

    What the model writes for itself goes to standard error and is not sent back.
    """
    pieces: list[str] = []
    failure = None
    reasons = False
    try:
        for reasoning, piece in server.stream(model, messages):
            if reasons and not reasoning and piece:
                print("\n", file=sys.stderr)
                reasons = False
            if reasoning:
                print(_dimmed(reasoning), end="", flush=True, file=sys.stderr)
                reasons = True
            if piece:
                print(piece, end="", flush=True)
                pieces.append(piece)
    except ChatError as error:
        failure = error
    except KeyboardInterrupt:
        pass  # what was said so far stands
    if pieces:
        print()
        messages.append({"role": "assistant", "content": "".join(pieces)})
    else:
        messages.pop()
    if failure is not None:
        print(f"[{failure}]", file=sys.stderr)


def _dimmed(text: str) -> str:
    return f"\033[2m{text}\033[0m" if sys.stderr.isatty() else text


class _Server:
    """The few requests that a conversation needs."""

    def __init__(self, url: str):
        self._url = url

    def first_model(self) -> str:
        with self._open("/v1/models") as response:
            models = json.load(response)["data"]
        if not models:
            raise ChatError(f"{self._url} serves no model")
        return models[0]["id"]

    def stream(self, model: str, messages: list[dict[str, str]]) -> Iterator[tuple[str, str]]:
        """The reasoning and the answer's text, piece by piece. Raises ChatError."""
        body = {"model": model, "messages": messages, "stream": True}
        with self._open("/v1/chat/completions", body) as response:
            for line in self._lines(response):
                if not line.startswith(b"data: {"):
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    raise ChatError(event["error"].get("message", "the server failed"))
                for choice in event["choices"]:
                    delta = choice["delta"]
                    yield delta.get("reasoning_content") or "", delta.get("content") or ""

    def _lines(self, response: HTTPResponse) -> Iterator[bytes]:
        try:
            yield from response
        except (OSError, HTTPException) as error:
            raise ChatError(f"the server at {self._url} is gone: {error or type(error).__name__}") from None

    def _open(self, path: str, body: dict | None = None) -> HTTPResponse:
        data = None if body is None else json.dumps(body).encode()
        try:
            request = Request(self._url + path, data, {"Content-Type": "application/json"})
            return urlopen(request, timeout=_TIMEOUT_S)
        except HTTPError as error:
            with error:
                raise ChatError(_message_of(error)) from None
        except (URLError, OSError, ValueError, HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise ChatError(
                f"no server answers at {self._url} ({reason}); start one with `lightllm serve`, or give its --url"
            ) from None


def _message_of(error: HTTPError) -> str:
    """What an error answer says, for people."""
    try:
        return json.load(error)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return f"the server answers {error.code} {error.reason}"
