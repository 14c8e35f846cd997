"""What a simulation is told; flags of `lightllm simulate` are made from it."""

from typing import Annotated

import msgspec

from lightllm.base.config import about, above, at_least

A = Annotated


class SimulationSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Traces times policies times loads times seeds."""

    traces: A[
        list[str], about("Workloads by name, or files of JSON lines with recorded requests; sharegpt_o1 if not given")
    ] = []
    policies: A[
        list[str],
        about(
            "Admission policies, with settings of their own where needed: watermark:watermark=0.9; or oracle. "
            "All of them if not given"
        ),
    ] = []
    loads: A[
        list[float],
        about("Requests per second, as shares of what a server whose pool is full can answer; 1 if not given"),
    ] = []
    clients: A[list[int], about("Instead of loads: how many clients ask, each again as soon as it has its answer")] = []
    seeds: A[int, at_least(1), about("Runs of each combination; all policies meet the same requests")] = 3
    requests: A[int, at_least(2), about("Requests of each run")] = 1000
    warm_up: A[float, msgspec.Meta(ge=0, lt=1), about("Share of the time that passes before anything is counted")] = (
        0.25
    )
    history: A[
        int, at_least(0), about("Requests that the server has answered before; recorded traces have none before them")
    ] = 1000
    pool_tokens: A[int, at_least(1), about("Slots of the KV pool")] = 120_000
    scale: A[
        int, at_least(1), about("Tokens that each simulated one stands for: faster, the more the coarser; 1 is exact")
    ] = 1
    cost: A[str, about("JSON file with what a step costs; a measured H200 with an 8B model if not given")] = ""
    settings: A[list[str], about("Scheduler settings for all policies, each as NAME=VALUE")] = []
    ttft_s: A[float, above(0), about("A request is served well if its first token comes within this time")] = 10.0
    gap_s: A[float, above(0), about("and no later token takes longer than this")] = 1.5
    patience_s: A[float, above(0), about("A client leaves if its request has not begun by then")] = 8.0
    jobs: A[int, at_least(0), about("Processes that simulate; 0: one per core")] = 0
    json: A[str, about("Write all results here")] = ""
    plots: A[str, about("Draw plots into this directory (needs matplotlib)")] = ""
