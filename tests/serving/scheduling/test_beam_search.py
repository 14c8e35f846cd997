"""The search by itself: against one that scores every continuation of a small vocabulary. tests/test_beams_offline.py
compares it with transformers."""

import numpy as np
import pytest

from lightllm.base.beams import BeamOptions
from lightllm.serving.scheduling.beam_search import BeamSearch, Candidates

VOCABULARY = 9


def logprobs(tokens: tuple[int, ...]) -> np.ndarray:
    """What may follow these tokens."""
    draw = np.random.default_rng(hash(tokens) % 2**32)
    logits = draw.normal(size=VOCABULARY)
    return (logits - np.log(np.exp(logits).sum())).astype(np.float32)


def search(options: BeamOptions, *, max_tokens: int, stops: frozenset[int] = frozenset(), min_tokens: int = 0):
    """The best sequences of tokens with their scores; each beam says no more of its next tokens than it must."""
    made = BeamSearch(options, max_tokens=max_tokens, min_tokens=min_tokens, stops=stops)
    beams: list[tuple[int, ...]] = [()] * options.width
    while True:
        candidates = []
        for beam in beams:
            known = logprobs(beam)
            likeliest = np.argsort(-known, kind="stable")[: made.num_candidates].astype(np.int32)
            candidates.append(Candidates(likeliest, known[likeliest]))
        steps = made.advance(candidates)
        if not steps:
            best = made.best(options.width)
            return [(tuple(place.token for place in one.places()), one.score) for one in best]
        beams = [(*beams[parent], token) for parent, token in steps]


def groups_that_score_everything(options: BeamOptions, max_tokens: int):
    """Diverse beam search as its authors define it, without tokens that end a sequence."""
    width = options.width // options.groups
    groups = [[((), np.float32(0))] for _ in range(options.groups)]
    for _ in range(max_tokens):
        taken = np.zeros(VOCABULARY, dtype=np.float32)
        for at, beams in enumerate(groups):
            scored = [
                (
                    (*tokens, token),
                    score + (logprobs(tokens)[token] - np.float32(options.diversity_penalty) * taken[token]),
                )
                for tokens, score in beams
                for token in range(VOCABULARY)
            ]
            groups[at] = sorted(scored, key=lambda one: -one[1])[:width]
            for tokens, _ in groups[at]:
                taken[tokens[-1]] += 1
    everything = [(tokens, score / max_tokens) for beams in groups for tokens, score in beams]
    return sorted(everything, key=lambda one: -one[1])


@pytest.mark.parametrize("penalty", [0.0, 0.4, 3.0])
@pytest.mark.parametrize(("width", "groups"), [(4, 1), (4, 2), (6, 3), (3, 3)])
def test_groups_find_what_scoring_everything_finds(width: int, groups: int, penalty: float):
    options = BeamOptions(width, groups=groups, diversity_penalty=penalty)
    expected = groups_that_score_everything(options, 5)
    assert [tokens for tokens, _ in search(options, max_tokens=5)] == [tokens for tokens, _ in expected]


def test_a_penalty_makes_groups_differ():
    alike = search(BeamOptions(3, groups=3), max_tokens=6)
    assert len({tokens for tokens, _ in alike}) == 1
    assert len({tokens[0] for tokens, _ in search(BeamOptions(3, groups=3, diversity_penalty=50.0), max_tokens=6)}) == 3


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
def test_only_a_stop_token_or_the_length_ends_a_hypothesis(early_stopping):
    options = BeamOptions(4, early_stopping=early_stopping)
    found = search(options, max_tokens=6, stops=frozenset({2, 5}), min_tokens=2)
    assert len(found) == 4
    for tokens, score in found:
        assert len(tokens) == 6 or (tokens[-1] in {2, 5} and len(tokens) > 2)
        assert not {2, 5} & set(tokens[:-1])
        whole = sum(float(logprobs(tokens[:i])[token]) for i, token in enumerate(tokens))
        assert score == pytest.approx(whole / len(tokens), rel=1e-5)
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)


def test_a_longer_answer_is_better_where_length_is_rewarded():
    lengths = [
        np.mean(
            [
                len(t)
                for t, _ in search(
                    BeamOptions(4, length_penalty=p, early_stopping="never"), max_tokens=8, stops=frozenset({3})
                )
            ]
        )
        for p in (-1.0, 3.0)
    ]
    assert lengths[0] < lengths[1]
