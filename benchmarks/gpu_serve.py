"""A server on one GPU through HTTP: how soon it answers, and four works, each an order to `lightllm bench serve`.

    python -m benchmarks.gpu_serve --out FOLDER [--tokenizer DIRECTORY] [--checkpoint DIRECTORY] [--only WORK ...]
        [--settings name=value ...]

About two minutes on an H200. Without --checkpoint: random weights in the shape of Llama-3.1-8B, made when the server
starts. The tokenizer is copied beside them; without --tokenizer it is the bundled model's with tokens more, which
answers may have and prompts have not. FOLDER gets a JSON file of each work, pictures where matplotlib is installed, the
server's log, and summary.json. Settings are those of `lightllm serve`.
"""

import argparse
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

from benchmarks import on_gpu
from benchmarks.gpu_shapes import SHAPES
from lightllm.demo import MODEL_DIR

_START_TIMEOUT_S = 150
_WORK_TIMEOUT_S = 100
_WARM_UP = "--random-input-len 1024 --random-output-len 128 --random-range-ratio 0.5 --num-prompts 32 --seed 1"
WORKS = {
    "c1": "--random-input-len 1024 --random-output-len 128 --num-prompts 6 --max-concurrency 1",
    "c32": "--random-input-len 1024 --random-output-len 256 --num-prompts 96 --max-concurrency 32",
    "inf": "--random-input-len 512 --random-output-len 256 --random-range-ratio 0.5 --num-prompts 1000",
    "rate12": "--random-input-len 1024 --random-output-len 256 --random-range-ratio 0.5 --num-prompts 360"
    " --request-rate 12",
}
_SHOWN = ("output_throughput", "median_ttft_ms", "p99_ttft_ms", "median_tpot_ms", "failed", "client_cpu_share")


def write_checkpoint(directory: Path, tokenizer: Path | None) -> None:
    """What a server needs beside random weights."""
    shape = SHAPES["llama-8b"]
    (directory / "config.json").write_text(json.dumps(shape))
    shutil.copy((tokenizer or MODEL_DIR) / "tokenizer_config.json", directory)
    text = ((tokenizer or MODEL_DIR) / "tokenizer.json").read_text()
    (directory / "tokenizer.json").write_text(text if tokenizer else _with_tokens(text, shape["vocab_size"]))


def _with_tokens(tokenizer: str, count: int) -> str:
    """A tokenizer with tokens added at the end, " +5000" and so on, of which no text is made: they join nothing."""
    content = json.loads(tokenizer)
    vocabulary = content["model"]["vocab"]
    vocabulary |= {token["content"]: token["id"] for token in content["added_tokens"]}  # else they are numbered anew
    vocabulary |= {f"Ġ+{token}": token for token in range(len(vocabulary), count)}
    return json.dumps(content)


class Server:
    """`lightllm serve` until the end of the block."""

    def __init__(self, model: Path, settings: list[str], log: Path):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        flags = [part for setting in settings for part in _flag(setting)]
        command = [sys.executable, "-m", "lightllm", "serve", str(model), "--port", str(self._port), *flags]
        self.url = f"http://127.0.0.1:{self._port}"
        self._log = log.open("w")
        self._log_path = log
        self._began = time.perf_counter()
        self._process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)

    def seconds_to_first_token(self, model: str) -> float:
        """Since the command was given. Raises RuntimeError with the log's end if there is none."""
        body = json.dumps({"model": model, "prompt": "Hello", "max_tokens": 1, "ignore_eos": True}).encode()
        request = Request(self.url + "/v1/completions", body, {"Content-Type": "application/json"})
        while self._process.poll() is None and time.perf_counter() - self._began < _START_TIMEOUT_S:
            try:
                with urlopen(request, timeout=_START_TIMEOUT_S) as answer:
                    assert json.load(answer)["usage"]["completion_tokens"] == 1
                return time.perf_counter() - self._began
            except (URLError, OSError):  # not listening, or 503 while it loads
                time.sleep(0.02)
        raise RuntimeError(f"no token came:\n{self._log_path.read_text()[-3000:]}")

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def _flag(setting: str) -> list[str]:
    name, _, value = setting.partition("=")
    return [f"--{name}", value] if value else [f"--{name}"]


def measure(work: str, flags: str, url: str, tokenizer: Path, out: Path) -> dict[str, float]:
    """Runs one work and returns what it wrote."""
    command = [sys.executable, "-m", "lightllm", "bench", "serve", "--base-url", url, "--tokenizer", str(tokenizer)]
    command += [*flags.split(), "--ignore-eos", "--save-result", "--result-dir", str(out)]
    command += ["--result-filename", f"{work}.json", "--disable-tqdm"]
    if find_spec("matplotlib"):
        command += ["--plot", str(out / f"{work}.png")]
    print(f"\n{work}: {flags}", flush=True)
    subprocess.run(command, timeout=_WORK_TIMEOUT_S, check=True)
    return json.loads((out / f"{work}.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, help="directory with tokenizer.json")
    parser.add_argument("--checkpoint", type=Path, help="serve this, which has a tokenizer, instead of random weights")
    parser.add_argument("--only", nargs="+", choices=list(WORKS), default=list(WORKS))
    parser.add_argument("--settings", nargs="+", default=[], help="of lightllm serve, as name=value or name")
    arguments = parser.parse_args()
    on_gpu.require()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        settings, model = arguments.settings, arguments.checkpoint
        if model is None:
            model = Path(folder) / "llama-8b"
            model.mkdir()
            write_checkpoint(model, arguments.tokenizer)
            settings = ["load_format=dummy", *settings]
        with Server(model, settings, arguments.out / "server.log") as server:
            first = server.seconds_to_first_token(model.name)
            summary: dict[str, object] = {"settings": settings, "seconds from command to first token": first}
            print(f"first token after {first:.1f} s", flush=True)
            tokenizer = arguments.tokenizer or model
            measure("warm-up", _WARM_UP, server.url, tokenizer, arguments.out)
            for work in arguments.only:
                try:
                    found = measure(work, WORKS[work], server.url, tokenizer, arguments.out)
                    summary[work] = {name: found.get(name) for name in _SHOWN}
                except subprocess.SubprocessError as error:  # the other works still count
                    summary[work] = {"error": str(error)}
                (arguments.out / "summary.json").write_text(json.dumps(summary, indent=1))
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
