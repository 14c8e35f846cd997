"""Where figures are written."""

import os
from pathlib import Path

from lightllm.base.errors import ConfigError


def destination(path: str, flag: str) -> Path | None:
    """The file that `flag` names, its directory made; None if it names none.

    Raises ConfigError now for one that cannot be written, rather than when all has been measured.
    """
    if not path:
        return None
    file = Path(path).expanduser()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--{flag}={path}: {error.strerror}; give a file that can be written") from None
    if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise ConfigError(f"--{flag}={path} cannot be written; give another file")
    return file
