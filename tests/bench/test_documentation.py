"""Commands on the page about measuring are understood as they stand there."""

import re
import shlex
from pathlib import Path

import pytest

from lightllm import cli
from lightllm.base.config import parse
from lightllm.bench.options import ServeOptions
from lightllm.cli.flags import with_underscores

PAGE = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text()
COMMANDS = re.findall(r"^ {4}lightllm (.*)$", PAGE, re.M)
EARLIER_CLIENTS = re.findall(r"^\| `benchmark_.*\| `(--.*)` \|$", PAGE, re.M)
WORKS = re.findall(r"^ {4}\w+ +(--random.*)$", PAGE, re.M)


@pytest.mark.parametrize("command", [*COMMANDS, *(f"bench serve {flags}" for flags in EARLIER_CLIENTS + WORKS)])
def test_a_command_has_flags_that_there_are(command):
    words = shlex.split(command.replace("[", "").replace("]", ""))
    given, unknown = cli._parsers()[0].parse_known_args(with_underscores(words))
    assert not unknown
    if command.startswith("bench serve"):
        parse(ServeOptions, {name: value for name, value in vars(given).items() if name not in ("command", "work")})


def test_all_earlier_clients_and_works_are_found():
    assert (len(EARLIER_CLIENTS), len(WORKS)) == (4, 4)
