"""The server that is measured, but for the requests that count: where it is, what it serves, its profiler."""

import json
import ssl
import sys
import time
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from lightllm.base.errors import ConfigError
from lightllm.bench import options as read
from lightllm.bench.backends import PATHS
from lightllm.bench.options import ServeOptions

_RETRY_S = 0.1
_open = build_opener(ProxyHandler({})).open  # the requests that count use no proxy, either


class Server:
    """Where requests go, and what the model is called there."""

    def __init__(self, options: ServeOptions):
        """Waits until it answers. Raises ConfigError."""
        host = f"[{options.host}]" if ":" in options.host else options.host
        self.url = (options.base_url or f"http://{host}:{options.port}").rstrip("/").removesuffix("/v1")
        if not urlsplit(self.url).hostname or urlsplit(self.url).scheme not in ("http", "https"):
            raise ConfigError(f"--base_url={options.base_url} is no address; give one as in http://127.0.0.1:8000")
        self.path = options.endpoint or PATHS[options.backend]
        self.headers = read.named_values(options.header, "header")
        self.model = self._model(options)

    def start_profile(self) -> None:
        """Raises ConfigError with what the server has against it."""
        self._post("/start_profile")

    def stop_profile(self) -> None:
        """Says where the traces are, where the server does. Raises ConfigError."""
        answer = self._post("/stop_profile")
        if isinstance(answer, dict) and answer.get("files"):
            print(f"the server wrote {', '.join(answer['files'])}")

    def _post(self, path: str) -> Any:
        """What the server answers, None if that is no JSON."""
        try:
            with _open(Request(self.url + path, b"", self.headers), timeout=120) as response:
                body = response.read()
        except HTTPError as error:
            with error:
                raise ConfigError(
                    f"{self.url}{path}: {error.code} {error.read(1000).decode(errors='replace')}"
                ) from None
        except (URLError, OSError, HTTPException) as error:
            raise ConfigError(f"{self.url}{path}: {_reason(error)}") from None
        try:
            return json.loads(body)
        except ValueError:
            return None

    def _model(self, options: ServeOptions) -> str:
        served = self._models(options.ready_check_timeout_sec)
        if not served or options.model in served:  # a server that loads models when they are asked for lists none
            return options.model
        if not options.model or Path(options.model).is_dir():
            return served[0]
        raise ConfigError(f"--model={options.model} is not served at {self.url}; it has {', '.join(served)}")

    def _models(self, timeout_s: float) -> list[str] | None:
        """Names of what is served; None from a server that does not tell. Raises ConfigError."""
        deadline = time.monotonic() + timeout_s
        failure: Exception | None = None
        while True:
            is_first = failure is None
            try:
                with _open(Request(f"{self.url}/v1/models", headers=self.headers), timeout=10) as response:
                    return [model["id"] for model in json.load(response)["data"]]
            except HTTPError as error:
                error.close()
                if error.code == 404:
                    return None
                if error.code < 500:
                    raise ConfigError(
                        f"{self.url}/v1/models answers {error.code} {error.reason}; if it wants a key, give "
                        '--header "Authorization=Bearer KEY"'
                    ) from None
                failure = error
            except (URLError, OSError, HTTPException, ValueError, KeyError) as error:
                failure = error
            self._refuse_if_hopeless(failure)
            if time.monotonic() >= deadline:
                raise ConfigError(
                    f"{self.url}/v1/models does not answer ({_reason(failure)}); start a server, or give --base_url"
                )
            if is_first:
                print(f"waiting {timeout_s:g} s at most for {self.url} ({_reason(failure)})", file=sys.stderr)
            time.sleep(_RETRY_S)

    def _refuse_if_hopeless(self, failure: Exception) -> None:
        reason = failure.reason if isinstance(failure, URLError) else failure
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise ConfigError(
                f"{self.url}: its certificate is not trusted ({reason.verify_message}); name one that is in the "
                "environment, as in SSL_CERT_FILE=ca.pem"
            )


def _reason(error: Exception) -> str:
    if isinstance(error, URLError) and not isinstance(error, HTTPError):
        return str(error.reason)
    return str(error) or type(error).__name__
