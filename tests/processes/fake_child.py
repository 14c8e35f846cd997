"""A child without contents: says hello over every wire it was given, is ready when all have answered, writes a diary.

usage: fake_child.py PROCESS FOLDER DESCRIPTOR
`FOLDER/PROCESS.INDEX` is the diary; a file `FOLDER/PROCESS.fails` makes it fail at the start with the file's text.
"""

import os
import select
import signal
import sys
import time
from pathlib import Path

from lightllm.base.errors import Closed, ConfigError
from lightllm.base.messages import (
    ClientForgotten,
    ClientLost,
    Connect,
    Drain,
    MasksReady,
    PlanReady,
    Progress,
    Ready,
    Requests,
    ResultReady,
    TextReady,
)
from lightllm.processes.ipc import child
from lightllm.processes.ipc.channels import Channel

HELLO = {
    "scheduler": PlanReady, "worker": ResultReady, "api": Requests, "detokenizer": lambda: TextReady(b""),
    "grammar": MasksReady,
}  # fmt: skip
# Whom each process hears from before it is ready; workers are ready before the scheduler is told anything.
HEARS = {"scheduler": ("worker", "client"), "worker": (), "api": ("detokenizer",), "detokenizer": (), "grammar": ()}


class FakeChild:
    def __init__(self, process: str, me: child.Child, folder: Path):
        self.process, self.me = process, me
        self.diary = open(folder / f"{process}.{me.start.index}", "a", buffering=1)  # noqa: SIM115
        peers = ("scheduler", "detokenizer", "client:", "worker:")
        self.peers = {name: me.channel(name) for name in me.descriptors if name.startswith(peers)}
        self.heard: set[str] = set()
        self.is_ready = False

    def run(self) -> None:
        self.note(f"start {os.getpid()} {sorted(self.me.descriptors)} pool={self.me.start.pool_tokens}")
        for name in self.peers:
            self.greet(name)
        while True:
            self.be_ready_once()
            readable, _, _ = select.select([self.me.control, *self.peers.values()], [], [])
            for name, channel in list(self.peers.items()):
                if channel in readable:
                    self.listen(name, channel)
            if self.me.control in readable:
                self.obey()

    def greet(self, name: str) -> None:
        if self.process == "scheduler" and name == "detokenizer":
            self.peers[name].send(Progress(b""))
        elif not (self.process == "scheduler" and name.startswith("client")):
            self.peers[name].send(HELLO[self.process]())

    def listen(self, name: str, channel: Channel) -> None:
        try:
            while channel.receive() is not None:
                self.heard.add(name)
        except Closed:
            self.note(f"closed {name}")
            del self.peers[name]

    def be_ready_once(self) -> None:
        expected = (
            {name for name in self.peers if name.startswith(HEARS[self.process])} if HEARS[self.process] else set()
        )
        if not self.is_ready and expected <= self.heard:
            self.is_ready = True
            rank = self.me.start.index
            is_worker = self.process == "worker"
            self.me.control.send(Ready(pool_tokens=1000 - rank if is_worker else 0, memory=[("weights", 1 << 20)]))

    def obey(self) -> None:
        message, descriptors = self.me.control.receive_with_descriptors()
        self.note(repr(message))
        match message:
            case Connect(name):
                self.peers[name] = Channel.of_descriptor(descriptors[0])
                self.greet(name)
            case ClientLost(client):
                self.me.control.send(ClientForgotten(client))
            case Drain():
                time.sleep(0.3)
                self.note("drained")
                sys.exit(0)

    def note(self, line: str) -> None:
        self.diary.write(line + "\n")


def main(me: child.Child) -> None:
    process, folder = sys.argv[1], Path(sys.argv[2])
    if (failure := folder / f"{process}.fails").exists():
        text = failure.read_text()
        if text == "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        raise (ConfigError if text.startswith("--") else RuntimeError)(text)
    FakeChild(process, me, folder).run()


if __name__ == "__main__":
    child.run(sys.argv[1], main)
