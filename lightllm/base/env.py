"""The only place where environment variables are read."""

import os
from pathlib import Path
from typing import Any

# Level of the log when --log_level is not given; checked as the flag is.
LOG_LEVEL: Any = os.environ.get("LIGHTLLM_LOG_LEVEL", "info")
# The same for the offline API, which is quiet by itself.
OFFLINE_LOG_LEVEL: Any = os.environ.get("LIGHTLLM_LOG_LEVEL", "warning")
# API keys of a server, with commas between; each as --api_key takes it.
API_KEYS = os.environ.get("LIGHTLLM_API_KEYS", "")
# Network interface for collectives between ranks of one machine; gloo is four times faster when it need not guess.
GLOO_INTERFACE = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
# Where `lightllm tune` keeps launch parameters of kernels, a file for each kind of device.
_CACHE = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
TUNED_FOLDER = os.environ.get("LIGHTLLM_TUNED_FOLDER", os.path.join(_CACHE, "lightllm", "tuned"))


def child_environment() -> dict[str, str]:
    """What every process of an engine inherits: this environment, with threads that spin at idle turned off."""
    package_root = str(Path(__file__).parents[2])  # a child runs this very package, wherever it was imported from
    search_path = os.pathsep.join([package_root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {
        **os.environ,
        "GLOO_SOCKET_IFNAME": GLOO_INTERFACE,
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": search_path,
    }
