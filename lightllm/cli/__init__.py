"""The command line. Each command is a module here, imported only when it runs."""

import argparse
import difflib
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from lightllm import __version__
from lightllm.base.config import EngineConfig, ServerConfig
from lightllm.base.errors import LightLLMError
from lightllm.bench.options import LatencyOptions, OfflineOptions, OpsOptions, ServeOptions, TuneOptions
from lightllm.cli.flags import add_flags, with_underscores
from lightllm.simulation.settings import SimulationSettings


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    parser, commands = _parsers()
    given, unknown = parser.parse_known_args(with_underscores(sys.argv[1:] if arguments is None else arguments))
    if given.command is None:
        parser.print_help()
        return 2
    if unknown:
        command = commands.get(f"{given.command} {getattr(given, 'work', '')}", commands[given.command])
        command.error(_about_unknown(unknown[0], command))
    values = {name: value for name, value in vars(given).items() if name != "command"}
    try:
        return import_module(f"lightllm.cli.{given.command}").run(**values)
    except LightLLMError as error:
        print(f"lightllm {given.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # who read what is printed has left; nothing may be printed at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141


def _parsers() -> tuple[_Parser, dict[str, _Parser]]:
    """The parser of `lightllm` and those of its commands."""
    parser = _Parser(prog="lightllm", description="LLM inference and serving", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"lightllm {__version__}")
    actions = parser.add_subparsers(dest="command", metavar="COMMAND")
    serve = _command(actions, "serve", "serve a model over HTTP")
    serve.usage = "lightllm serve [MODEL] [flags]"
    _add_model(serve)
    add_flags(serve, ServerConfig)
    chat = _command(actions, "chat", "talk to a server in the terminal")
    chat.add_argument("--url", default="http://127.0.0.1:8000", help="the server's address (default: %(default)s)")
    chat.add_argument("--model", default="", metavar="TEXT", help="name of the model; the server's first if not given")
    chat.add_argument("--system", default="", metavar="TEXT", help="instructions that go before the conversation")
    check = _command(actions, "check", "show the environment, and which implementation each op would use here")
    _add_model(check)
    check.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    tune = _command(actions, "tune", "find launch parameters of kernels for this GPU and a model's sizes")
    _add_model(tune)
    add_flags(tune, TuneOptions)
    bench = _command(actions, "bench", "measure a server, the engine or its kernels")
    simulate = _command(actions, "simulate", "try the scheduler on a trace, without a model or a device")
    add_flags(simulate, SimulationSettings)
    found = {
        "serve": serve,
        "chat": chat,
        "check": check,
        "tune": tune,
        "bench": bench,
        **_benchmarks(bench),
        "simulate": simulate,
    }
    return parser, found


def _benchmarks(bench: _Parser) -> dict[str, _Parser]:
    """The parsers of what `lightllm bench` can measure."""
    actions = bench.add_subparsers(dest="work", metavar="WORK", required=True)
    serve = _command(actions, "serve", "latencies and rates of a server that runs, over HTTP")
    add_flags(serve, ServeOptions)
    throughput = _command(actions, "throughput", "how many prompts an engine without HTTP answers, all at once")
    latency = _command(actions, "latency", "how long a batch and a decode step take, without HTTP")
    for parser, options in ((throughput, OfflineOptions), (latency, LatencyOptions)):
        _add_model(parser)
        add_flags(parser, options)
        add_flags(parser, EngineConfig)
    ops = _command(actions, "ops", "each op by each implementation: time, rates and share of what the device can do")
    add_flags(ops, OpsOptions)
    parsers = {"serve": serve, "throughput": throughput, "latency": latency, "ops": ops}
    return {f"bench {name}": parser for name, parser in parsers.items()}


def _command(actions, name: str, about: str) -> _Parser:
    return actions.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.", allow_abbrev=False)


def _add_model(parser: argparse.ArgumentParser) -> None:
    about = "checkpoint's directory or hub name; the bundled model if not given"
    parser.add_argument("model", nargs="?", default="", metavar="MODEL", help=about)


def _about_unknown(argument: str, parser: argparse.ArgumentParser) -> str:
    if not argument.startswith("-"):
        return f"unexpected argument {argument!r}"
    flag = argument.partition("=")[0]
    known = [name for action in parser._actions for name in action.option_strings]
    close = difflib.get_close_matches(flag, known, n=1)
    return f"unknown flag {flag}; " + (f"did you mean {close[0]}?" if close else f"see {parser.prog} --help")
