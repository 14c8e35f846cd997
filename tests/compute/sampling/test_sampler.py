import numpy as np
import torch

from lightllm.base.step import ROW
from lightllm.compute.sampling.sampler import Sampler

VOCABULARY = 120
ROWS = 300
CPU = torch.device("cpu")


def upload(array):
    return torch.from_numpy(array.astype(np.int64) if array.dtype.kind in "iu" else array)


def history(known):
    """Tokens [rows, positions] as the device keeps them: each in a slot of its own."""
    return torch.arange(known.numel(), dtype=torch.int32).view(known.shape), known.flatten().to(torch.int32)


NO_HISTORY = history(torch.zeros(0, 0))  # no sequence has penalties, so no tokens are needed


def sampler(parameters, stops=(), history=NO_HISTORY):
    """A sampler whose rows 0, 1, ... have begun with these parameters; neutral where they say nothing."""
    begins = np.zeros(len(parameters), ROW)
    begins["row"] = np.arange(len(parameters))
    begins["top_p"] = begins["repetition_penalty"] = begins["temperature"] = 1
    begins["num_logprobs"] = -1
    for row, chosen in enumerate(parameters):
        for name, value in chosen.items():
            begins[name][row] = value
    made = Sampler(rows=ROWS, vocab=VOCABULARY, device=CPU, upload=upload, history=history)
    made.begin(begins, np.array(stops, np.int32))
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
    made.begin(begins, np.zeros(0, np.int32))
    tokens, logprobs = made.sample(logits, np.array([0]), np.array([1]))
    assert tokens.tolist() == [3]
    assert logprobs is None
