import numpy as np

from lightllm.base.token_words import mask_of, pack


def test_the_runs_of_a_request_follow_one_another():
    words = pack(biases=[((1, 2, 3), 0.5), ((9,), -1.0)], ends=[7, 8], first_mask=mask_of([33], 40))
    numbers = np.frombuffer(words.words, np.int32)
    half, minus_one = np.array([0.5, -1.0], np.float32).view(np.int32)
    assert numbers.tolist() == [3, half, 8, 2, 9, minus_one, 10, 0, 1, 2, 7, 8, 0, 2]
    counts = (words.num_biases, words.num_bias_words, words.num_ends, words.num_mask_words, words.num_first_mask_words)
    assert counts == (2, 10, 2, 0, 2)


def test_who_wants_nothing_has_no_words():
    assert pack().words == b""


def test_a_mask_has_a_bit_for_each_token():
    mask = mask_of([0, 31, 32, 64], 65)
    assert mask.tolist() == [1 - 2**31, 1, 1]
