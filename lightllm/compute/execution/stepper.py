"""Computes plans: a model with one pool, its rows, its sampler and its graphs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightllm.base.step import StepPlan
from lightllm.compute import ops
from lightllm.compute.execution.grammar_masks import GrammarMasks
from lightllm.compute.execution.graphs import Choices, Graphs, Recorder, Sampling
from lightllm.compute.execution.mixed_graphs import MixedGraphs
from lightllm.compute.execution.pooling import Pooled
from lightllm.compute.execution.rows import Rows
from lightllm.compute.execution.step import build
from lightllm.compute.layers.decoder import CausalLM
from lightllm.compute.parallel.mesh import Group
from lightllm.compute.sampling.parameters import Asked
from lightllm.compute.sampling.sampler import Logprobs, Sampler
from lightllm.compute.state.layer_state import Format
from lightllm.compute.state.token_pool import TokenPool
from lightllm.compute.transfers import Upload

SCORED_AT_ONCE = 256  # tokens: so many logits are in memory at a time
Scores = tuple[Tensor, ...]  # logprobs [n] float32, the likeliest tokens [n, k] int64 and their logprobs [n, k]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the sequences `which` of a plan sample, on the device; log-probabilities on rank 0 only."""

    which: np.ndarray  # [n], on the host
    tokens: Tensor | None = None  # [n] int64
    logprobs: Logprobs | None = None
    vectors: Tensor | None = None  # [n, width] float32, of a model that does not generate
    scores: Scores | None = None  # of the plan's successors

    @property
    def tensors(self) -> list[Tensor]:
        """What the host has to know: tokens; logprobs of these; scores. Each only if there are any."""
        known, tensors = self.logprobs, [] if self.tokens is None else [self.tokens]
        if self.vectors is not None:
            return [*tensors, self.vectors]
        if known is not None:
            tensors += [known.chosen, known.top_tokens, known.top]
        return [*tensors, *(self.scores or ())]


class Stepper:
    """Everything that depends on the size of the pool. Nothing here waits for the device."""

    def __init__(
        self, model: CausalLM, *, rows: int, longest: int, slots: int, form: Format, group: Group, upload: Upload
    ):
        """longest: positions of a row; slots, form: of the pool."""
        self._model, self._group, self._upload = model, group, upload
        device = upload.device
        self._pool = TokenPool(model.states(), slots, form, device)
        self._pool.bind(model)
        self._rows = Rows(rows, longest, slots, device)
        self._sampler = Sampler(
            rows=rows,
            vocab=model.vocab,
            upload=upload,
            history=(self._rows.slot_table, self._rows.token_of_slot),
        )
        self._pooled = None
        if model.pooling != "last":
            self._pooled = Pooled(model.pooling, rows=rows, hidden=model.model.embed_tokens.hidden, device=device)
        self.masks: GrammarMasks | None = None  # where there is none, no row has a grammar
        self._graphs: Graphs | None = None
        self._mixed_graphs: MixedGraphs | None = None

    @property
    def has_graphs(self) -> bool:
        return self._graphs is not None

    def capture(self, sizes: Sequence[int], record: Recorder, *, most_read_again: int = 0) -> None:
        """Records steps of these sizes, to be replayed from now on. most_read_again: see Graphs."""
        has_choices = self._group.ranks == 1 and self._model.score is None
        self._graphs = Graphs(
            self._model,
            self._rows,
            self._pool.hold_slot,
            sizes,
            upload=self._upload,
            record=record,
            most_read_again=most_read_again,
            choices=Choices(self._likeliest, self._drawn) if has_choices else None,
        )

    def capture_mixed(self, sizes: Sequence[int], record: Recorder) -> None:
        """Records steps of these numbers of tokens, whatever their sequences run, to be replayed from now on."""
        hold_slot = self._pool.hold_slot
        self._mixed_graphs = MixedGraphs(self._model, self._rows, hold_slot, sizes, upload=self._upload, record=record)

    def launch(self, plan: StepPlan) -> Outcome:
        """Computes a plan. All ranks are given the same ones, and all learn what rank 0 samples."""
        if self.masks is not None and self._group.rank == 0 and len(plan.begins):
            self.masks.begin(plan.begins)
        which = np.flatnonzero(plan.samples)
        if self._model.score is not None:
            sampling = self._pool_hidden(plan) or self._replay(plan) or self._compute(plan)
            if not len(which):
                return Outcome(which)
            return Outcome(which, torch.zeros_like(sampling.row), vectors=self._model.vectors(sampling.hidden))
        scores = None
        if len(plan.scored):
            sampling, scores = self._compute_and_score(plan)
        else:
            sampling = self._replay(plan) or self._compute(plan)
        if self._group.rank == 0 and len(plan.begins):  # while the device computes
            self._sampler.begin(plan.begins, plan.stop_tokens, plan.words)
        tokens, logprobs = self._sample(plan, sampling, which) if len(which) else (None, None)
        return Outcome(which, tokens, logprobs, scores=scores)

    def _replay(self, plan: StepPlan) -> Sampling | None:
        """A step that a graph fits."""
        replayed = self._graphs.run(plan) if self._graphs is not None else None
        if replayed is None and self._mixed_graphs is not None:
            replayed = self._mixed_graphs.run(plan)
        return replayed

    def _compute(self, plan: StepPlan) -> Sampling:
        """A step of which only last tokens are wanted."""
        step = build(plan, self._rows, self._upload)
        return Sampling(self._model(step.batch), step.row, step.length)

    def _pool_hidden(self, plan: StepPlan) -> Sampling | None:
        """A step of a model whose vectors are made of more than the last tokens, as if these were all."""
        if self._pooled is None:
            return None
        step = build(plan, self._rows, self._upload, is_all_wanted=True)
        self._pooled.add(self._model(step.batch), step.batch.sequences)
        return Sampling(self._pooled.of(step.row, step.length), step.row, step.length)

    def _compute_and_score(self, plan: StepPlan) -> tuple[Sampling, Scores | None]:
        """A step in which the plan's successors are scored; the scores are rank 0's."""
        step = build(plan, self._rows, self._upload, is_all_wanted=True)
        hidden = self._model(step.batch)
        places, successors = self._upload(plan.scored), self._upload(plan.successors)
        parts = [
            self._score(hidden.index_select(0, which), follow, plan.num_score_logprobs)
            for which, follow in zip(places.split(SCORED_AT_ONCE), successors.split(SCORED_AT_ONCE), strict=True)
        ]
        sampling = Sampling(hidden.index_select(0, step.token), step.row, step.length)
        known = [part for part in parts if part is not None]
        return sampling, tuple(torch.cat(each) for each in zip(*known, strict=True)) if known else None

    def _score(self, hidden: Tensor, successors: Tensor, count: int) -> Scores | None:
        """How likely each successor [n] is after what hidden [n, hidden] stands for, and the `count` likeliest."""
        logits = self._model.logits(hidden)
        return ops.logprobs(logits, successors, min(count, self._model.vocab)) if self._group.rank == 0 else None

    def _sample(self, plan: StepPlan, sampling: Sampling, which: np.ndarray) -> tuple[Tensor, Logprobs | None]:
        """The next tokens of the sequences `which`, the same on all ranks; the rows remember them."""
        rows, lengths = plan.rows[which], (plan.starts + plan.counts)[which]
        is_free = self.masks is None or not self.masks.rule_any(rows)
        recorded = {0: sampling.likeliest, int(Asked.DRAW): sampling.drawn}
        if is_free and (choose := recorded.get(self._sampler.asked_by_any(rows, lengths))) is not None:
            return choose(), None
        logits = self._model.logits(sampling.hidden)
        tokens, logprobs = torch.empty_like(sampling.row), None
        if self._group.rank == 0:
            on_device = sampling.row, sampling.length
            allowed = None if self.masks is None else self.masks.of(plan, which)
            tokens, logprobs = self._sampler.sample(logits, rows, lengths, on_device, allowed)
        tokens = self._group.broadcast(tokens)
        self._rows.last_token.index_copy_(0, sampling.row, tokens)
        return tokens, logprobs

    def _likeliest(self, hidden: Tensor, row: Tensor, length: Tensor) -> Tensor:
        """See Choices."""
        tokens = ops.most_likely(self._model.logits(hidden))
        self._rows.last_token.index_copy_(0, row, tokens)
        return tokens

    def _drawn(self, hidden: Tensor, row: Tensor, length: Tensor) -> Tensor:
        """See Choices."""
        tokens = self._sampler.draw(self._model.logits(hidden), row, length)
        self._rows.last_token.index_copy_(0, row, tokens)
        return tokens
