"""`lightllm bench ops`: every op by every implementation: time, rates, and share of what the device can do."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from lightllm.base.config import EngineConfig
from lightllm.base.errors import ConfigError
from lightllm.bench import files
from lightllm.bench.kernels.cases import Cases
from lightllm.bench.kernels.timing import Case, Roof, measure_roof, seconds_of
from lightllm.bench.options import OpsOptions
from lightllm.compute import kernels
from lightllm.compute.execution.loading import DTYPES, choose_device
from lightllm.compute.ops.op import Facts


@dataclass
class Figure:
    op: str
    size: str
    implementation: str
    us: float
    spread: float  # of replays: (slowest - fastest) / median
    gb_s: float
    tflop_s: float
    share: float  # of the roof


@dataclass
class Figures:
    """What was measured, written out as it comes in."""

    path: Path | None
    roof: Roof
    rows: list[Figure] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def begin(self, about: str) -> None:
        roof = self.roof
        print(
            f"{about}: reads {roof.read_bytes_s / 1e9:.4g} GB/s, copies {roof.copy_bytes_s / 1e9:.4g} GB/s, "
            f"multiplies at {roof.operations_s / 1e12:.3g} TFLOP/s; share: of what that allows\n\n"
            f"{'op':24} {'size':42} {'implementation':30} {'time':>12} {'spread':>6} {'bytes':>13} "
            f"{'operations':>16} {'share':>5}",
            flush=True,
        )

    def add(self, case: Case, seconds: float, spread: float) -> None:
        rates = (case.bytes_moved / seconds / 1e9, case.operations / seconds / 1e12)
        share = self.roof.share(case, seconds)
        row = Figure(case.op, case.size, case.implementation, seconds * 1e6, spread, *rates, share)
        self.rows.append(row)
        print(
            f"{row.op:24} {row.size:42} {row.implementation:30} {row.us:9.1f} us {row.spread:6.0%}"
            f" {row.gb_s:8.4g} GB/s {row.tflop_s:8.3g} TFLOP/s {row.share:5.0%}",
            flush=True,
        )
        self.write()

    def fail(self, case: Case, error: Exception) -> None:
        self.failures[case.name] = f"{type(error).__name__}: {error}"
        print(f"{case.name}: {self.failures[case.name][:300]}", flush=True)
        self.write()

    def write(self) -> None:
        if self.path is not None:
            rows = [asdict(row) for row in self.rows]
            content = {"roof": asdict(self.roof), "rows": rows, "failures": self.failures}
            self.path.write_text(json.dumps(content, indent=1))


def run(options: OpsOptions) -> int:
    """Measures, prints and writes. 1 if some case could not be run. Raises ConfigError."""
    path = files.destination(options.output_json, "output_json")
    torch.manual_seed(0)
    device = choose_device(EngineConfig(device=options.device), 0)
    facts = Facts(device, DTYPES["float32" if device.type == "cpu" else "bfloat16"])
    kernels.load(facts)
    with torch.inference_mode():
        cases = _chosen(facts, options)
        if options.warm:
            first, every = _part(options.warm)
            if device.type == "cpu":
                raise ConfigError(f"--warm={options.warm} compiles kernels for a GPU, and this measures a CPU")
            _warm(cases[first::every])
            return 0
        figures = Figures(path, measure_roof(device, facts.dtype))
        figures.begin(f"{device}, {str(facts.dtype).removeprefix('torch.')}")
        for case in cases:
            try:
                figures.add(case, *seconds_of(case.calls(device), device, waits=case.waits))
            except Exception as error:  # noqa: BLE001 (one case must not cost the others)
                figures.fail(case, error)
    return 1 if figures.failures else 0


def _chosen(facts: Facts, options: OpsOptions) -> list[Case]:
    """Raises ConfigError if nothing is left."""
    cases = list(Cases(facts).all())
    if facts.device.type == "cuda":
        from lightllm.bench.kernels.cuda_cases import CudaCases

        cases += CudaCases(facts).all()
    chosen = [
        case for case in cases if options.only in case.name and not any(text in case.name for text in options.skip)
    ]
    if not chosen:
        names = ", ".join(sorted({case.op for case in cases}))
        raise ConfigError(f"--only={options.only} leaves no case; ops are {names}")
    return chosen


def _part(text: str) -> tuple[int, int]:
    first, _, every = text.partition("/")
    if not (first.isdigit() and every.isdigit() and int(first) < int(every)):
        raise ConfigError(f"--warm={text}: give I/N with I below N, as in 0/4")
    return int(first), int(every)


def _warm(cases: list[Case]) -> None:
    for case in cases:
        try:
            case.function(*case.make())
            torch.cuda.synchronize()
        except Exception as error:  # noqa: BLE001 (a case that fails is reported where it is timed)
            print(f"{case.name}: {error}"[:300])
