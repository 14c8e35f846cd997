import asyncio

import pytest

from lightllm.base.errors import RequestError
from lightllm.serving.media_limits import MediaLimits, read_within, why_not_address, why_not_url

LIMITS = MediaLimits()


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "192.0.2.1", "198.18.0.1", "240.0.0.1", "::1", "::", "fe80::1", "fd00::1", "ff02::1",
        "2001:db8::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
        "2001:0:7f00:1::", "fe80::1%eth0", "1.2.3", "example.org", "",
    ],
)  # fmt: skip
def test_what_is_not_public_is_no_address_to_fetch_from(address):
    assert why_not_address(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses_may_be_fetched_from(address):
    assert why_not_address(address) is None


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "ftp://example.org/a", "data:image/png;base64,aaaa", "gopher://example.org",
        "//example.org",
        "http:///a", "http://", "https://user@example.org/", "https://user:secret@example.org/", "https://example.org:22/",
        "https://example.org:99999/", "http://[::1", "http://127.0.0.1/", "http://127.1/", "http://2130706433/",
        "http://0x7f000001/", "http://0177.0.0.1/", "http://127.0.0.1./", "http://[::ffff:127.0.0.1]/",
        "http://localhost/",
        "http://localhost./", "http://a.localhost/", "http://printer.local/", "http://metadata.google.internal/",
        "http://intranet/", "https://example.org/a b", "https://example.org\\@127.0.0.1/",
        "https://example.org/\r\nX: y",
        "https://exämple.org/", "https://example.org/" + "a" * 9000,
    ],
)  # fmt: skip
def test_urls_that_could_lead_inside_are_refused_with_a_reason(url):
    reason = why_not_url(url, LIMITS)
    assert reason
    assert reason.isprintable()
    assert "secret" not in reason


def test_public_urls_may_be_fetched():
    for url in (
        "https://example.org/cat.png?size=3",
        "http://example.org:80/",
        "https://8.8.8.8/",
        "HTTPS://Example.ORG/",
    ):
        assert why_not_url(url, LIMITS) is None


def test_domains_bound_where_media_come_from():
    limits = MediaLimits(domains=frozenset({"example.org"}))
    assert why_not_url("https://example.org/", limits) is None
    assert why_not_url("https://images.example.org/", limits) is None
    assert why_not_url("https://badexample.org/", limits)
    assert why_not_url("https://example.org.evil.net/", limits)


def test_a_body_is_read_up_to_its_limit_only():
    read = []

    async def chunks():
        for _ in range(100):
            read.append(1)
            yield b"x" * 10

    assert asyncio.run(read_within(chunks(), MediaLimits(max_bytes=1000))) == b"x" * 1000
    read.clear()
    with pytest.raises(RequestError, match="999 bytes"):
        asyncio.run(read_within(chunks(), MediaLimits(max_bytes=999)))
    assert len(read) == 100
    read.clear()
    with pytest.raises(RequestError):
        asyncio.run(read_within(chunks(), MediaLimits(max_bytes=25)))
    assert len(read) == 3
