"""`lightllm serve`: this process becomes the supervisor of a server."""

import signal

from lightllm.base import log
from lightllm.base.config import ServerConfig, parse
from lightllm.base.errors import ConfigError
from lightllm.processes.supervisor import Supervisor


def run(*, model: str = "", **flags: object) -> int:
    """Serves until a signal ends it. SIGTERM lets open requests finish, SIGINT or a second signal does not."""
    if model and flags.setdefault("model_dir", model) != model:
        raise ConfigError(f"MODEL={model} and --model_dir={flags['model_dir']} name different models; give one of them")
    config = parse(ServerConfig, flags)
    log.setup("supervisor", config.log_level)
    supervisor = Supervisor(config)
    signal.signal(signal.SIGTERM, lambda *_: supervisor.drain())
    signal.signal(signal.SIGINT, lambda *_: supervisor.stop())
    supervisor.run()
    return 0
