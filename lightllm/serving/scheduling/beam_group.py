"""A request that is answered by beam search: it runs as several, its beams, which come, go on and give way together."""

from dataclasses import replace

import numpy as np

from lightllm.base.beams import BeamOptions
from lightllm.base.step import StepResult
from lightllm.serving.scheduling.beam_search import BeamSearch, Candidates, Hypothesis, Step
from lightllm.serving.scheduling.request import Request


class BeamGroup:
    """`samples`: what the client knows, of which the first waits for all; `beams`: what has rows. num_candidates: how
    many of a beam's likeliest tokens the search needs, or the client wants to see.

    A beam is a request that runs known tokens only. In each round it computes the last of them, then its group says
    which token comes next, or that it goes on from where another beam is.
    """

    def __init__(self, samples: list[Request], options: BeamOptions):
        self.samples, self.leader, self._width = samples, samples[0], options.width
        self.search = BeamSearch(
            options,
            max_tokens=self.leader.max_tokens,
            min_tokens=self.leader.min_tokens,
            stops=frozenset(self.leader.stop_tokens.tolist()),
        )
        self.num_candidates = max(self.search.num_candidates, self.leader.num_logprobs)
        self.beams: list[Request] = []
        self._heard: dict[Request, Candidates] = {}

    def begin(self) -> None:
        """All beams start at the prompt, which the leader knows."""
        sampling = self.leader.sampling.copy()
        sampling["temperature"], sampling["num_logprobs"] = 0, self.num_candidates
        sampling["min_tokens"] = 0
        self.beams = [replace(self.leader, sampling=sampling, min_tokens=0) for _ in range(self._width)]

    def hear(self, beam: Request, candidates: Candidates) -> bool:
        """What may follow a beam. Returns whether that of all is known now."""
        self._heard[beam] = candidates
        return len(self._heard) == len(self.beams)

    def next_round(self) -> list[Step]:
        """As BeamSearch.advance, when all was heard."""
        heard = [self._heard[beam] for beam in self.beams]
        self.forget_round()
        return self.search.advance(heard)

    def forget_round(self) -> None:
        """The beams lose their slots, and all will compute their last tokens again."""
        self._heard.clear()


def written(hypothesis: Hypothesis, num_logprobs: int) -> StepResult:
    """A hypothesis in the form in which outputs come."""
    places = hypothesis.places()
    logprobs = np.array([place.logprob for place in places], dtype=np.float32)
    tops = [(place.candidates.tokens[:num_logprobs], place.candidates.logprobs[:num_logprobs]) for place in places]
    return StepResult(
        step=0,
        tokens=np.array([place.token for place in places], dtype=np.int32),
        logprobs=logprobs,
        top_tokens=np.array([tokens for tokens, _ in tops], dtype=np.int32),
        top_logprobs=np.array([values for _, values in tops], dtype=np.float32),
        seconds=0.0,
        next_was_ready=True,
    )


def members(request: Request) -> list[Request]:
    """What of a request has rows, or will have."""
    if request.group is None:
        return [request]
    if not request.group.beams:
        request.group.begin()
    return request.group.beams
