import numpy as np
import torch
from transformers import ExponentialDecayLengthPenalty, TypicalLogitsWarper

from lightllm.base.request_table import TokenWords
from lightllm.base.step import ROW
from lightllm.base.token_words import mask_of, pack
from lightllm.compute.sampling.sampler import Sampler
from lightllm.compute.transfers import Upload

VOCABULARY = 120
ROWS = 300
CPU = torch.device("cpu")
upload = Upload(CPU)


def history(known):
    """Tokens [rows, positions] as the device keeps them: each in a slot of its own."""
    return torch.arange(known.numel(), dtype=torch.int32).view(known.shape), known.flatten().to(torch.int32)


NO_HISTORY = history(torch.zeros(0, 0))  # no sequence has penalties, so no tokens are needed


def sampler(parameters, stops=(), history=NO_HISTORY, words=()):
    """A sampler whose rows 0, 1, ... have begun with these parameters; neutral where they say nothing."""
    begins = np.zeros(len(parameters), ROW)
    begins["row"] = np.arange(len(parameters))
    begins["top_p"] = begins["repetition_penalty"] = begins["temperature"] = 1
    begins["num_logprobs"] = -1
    for row, chosen in enumerate(parameters):
        for name, value in chosen.items():
            begins[name][row] = value
    made = Sampler(rows=ROWS, vocab=VOCABULARY, upload=upload, history=history)
    for row, its_words in enumerate(words):
        for name in TokenWords.__struct_fields__[1:]:
            begins[name][row] = getattr(its_words, name)
    packed = np.frombuffer(b"".join(its_words.words for its_words in words), np.int32)
    made.begin(begins, np.array(stops, np.int32), packed)
    return made


def draw(made, logits, rows, lengths):
    return made.sample(logits, np.array(rows, np.int32), np.array(lengths, np.int32))[0]


MIXED = [
    {"temperature": 0},
    {"seed": 1},
    {"seed": 2, "temperature": 0.7, "top_k": 5},
    {"seed": 2**64 - 1, "top_p": 0.8},
    {"seed": 3, "min_p": 0.1, "temperature": 2},
    {"seed": 4, "top_k": 50, "top_p": 0.9, "min_p": 0.01},
]


def test_temperature_zero_is_the_largest_logit():
    torch.manual_seed(0)
    logits = torch.randn(7, VOCABULARY)
    got = draw(sampler([{"temperature": 0}] * 7), logits, range(7), range(7))
    assert torch.equal(got, logits.argmax(-1))


def test_a_draw_does_not_depend_on_the_batch():
    torch.manual_seed(0)
    logits = torch.randn(len(MIXED), VOCABULARY) * 2
    lengths = range(10, 10 + len(MIXED))
    together = draw(sampler(MIXED), logits, range(len(MIXED)), lengths)
    backwards = draw(sampler(MIXED[::-1]), logits.flip(0), range(len(MIXED)), lengths[::-1])
    assert torch.equal(backwards.flip(0), together)
    for i, parameters in enumerate(MIXED):
        alone = draw(sampler([parameters]), logits[i : i + 1], [0], lengths[i : i + 1])
        assert alone == together[i]


def test_lots_of_any_size_draw_the_same(monkeypatch):
    torch.manual_seed(0)
    parameters = MIXED * 3 + [{"repetition_penalty": 1.5, "seed": 9}] * 5
    logits, rows = torch.randn(len(parameters), VOCABULARY) * 2, range(len(parameters))
    known = torch.randint(0, VOCABULARY, (ROWS, 40))
    made = sampler(parameters, history=history(known))
    expected = draw(made, logits, rows, [30] * len(rows))
    monkeypatch.setattr("lightllm.compute.kernels.cpu.sampling.LOT_NUMBERS", 2 * VOCABULARY)
    assert torch.equal(draw(made, logits, rows, [30] * len(rows)), expected)


def test_stop_tokens_wait_for_min_tokens():
    logits = torch.zeros(4, VOCABULARY)
    logits[:, 7], logits[:, 8], logits[:, 9] = 3, 2, 1
    greedy = {"temperature": 0, "prompt_length": 10}
    two, none, one = ({**greedy, "min_tokens": 3, "num_stops": count} for count in (2, 0, 1))
    made = sampler([two, none, one, two], [7, 8, 7, 8, VOCABULARY + 5])
    assert draw(made, logits, range(4), [12, 12, 12, 13]).tolist() == [9, 7, 8, 7]


def test_penalties_see_prompt_and_output():
    known = torch.zeros(ROWS, 6, dtype=torch.int64)
    known[:3] = torch.tensor([1, 1, 2, 3, 3, 99])
    logits = torch.zeros(3, VOCABULARY)
    logits[:, 1], logits[:, 2], logits[:, 3], logits[:, 4] = 4.0, 3.9, 3.8, 3.0
    greedy = {"temperature": 0, "prompt_length": 3}
    made = sampler(
        [
            {**greedy, "repetition_penalty": 2.0},
            {**greedy, "presence_penalty": 0.5},
            {**greedy, "frequency_penalty": 0.5},
        ],
        history=history(known),
    )
    assert draw(made, logits, range(3), [5, 5, 5]).tolist() == [4, 1, 1]
    logits[:, 1] = logits[:, 2] = 0
    assert draw(made, logits, range(3), [5, 5, 5]).tolist() == [4, 3, 4]


def test_penalties_count_the_prompt_where_they_are_asked_to():
    known = torch.zeros(ROWS, 6, dtype=torch.int64)
    known[:2] = torch.tensor([1, 1, 2, 3, 3, 99])
    logits = torch.zeros(2, VOCABULARY)
    logits[:, 1], logits[:, 4] = 1.0, 0.5
    penalized = {"temperature": 0, "prompt_length": 3, "frequency_penalty": 0.3}
    made = sampler([penalized, {**penalized, "input_penalty": True}], history=history(known))
    assert draw(made, logits, range(2), [5, 5]).tolist() == [1, 4]


def test_penalties_do_not_touch_their_neighbours_or_the_raw_logits():
    torch.manual_seed(0)
    known = torch.arange(ROWS * 8).view(ROWS, 8) % VOCABULARY
    parameters = [{"temperature": 0}, {"temperature": 0, "repetition_penalty": 1e-3, "num_logprobs": 2}]
    made = sampler(parameters, history=history(known))
    logits = torch.randn(2, VOCABULARY)
    before = logits.clone()
    tokens, logprobs = made.sample(logits, np.array([0, 1]), np.array([4, 4]))
    assert tokens[0] == logits[0].argmax()
    assert torch.equal(logits, before)
    assert logprobs is not None
    assert logprobs.which.tolist() == [1]
    torch.testing.assert_close(logprobs.chosen[0], logits.log_softmax(-1)[1, tokens[1]])
    assert logprobs.top_tokens.tolist() == logits[1:].topk(2).indices.tolist()


def test_a_row_that_begins_again_has_its_new_parameters():
    made = sampler([{"temperature": 0, "min_tokens": 9, "num_stops": 1, "num_logprobs": 0}], [3])
    logits = torch.zeros(1, VOCABULARY)
    logits[0, 3] = 1
    assert draw(made, logits, [0], [1]) != 3
    begins = np.zeros(1, ROW)
    begins["top_p"] = begins["repetition_penalty"] = 1
    begins["num_logprobs"] = -1
    made.begin(begins, np.zeros(0, np.int32), np.zeros(0, np.int32))
    tokens, logprobs = made.sample(logits, np.array([0]), np.array([1]))
    assert tokens.tolist() == [3]
    assert logprobs is None


def words(biases=(), ends=(), allowed=None, first=None):
    masks = (None if tokens is None else mask_of(tokens, VOCABULARY) for tokens in (allowed, first))
    return pack(biases=biases, ends=ends, **dict(zip(("mask", "first_mask"), masks, strict=True)))


def test_biases_masks_and_neighbours_that_want_nothing():
    logits = torch.zeros(5, VOCABULARY)
    logits[:, 7], logits[:, 8], logits[:, 9] = 3, 2, 1
    known = torch.zeros(ROWS, 6, dtype=torch.int64)
    known[2] = torch.tensor([4, 5, 6, 0, 0, 0])
    wanted = [
        words(),
        words([((9,), 2.5)]),
        words([((5, 6, 7), float("-inf")), ((6, 5, 8), float("-inf"))]),
        words(allowed=[9, 50], first=[50]),
        words([((7,), float("-inf"))], allowed=[7, 9]),
    ]
    made = sampler([{"temperature": 0, "prompt_length": 3}] * 5, history=history(known), words=wanted)
    before = logits.clone()
    assert draw(made, logits, range(5), [3] * 5).tolist() == [7, 9, 8, 50, 9]
    assert draw(made, logits, range(5), [4] * 5).tolist() == [7, 9, 7, 9, 9], "one is at another place, one has begun"
    assert torch.equal(logits, before)


def test_long_answers_come_to_their_end_as_in_transformers():
    torch.manual_seed(0)
    ends, logits = [7, 30], torch.randn(1, VOCABULARY) * 4
    logits[0, 30] = float("-inf")
    parameters = {"temperature": 0, "prompt_length": 10, "decay_start": 5, "decay_factor": 1.2}
    made = sampler([parameters], words=[words(ends=ends)])
    processor = ExponentialDecayLengthPenalty((5, 1.2), torch.tensor(ends), input_ids_seq_length=10)
    sampled = set()
    for length in range(10, 60):
        expected = processor(torch.zeros(1, length, dtype=torch.int64), logits.clone())
        got = draw(made, logits, [0], [length])
        assert got == expected.nan_to_num(nan=float("-inf")).argmax(-1)
        sampled.add(int(got))
    assert sampled == {int(logits.argmax()), 7}


def test_an_endless_growth_is_a_number():
    made = sampler(
        [{"prompt_length": 0, "temperature": 0, "decay_factor": 100}], words=[words([((3,), 5.0)], ends=[3])]
    )
    assert draw(made, torch.rand(1, VOCABULARY) + 1, [0], [2**20]).tolist() == [3]


def test_typical_p_leaves_greedy_rows_and_neighbours_alone():
    torch.manual_seed(0)
    logits = torch.randn(200, VOCABULARY) * 3
    parameters = [{"seed": 5}, {"seed": 5, "typical_p": 0.3}, {"temperature": 0, "typical_p": 0.01}]
    made = sampler(parameters)
    rows = [i % 3 for i in range(200)]
    got = draw(made, logits, rows, range(200))
    expected = draw(sampler(parameters[:1]), logits, [0] * 200, range(200))
    assert torch.equal(got[0::3], expected[0::3])
    assert torch.equal(got[2::3], logits[2::3].argmax(-1))
    kept = TypicalLogitsWarper(mass=0.3)(None, logits[1::3]).isfinite()
    assert kept.gather(1, got[1::3, None]).all()


def test_a_row_that_begins_again_without_wishes_has_none_left():
    logits = torch.zeros(2, VOCABULARY)
    logits[:, 7] = 1
    greedy = {"temperature": 0}
    made = sampler([greedy] * 2, words=[words([((9,), 5.0)], allowed=[9]), words([((8,), 5.0)])])
    assert draw(made, logits, range(2), [1, 1]).tolist() == [9, 8]
    begins = np.zeros(1, ROW)
    begins["top_p"] = begins["repetition_penalty"] = 1
    made.begin(begins, np.zeros(0, np.int32), np.zeros(0, np.int32))
    assert draw(made, logits, range(2), [1, 1]).tolist() == [7, 8]
