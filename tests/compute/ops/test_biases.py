import torch
from transformers import NoBadWordsLogitsProcessor, SequenceBiasLogitsProcessor

from lightllm.base.token_words import pack
from lightllm.compute.ops.biases import add_biases

VOCABULARY, WIDTH = 30, 12
NEVER = float("-inf")


def biased(logits, contexts, runs):
    """Sequence i is row i, whose tokens lie in slots of its own."""
    known = torch.zeros(len(contexts), WIDTH, dtype=torch.int32)
    for line, context in zip(known, contexts, strict=True):
        line[: len(context)] = torch.tensor(context)
    table = torch.arange(known.numel(), dtype=torch.int32).view_as(known)
    packed = [torch.frombuffer(bytearray(pack(biases=run).words), dtype=torch.int32).long() for run in runs]
    lengths, starts = torch.tensor([len(c) for c in contexts]), torch.tensor([0, *map(len, packed)]).cumsum(0)[:-1]
    counts, rows = torch.tensor([len(run) for run in runs]), torch.arange(len(runs))
    deepest = max(len(tokens) - 1 for run in runs for tokens, _ in run)
    where = (rows, rows, lengths, starts, counts, int(counts.max()), deepest, torch.cat(packed))
    return add_biases(logits.clone(), *where, table, known.flatten())


def test_biases_of_sequences_equal_those_of_transformers():
    torch.manual_seed(0)
    contexts = [[0, 1, 2, 3, 4], [4, 4], [3, 4, 3, 4], [9, 1, 2, 3, 4, 9]]
    run = [((5,), 1.5), ((4, 6), -2.0), ((3, 4, 7), 0.5), ((1, 2, 3, 4, 8), 3.0), ((2, 4, 9), 1.0), ((4, 5), 0.25)]
    logits = torch.randn(len(contexts), VOCABULARY)
    got = biased(logits, contexts, [run] * len(contexts))
    processor = SequenceBiasLogitsProcessor([[list(tokens), value] for tokens, value in run])
    for one, context, row in zip(got, contexts, logits, strict=True):
        expected = processor(torch.tensor([context]), row[None].clone())[0]
        torch.testing.assert_close(one, expected)


def test_bad_words_are_those_of_transformers():
    torch.manual_seed(0)
    contexts = [[0, 1, 2, 3], [0, 7, 7], [2, 3]]
    words = [[4], [3, 5], [1, 2, 3, 6], [7, 7, 7], [2, 8]]
    logits = torch.randn(len(contexts), VOCABULARY)
    got = biased(logits, contexts, [[(word, NEVER) for word in words]] * len(contexts))
    processor = NoBadWordsLogitsProcessor(words, eos_token_id=torch.tensor([0]))
    for one, context, row in zip(got, contexts, logits, strict=True):
        assert torch.equal(one, processor(torch.tensor([context]), row[None].clone())[0])


def test_a_context_may_be_just_what_must_come_before():
    # Where transformers wants one token more.
    got = biased(torch.zeros(2, VOCABULARY), [[1, 2], [2]], [[((1, 2, 5), 1.0)]] * 2)
    assert got[:, 5].tolist() == [1.0, 0.0]


def test_biases_of_one_token_add_up():
    got = biased(torch.zeros(1, VOCABULARY), [[1, 2]], [[((5,), 1.0), ((2, 5), 2.0), ((1, 5), 4.0)]])
    assert got[0, 5] == 3.0
    assert got.count_nonzero() == 1
