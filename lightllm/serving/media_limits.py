"""What may be fetched on behalf of a request: images and audio that it names by URL. Pure functions, no network.

Whoever fetches asks `why_not_url` of every URL (redirects too), resolves the name itself, asks `why_not_address` of the
address and connects to that very address, so that a name which resolves differently the second time gains nothing.
"""

import ipaddress
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from lightllm.base.errors import RequestError
from lightllm.serving.api.printable import printable

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_LONGEST_URL = 8192


@dataclass(frozen=True)
class MediaLimits:
    """`domains`: only these and what is below them; empty: all. `max_seconds` for the whole of one fetch."""

    schemes: frozenset[str] = frozenset({"https", "http"})
    domains: frozenset[str] = frozenset()
    ports: frozenset[int] = frozenset({80, 443})
    max_bytes: int = 32 << 20
    max_seconds: float = 10.0
    max_redirects: int = 3


def why_not_url(url: str, limits: MediaLimits) -> str | None:
    """Why a URL is not fetched, whatever its name resolves to; None if nothing speaks against it."""
    if len(url) > _LONGEST_URL:
        return f"the URL is longer than {_LONGEST_URL} characters"
    if not url.isascii() or not url.isprintable() or any(c in url for c in " \\"):
        return "the URL has characters that must be percent-encoded"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    except ValueError:
        return "the URL is malformed"
    if parts.scheme not in limits.schemes:
        return f"URLs of scheme {parts.scheme[:20]!r} are not fetched; use {', '.join(sorted(limits.schemes))}"
    if not host:
        return "the URL names no host"
    if parts.username is not None or parts.password is not None:
        return "the URL carries a user name or a password"
    if port not in limits.ports:
        return f"port {port} is not fetched from; use {', '.join(map(str, sorted(limits.ports)))}"
    return _why_not_host(host.rstrip("."), limits)


def why_not_address(address: str) -> str | None:
    """Why nothing is fetched from an IP address; None if it is a public one, of one host."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return f"{printable(address, 100)!r} is no IP address"
    target = (ip.ipv4_mapped or ip) if isinstance(ip, ipaddress.IPv6Address) else ip
    if not target.is_global or target.is_multicast or target.is_reserved or _is_passed_on(target):
        return f"{ip} is not a public address"
    return None


async def read_within(chunks: AsyncIterator[bytes], limits: MediaLimits) -> bytes:
    """All of a response's body. Raises RequestError as soon as it is too large, whatever its headers say."""
    data = bytearray()
    async for chunk in chunks:
        data += chunk
        if len(data) > limits.max_bytes:
            raise RequestError(f"the media behind the URL are larger than the {limits.max_bytes} bytes allowed")
    return bytes(data)


def _why_not_host(host: str, limits: MediaLimits) -> str | None:
    if limits.domains and not any(host == domain or host.endswith(f".{domain}") for domain in limits.domains):
        return f"media are not fetched from {printable(host, 100)}"
    # Resolvers take 0x7f.1 and 2130706433 for addresses, so whatever might be one must be written as one.
    if ":" in host or host.rsplit(".", 1)[-1][:1].isdigit():
        return why_not_address(host)
    if "." not in host or host.endswith((".localhost", ".local", ".internal")):
        return f"{printable(host, 100)} is not a public host"
    return None


def _is_passed_on(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether traffic to this address may end at an IPv4 address within it: 6to4, Teredo, NAT64."""
    if isinstance(ip, ipaddress.IPv4Address):
        return False
    return ip.sixtofour is not None or ip.teredo is not None or ip in _NAT64
