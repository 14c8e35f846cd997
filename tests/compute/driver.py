"""Runs a materialized model the way a worker does: steps over sequences whose slots lie scattered in a pool."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightllm.base.quantization import stated
from lightllm.compute.execution.materialize import materialize
from lightllm.compute.layers.batch import Batch, Wanted
from lightllm.compute.layers.decoder import CausalLM
from lightllm.compute.models import registry
from lightllm.compute.ops.attention import Sequences
from lightllm.compute.parallel.mesh import Group, Mesh
from lightllm.compute.quant.select import method_for
from lightllm.compute.state.layer_state import Format
from lightllm.compute.state.token_pool import TokenPool
from lightllm.compute.weights.checkpoint import Safetensors

CPU = torch.device("cpu")
WHOLE = Mesh()
FLOAT = Format(torch.float32)


def load(directory: Path, mesh: Mesh = WHOLE, dtype: torch.dtype = torch.float32, **asked: str) -> CausalLM:
    """asked: --quant_type and --quant_cfg."""
    raw = json.loads((directory / "config.json").read_text())
    model = registry.build(registry.load_config(raw)[1])
    methods = method_for(stated(directory, raw), **asked)
    materialize(model, Safetensors(directory), mesh=mesh, dtype=dtype, device=CPU, method_for=methods)
    return model


def tensor_mesh(group: Group, *, expert_parallel: bool = False) -> Mesh:
    return Mesh(tensor=group, expert=group if expert_parallel else Group())


class Driver:
    """Feeds token lists to a model in chosen chunks. Every chunk's logits are kept."""

    def __init__(self, model: CausalLM, sequences: Sequence[Tensor], *, seed: int = 1, form: Format = FLOAT):
        self.model, self.sequences = model, sequences
        width = max(map(len, sequences)) + 3
        slots = len(sequences) * width
        self.pool = TokenPool(model.states(), slots, form, CPU)
        self.pool.bind(model)
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.randperm(slots, generator=generator).view(len(sequences), width).to(torch.int32)
        self.done = [0] * len(sequences)
        self.outputs: list[list[Tensor]] = [[] for _ in sequences]

    def step(self, counts: Sequence[int]) -> None:
        """Run counts[i] more tokens of sequence i; sequences of one token go first, those of none not at all."""
        order = sorted((i for i, count in enumerate(counts) if count), key=lambda i: counts[i] > 1)
        spans = [range(self.done[i], self.done[i] + counts[i]) for i in order]
        lengths = [span.stop for span in spans]
        decodes = sum(counts[i] == 1 for i in order)
        batch = Batch(
            tokens=torch.cat([self.sequences[i][span.start : span.stop] for i, span in zip(order, spans, strict=True)]),
            positions=torch.tensor([position for span in spans for position in span]),
            slots=torch.cat(
                [self.table[i, span.start : span.stop] for i, span in zip(order, spans, strict=True)]
            ).long(),
            sequences=Sequences(
                slot_table=self.table,
                row=torch.tensor(order),
                query_start=torch.tensor([0] + [len(span) for span in spans]).cumsum(0).to(torch.int32),
                lengths=torch.tensor(lengths, dtype=torch.int32),
                decodes=decodes,
                query_lengths=[len(span) for span in spans[decodes:]],
                context_lengths=lengths[decodes:],
            ),
        )
        hidden = self.model(batch)
        self._check_wanted(batch, hidden)
        logits = self.model.logits(hidden)
        for i, part in zip(order, logits.split([len(span) for span in spans]), strict=True):
            self.done[i] += counts[i]
            self.outputs[i].append(part)

    def _check_wanted(self, batch: Batch, hidden: Tensor) -> None:
        """If only every other sequence's last token is wanted, its hidden state is the same."""
        all_of = replace(batch.sequences, memo={})
        which = torch.arange(0, len(all_of.row), 2)
        token = all_of.query_start.long()[1:][which] - 1
        start = torch.arange(len(which) + 1, dtype=torch.int32)
        wanted = Wanted(token=token, row=all_of.row[which], query_start=start, lengths=all_of.lengths[which])
        torch.testing.assert_close(self.model(replace(batch, sequences=all_of, wanted=wanted)), hidden[token])

    def logits(self) -> list[Tensor]:
        return [torch.cat(parts) for parts in self.outputs]


def run(
    model: CausalLM, sequences: Sequence[Tensor], steps: Sequence[Sequence[int]], form: Format = FLOAT
) -> list[Tensor]:
    """The logits of every token of every sequence, computed in these steps."""
    driver = Driver(model, sequences, form=form)
    with torch.inference_mode():
        for counts in steps:
            driver.step(counts)
    return driver.logits()


def save(model: Any, directory: Path) -> None:
    """Write a transformers model, its weights made larger so that every part of it matters."""
    biases = [buffer for name, buffer in model.named_buffers() if name.endswith("bias")]
    for parameter in [*model.parameters(), *biases]:
        torch.nn.init.normal_(parameter, mean=1.0 if parameter.dim() == 1 else 0.0, std=0.1)
    model.save_pretrained(directory)
