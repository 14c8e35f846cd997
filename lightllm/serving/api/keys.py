"""API keys: who may use the server, under which name, and which callers share keys and values with one another."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lightllm.base.errors import ConfigError

# Goes unchanged through any HTTP header; a comma parts keys in the environment, # begins a comment in a file.
_KEY = re.compile(r"[!$-+\--~]+")
_NAME = re.compile(r"[\w.@-]{1,64}")


class Caller(NamedTuple):
    """Who sent a request. Keys of one name are one caller; `salt` tells callers apart, see Terms."""

    name: str
    salt: int


class Keyring:
    """All keys of a server, as keyed hashes: the keys themselves are not kept."""

    def __init__(self, keys: Iterable[str]):
        """`keys`: each a key, or a name and a key with a space between. Raises ConfigError, which holds no key."""
        self._secret = secrets.token_bytes(32)
        self._callers: dict[bytes, Caller] = {}
        salts: dict[str, int] = {}
        for number, line in enumerate(keys, start=1):
            name, key = _parsed(line, number)
            caller = Caller(name, salts.setdefault(name, len(salts) + 1))
            if self._callers.setdefault(self._hash(key.encode()), caller) != caller:
                raise ConfigError(f"API key {number} is another one's too, under another name; give each key once")

    def __bool__(self) -> bool:
        return bool(self._callers)

    def caller(self, headers: Sequence[tuple[bytes, bytes]]) -> Caller | None:
        """Whose key the headers of a request carry: `Authorization: Bearer KEY` or `x-api-key: KEY`. None: nobody's.

        Each given key is compared with all there are, in a time that depends on neither.
        """
        found = None
        for given in given_keys(headers):
            hashed = self._hash(given)
            for known, caller in self._callers.items():
                if hmac.compare_digest(known, hashed):
                    found = found or caller
        return found

    def _hash(self, key: bytes) -> bytes:
        return hashlib.blake2b(key, key=self._secret, digest_size=32).digest()


def given_keys(headers: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
    """The keys that a request carries, whether or not they are any good. At most one of each kind of header counts."""
    fields: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in (b"authorization", b"x-api-key"):
            fields.setdefault(name, value)
    scheme, _, token = fields.pop(b"authorization", b"").partition(b" ")
    bearer = [token.strip()] if scheme.lower() == b"bearer" else []
    return [key for key in (*bearer, *fields.values()) if key]


def _parsed(line: str, number: int) -> tuple[str, str]:
    name, key = ([f"key-{number}", *line.split()])[-2:] if len(line.split()) in (1, 2) else ("", "")
    if not _KEY.fullmatch(key):
        raise ConfigError(
            f"API key {number} is not KEY or NAME KEY; make keys of visible ASCII characters without comma, quote or #"
        )
    if not _NAME.fullmatch(name):
        raise ConfigError(f"the name of API key {number} is not one; use up to 64 letters, digits and .@_-")
    return name, key
