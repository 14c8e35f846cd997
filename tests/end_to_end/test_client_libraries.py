"""Other projects' client libraries against a real server on the bundled model, each in a process of its own.

`make nightly` installs them into .venv-clients, apart from the other tests: they want other versions of openai.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.serving import Server

KEY = "sk-clients"
SCRIPTS = Path(__file__).with_name("clients")
INSTALLED = Path(__file__).parents[2] / ".venv-clients"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not INSTALLED.exists(), reason="the libraries are not installed; `make nightly` does that"),
]


@pytest.fixture(scope="module")
def server():
    with Server("--max_total_token_num", "5000", "--max_req_total_len", "2048", "--api_key", f"tests {KEY}") as running:
        yield running


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("use_*.py")), ids=lambda path: path.stem)
def test_python_library(server, script):
    _run([str(INSTALLED / "bin" / "python"), str(script)], server)


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node here")
@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("use_*.mjs")), ids=lambda path: path.stem)
def test_javascript_library(server, script):
    # node looks for packages beside the script
    copy = INSTALLED / script.name
    shutil.copy(script, copy)
    _run(["node", str(copy)], server)


def _run(command: list[str], server: Server) -> None:
    done = subprocess.run([*command, server.url, KEY], capture_output=True, text=True, timeout=300, cwd=INSTALLED)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
    assert not any(KEY in line for line in server.lines), "the log holds no keys"
