"""`lightllm tune`: finds launch parameters for this GPU and a model's sizes, and writes them where kernels look."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lightllm.base import env
from lightllm.base.config import EngineConfig, ServerConfig
from lightllm.base.errors import ConfigError
from lightllm.bench import files
from lightllm.bench.kernels import model_sizes
from lightllm.bench.kernels.search import Found, nearest_first, search
from lightllm.bench.options import TuneOptions
from lightllm.compute import kernels
from lightllm.compute.execution.loading import choose_device
from lightllm.compute.ops.op import Facts
from lightllm.processes.supervision.checkpoint import resolve


def run(options: TuneOptions, model: str) -> int:
    """Raises ConfigError where there is no GPU to measure on."""
    sizes = model_sizes.of(Path(resolve(ServerConfig(model_dir=model, load_format="dummy")).model_dir), tp=options.tp)
    if not torch.cuda.is_available():
        raise ConfigError(
            "kernels are measured on a GPU, and there is none here; run this on the machine that will serve"
        )
    from lightllm.bench.kernels.tunable import tunables
    from lightllm.compute.kernels.triton import tuned

    device = choose_device(EngineConfig(device="cuda"), 0)
    facts = Facts(device, torch.bfloat16)
    kernels.load(facts)
    path = files.destination(options.output, "output") or tuned.path_for(
        torch.cuda.get_device_name(device), Path(env.TUNED_FOLDER)
    )
    tasks = [one for one in tunables(sizes, facts) if options.only in one.op]
    if not tasks:
        raise ConfigError(f"--only={options.only} leaves nothing; use linear, attend decodes, attend chunks or experts")
    content = _read(path, device)
    with torch.inference_mode():
        for task in tasks:
            candidates = nearest_first(task.candidates, task.default)
            name = f"{task.op} {tuned.key(task.sizes)}"
            with tqdm(total=len(candidates), desc=name, disable=options.disable_tqdm, leave=False) as bar:
                found = search(
                    candidates,
                    task.default,
                    lambda parameters, task=task: task.measure(parameters, device),
                    budget_s=options.budget_s,
                    progress=bar.update,
                )
            print(f"{name}: {_describe(found, task.default)}", flush=True)
            keep(content["parameters"], tuned.op_key(task.op, task.kind), tuned.key(task.sizes), found, task.default)
            _write(path, content)
    print(f"written to {path}; `lightllm check` says which file counts")
    return 0


def keep(parameters: dict[str, Any], op: str, sizes: str, found: Found, default: Any) -> None:
    """Enters what was found; where nothing beats the default, what an earlier search entered goes."""
    entries = parameters.setdefault(op, {})
    entries.pop(sizes, None)
    if found.best != default:
        entries[sizes] = None if found.best is None else asdict(found.best)
    if not entries:
        del parameters[op]


def _describe(found: Found, default: Any) -> str:
    counts = f"{found.tried} tried" + (f", {found.failed} do not run" if found.failed else "")
    counts += f", {found.left} not reached (--budget_s)" if found.left else ""
    if found.best == default:
        return f"the default stays ({counts})"
    best = "the library" if found.best is None else ", ".join(f"{k}={v}" for k, v in asdict(found.best).items())
    return f"{best}: {1 - found.ratio:.0%} less time ({counts})"


def _read(path: Path, device: torch.device) -> dict[str, Any]:
    """What an earlier run wrote, to be completed. Raises ConfigError for a file that is something else."""
    import triton

    from lightllm.compute.kernels.triton import tuned

    versions = {"torch": torch.__version__, "triton": triton.__version__}
    parameters = dict(tuned.read(path)) if path.is_file() else {}
    return {"device": torch.cuda.get_device_name(device), **versions, "parameters": parameters}


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1))
