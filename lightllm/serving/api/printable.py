"""Text of others, made fit to be shown: in errors, headers and logs."""

import re
import secrets

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:=+/-]{1,128}")


def printable(text: str, most: int) -> str:
    """`text` in at most `most` characters, of which none controls a terminal, a log or the direction of writing."""
    if len(text) > most:
        text = text[: most - 4] + " ..."
    if text.isprintable():
        return text
    shown = "".join([c if c.isprintable() else c.encode("unicode_escape").decode() for c in text])
    return shown if len(shown) <= most else shown[: most - 4] + " ..."


def request_id(given: bytes | None) -> bytes:
    """The id that a client gave its request, if it can be trusted in logs and headers; else a new one."""
    return given if given is not None and _REQUEST_ID.fullmatch(given) else secrets.token_hex(16).encode()
