"""A real server in processes of its own, for tests: started, watched and ended as a user would."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.request import urlopen

START_TIMEOUT_S = 120


class Server:
    """`lightllm serve` with some flags on a free port. Use as a context manager."""

    def __init__(self, *flags: str, model: str = "", wait: bool = True):
        command = [sys.executable, "-m", "lightllm", "serve", *([model] if model else []), "--port", "0", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1)
        self.lines: list[str] = []
        self.url = ""
        self._address = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if wait:
            self.wait_until_ready()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if match := re.search(r"http://127\.0\.0\.1:\d+", line):
                self.url = match[0]
                self._address.set()
        self._address.set()

    def wait_until_ready(self) -> None:
        assert self._address.wait(START_TIMEOUT_S), f"no address after {START_TIMEOUT_S} s:\n{self.output}"
        assert self.url, f"the server ended with {self.process.wait()}:\n{self.output}"

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def get(self, path: str) -> str:
        with urlopen(self.url + path, timeout=10) as response:
            return response.read().decode()

    def metric(self, name: str) -> float:
        """Value of a counter or gauge on /metrics."""
        match = re.search(rf"^lightllm_{name}(?:_total)?(?:{{[^}}]*}})? (\S+)$", self.get("/metrics"), re.MULTILINE)
        assert match, f"no metric {name}"
        return float(match[1])

    def children(self) -> dict[str, list[int]]:
        """Process ids by name of the process: api, scheduler, worker, detokenizer."""
        found: dict[str, list[int]] = {}
        for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            if match := re.search(r"lightllm\.processes\.(\w+)", _command_line(int(pid))):
                found.setdefault(match[1], []).append(int(pid))
        return found

    def end(self, how: int = signal.SIGTERM, timeout_s: float = 30) -> int:
        """Signals the server, waits for it and returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        code = self.process.wait(timeout_s)
        self._reader.join(timeout_s)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        children = [pid for pids in self.children().values() for pid in pids] if self.process.poll() is None else []
        try:
            self.end(signal.SIGINT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        assert eventually(lambda: not any(map(is_alive, children))), "children outlived the server"


def is_alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def eventually(condition, timeout_s: float = 10.0) -> bool:
    """Whether `condition` becomes true in time."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def shared_segments() -> set[str]:
    """Names in the file system that shared memory or sockets could leave behind."""
    return {str(path) for folder in ("/dev/shm", "/tmp") for path in Path(folder).glob("*lightllm*")}


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
