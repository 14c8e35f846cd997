"""What a server needs to know of keys and certificates, read and checked before anything starts."""

import ssl
import stat
from pathlib import Path

import msgspec

from lightllm.base import env, log
from lightllm.base.config import ServerConfig
from lightllm.base.errors import ConfigError
from lightllm.serving.api.keys import Keyring

_log = log.get(__name__)


def secured(config: ServerConfig) -> ServerConfig:
    """`config` with all API keys, wherever they were given, in `api_key`. Raises ConfigError."""
    keys = [*config.api_key, *_keys_in_file(config.api_key_file), *_keys_in_environment()]
    Keyring(keys)
    _check_certificate(config)
    if config.allow_credentials and "*" in config.allowed_origins:
        raise ConfigError("--allow_credentials would let every web page act for its visitor; name --allowed_origins")
    if not keys and config.host not in ("127.0.0.1", "localhost", "::1"):
        _log.warning("whoever reaches --host=%s may use the model: there are no API keys (--api_key_file)", config.host)
    return msgspec.structs.replace(config, api_key=keys)


def _keys_in_environment() -> list[str]:
    return [key.strip() for key in env.API_KEYS.split(",") if key.strip()]


def _keys_in_file(name: str) -> list[str]:
    if not name:
        return []
    path = Path(name).expanduser()
    try:
        lines = path.read_text().splitlines()
        if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
            _log.warning("--api_key_file=%s can be read by other users; `chmod 600` it", name)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--api_key_file={name} cannot be read: {_reason(error)}") from None
    keys = [key for line in lines if (key := line.partition("#")[0].strip())]
    if not keys:
        raise ConfigError(f"--api_key_file={name} holds no keys; write one on a line, or leave the flag out")
    return keys


def _check_certificate(config: ServerConfig) -> None:
    certificate, key = config.ssl_certfile, config.ssl_keyfile
    if key and not certificate:
        raise ConfigError(f"--ssl_keyfile={key} needs the certificate that belongs to it; give --ssl_certfile")
    if not certificate:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key or None, password=_no_password)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--ssl_certfile={certificate} --ssl_keyfile={key}: {_reason(error)}; give a certificate and its private "
            "key in PEM, without a password"
        ) from None


def _no_password() -> str:
    raise ValueError("the private key has a password")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
