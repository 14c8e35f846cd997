import pytest

from lightllm.base import env
from lightllm.base.config import ServerConfig, parse
from lightllm.base.errors import ConfigError
from lightllm.processes.supervision.security import secured


def test_keys_come_from_flags_file_and_environment(tmp_path, monkeypatch):
    path = tmp_path / "keys"
    path.write_text("# who may\nalice sk-1\n\n  sk-2  # a comment\n")
    path.chmod(0o600)
    monkeypatch.setattr(env, "API_KEYS", "bob sk-3, sk-4,")
    config = secured(ServerConfig(api_key=["sk-0"], api_key_file=str(path)))
    assert config.api_key == ["sk-0", "alice sk-1", "sk-2", "bob sk-3", "sk-4"]


def test_a_key_file_that_is_missing_empty_or_wrong_is_refused(tmp_path):
    empty, wrong = tmp_path / "empty", tmp_path / "wrong"
    empty.write_text("# nothing\n")
    wrong.write_text("sk-1\nthree words sk-secret\n")
    for path, reason in ((tmp_path / "none", "No such file"), (empty, "holds no keys"), (wrong, "API key 2")):
        with pytest.raises(ConfigError, match=reason) as caught:
            secured(ServerConfig(api_key_file=str(path)))
        assert "sk-" not in str(caught.value)


def test_a_key_is_not_shown_where_a_flag_is_refused():
    with pytest.raises(ConfigError) as caught:
        parse(ServerConfig, {"api_key": 5123})
    assert "5123" not in str(caught.value)


def test_certificates_are_checked_before_anything_starts(tmp_path):
    import trustme

    path, other = tmp_path / "cert.pem", tmp_path / "other.pem"
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(path)
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(other)
    assert secured(ServerConfig(ssl_certfile=str(path))).ssl_certfile == str(path)
    for flags in (
        {"ssl_certfile": str(tmp_path / "none")},
        {"ssl_certfile": str(other)},
        {"ssl_certfile": str(path), "ssl_keyfile": str(other)},
        {"ssl_keyfile": str(path)},
    ):
        with pytest.raises(ConfigError, match="--ssl_certfile"):
            secured(ServerConfig(**flags))


def test_cookies_for_every_web_page_are_refused():
    with pytest.raises(ConfigError, match="--allowed_origins"):
        secured(ServerConfig(allowed_origins=["*"], allow_credentials=True))
