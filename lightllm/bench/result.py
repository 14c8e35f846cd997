"""The JSON file of `lightllm bench serve`, with the names that vLLM's benchmark gives its figures."""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from lightllm.base.errors import ConfigError
from lightllm.bench import figures, files
from lightllm.bench.clients import Measured
from lightllm.bench.options import ServeOptions

_SECRET = "header"  # may hold a key


def check(options: ServeOptions) -> None:
    """Raises ConfigError for a file that cannot be written, or that is described and not asked for."""
    if options.save_result or options.save_detailed:
        files.destination(str(Path(options.result_dir, options.result_filename or "result.json")), "result_dir")
        return
    for name in ("result_dir", "result_filename", "metadata"):
        if getattr(options, name) != getattr(ServeOptions(), name):
            raise ConfigError(f"--{name} is about the JSON file, which is written with --save_result")


def write(options: ServeOptions, model: str, found: Mapping[str, Any], measured: Measured) -> None:
    """Figures, and what they are figures of."""
    date = datetime.now().strftime("%Y%m%d-%H%M%S")
    settings = msgspec.to_builtins(options)
    del settings[_SECRET]
    if options.request_rate == float("inf"):
        settings["request_rate"] = "inf"  # which JSON has no number for
    content = {
        "date": date,
        "backend": options.backend,
        "endpoint_type": options.backend,
        "model_id": model,
        "tokenizer_id": options.tokenizer or options.model or model,
        "dataset_name": options.dataset_name,
        "num_prompts": options.num_prompts,
        "request_rate": settings["request_rate"],
        "burstiness": options.burstiness,
        "max_concurrency": options.max_concurrency,
        **found,
        "options": settings,
    }
    if options.save_detailed:
        content |= figures.details(measured.outcomes)
    usual = f"{options.backend}-{options.request_rate:g}qps-{model.replace('/', '_')}-{date}.json"
    path = Path(options.result_dir, options.result_filename or usual).expanduser()
    path.write_text(json.dumps(content, indent=1))
    print(f"written to {path}")
