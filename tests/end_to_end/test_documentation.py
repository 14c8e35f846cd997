"""What the README and the pages about requests show works as it is written there."""

import json
import re
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *(ROOT / "docs" / name for name in ("tools.md", "structured.md"))]


def blocks(kind: str) -> list:
    found = [
        (page.stem, block) for page in PAGES for block in re.findall(rf"```{kind}\n(.*?)```", page.read_text(), re.S)
    ]
    return [pytest.param(block, id=f"{page}-{number}") for number, (page, block) in enumerate(found)]


ENGINES = [one for one in blocks("python") if "LLM(" in one.values[0]]
CLIENTS = [one for one in blocks("python") if one not in ENGINES]


@pytest.mark.parametrize("block", CLIENTS)
def test_examples_of_clients_work(server, block):
    with OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        exec(block, {"client": client})


@pytest.mark.slow
@pytest.mark.parametrize("block", ENGINES)
def test_examples_of_engines_work(block):
    exec(block.replace('"/path/to/checkpoint", ', ""), {})


def test_the_command_of_the_readme_is_answered(server):
    [path, body] = re.search(r"curl http://127.0.0.1:8000(\S+) .*?-d '(.*?)'", PAGES[0].read_text(), re.S).groups()
    answer = httpx.post(server.url + path, content=body, timeout=60)
    assert "42" in answer.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize("block", blocks("json"))
def test_objects_that_are_shown_are_response_formats(server, block):
    body = {"messages": [{"role": "user", "content": "Where?"}], "max_tokens": 16, "response_format": json.loads(block)}
    answer = httpx.post(server.url + "/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
