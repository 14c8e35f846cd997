"""Errors meant for people: each says what was given, what is allowed and what to do."""


class LightLLMError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(LightLLMError, ValueError):
    """A flag, a config file or a checkpoint asks for something that cannot be done."""


class RequestError(LightLLMError, ValueError):
    """A request cannot be served as it stands, or not now. `status` is the HTTP status that says so.

    `retry_after_s`: after how many seconds it may be tried again; None if nothing is known of that.
    """

    def __init__(
        self, message: str, *, status: int = 400, param: str | None = None, retry_after_s: float | None = None
    ):
        super().__init__(message)
        self.status, self.param, self.retry_after_s = status, param, retry_after_s


class EngineDeadError(LightLLMError, RuntimeError):
    """A process the request depended on has ended before the request did."""


class Closed(Exception):
    """The process at the other end of a channel is gone. Not for people: whoever catches it says what that means."""
