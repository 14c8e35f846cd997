import random

import numpy as np
import pytest

from lightllm.base.request import FinishReason
from lightllm.base.request_table import Options
from lightllm.serving.text.answer import Answer
from lightllm.serving.text.incremental import Decoders
from lightllm.serving.text.output_text import OutputText
from tests.serving.text.table_for_tests import Writers, array
from tests.serving.text.tokenizers_for_tests import byte_fallback, byte_level

END = 1


@pytest.mark.parametrize("make", [byte_level, byte_fallback])
def test_interleaved_requests_each_get_what_they_get_alone(make):
    """Random lengths, logprob widths, stop strings, batches and reuse of records against one Answer per request."""
    rng, decoders = random.Random(3), Decoders(make())
    writers = Writers(records=6, max_length=20_000)
    output = OutputText(writers.table, decoders)
    free, running, done = list(range(6)), {}, 0
    while done < 120:
        while free and rng.random() < 0.6:
            index = free.pop()
            options = Options(stop=rng.sample(["e", "th", "lo w", "中"], rng.randint(0, 2)), stop_token_ids=[END])
            reference = writers.submit(index, options, num_logprobs=rng.choice([-1, 0, 3, 20]), min_tokens=2)
            ids = [token if token != END else 2 for token in rng.choices(range(400), k=rng.choice([0, 1, 30, 2500]))]
            running[index] = (reference, options, ids, 0)
        progressed = []
        for index, (reference, options, ids, sent) in list(running.items()):
            count = rng.choice([0, 1, 1, 1, 7, 900])
            is_last = sent + count >= len(ids)
            writers.emit(index, ids[sent : sent + count], FinishReason.LENGTH if is_last else FinishReason.NONE)
            running[index] = (reference, options, ids, sent + count)
            progressed.append(reference)
        news, stopped = output.advance(array(*progressed))
        assert {tuple(one) for one in news.tolist()} <= set(progressed)
        for index, (reference, options, ids, sent) in list(running.items()):
            record = writers.table.records[index]
            expected = Answer(decoders.new(skip_special_tokens=True, prompt_end=[5, 6]), options, min_tokens=2)
            text = expected.take(ids[:sent], FinishReason.LENGTH if sent >= len(ids) else FinishReason.NONE)
            assert writers.text(index) == text
            assert record["text_generation"] == reference[1]
            assert record["num_visible"] == expected.num_tokens
            assert (record["text_finish"], record["stop_index"]) == (expected.finish, expected.stop)
            if expected.finish:
                assert (reference in stopped) == expected.ended_by_string
                output.release(array(reference))
                free.append(index)
                del running[index]
                done += 1
    for reference, *_ in running.values():
        output.release(array(reference))
    assert writers.table.text_pages().num_free == output._text._region.num_free


def test_a_request_named_twice_advances_once():
    writers = Writers()
    output = OutputText(writers.table, Decoders(byte_level()))
    reference = writers.submit(0, Options())
    writers.emit(0, [40, 41])
    news, _ = output.advance(array(reference, reference))
    assert news.tolist() == [list(reference)]
    assert writers.table.records["num_visible"][0] == 2


def test_references_of_an_earlier_use_are_dropped():
    writers = Writers()
    output = OutputText(writers.table, Decoders(byte_level()))
    old = writers.submit(0, Options())
    writers.emit(0, [40, 41])
    writers.table.records["generation"][0] += 1  # the client left and filled the record anew
    news, _ = output.advance(array(old))
    assert news.tolist() == []
    assert writers.table.records["text_generation"][0] == 0


def test_tokens_of_a_later_use_do_not_reach_the_earlier_answer():
    writers = Writers()
    output = OutputText(writers.table, Decoders(byte_level()))
    old = writers.submit(0, Options())
    writers.emit(0, [40])
    output.advance(array(old))
    before = writers.text(0)
    new = writers.submit(0, Options())
    writers.emit(0, [50, 51, 52])
    news, _ = output.advance(array(old))
    assert news.tolist() == []
    assert writers.text(0) == before
    news, _ = output.advance(array(new))
    assert news.tolist() == [list(new)]
    assert writers.text(0) == byte_level().decode([50, 51, 52])


def test_a_full_table_ends_the_request_with_an_error_and_releases_make_room():
    tokenizer = byte_level()
    long = max(range(tokenizer.get_vocab_size()), key=lambda token: len(tokenizer.decode([token])))
    writers = Writers(records=1, max_length=1)
    output = OutputText(writers.table, Decoders(tokenizer))
    writers.table.records["num_logprobs"] = -1
    first = writers.submit(0, Options())
    for _ in range(6):
        writers.emit(0, [long] * 1000)
        _, stopped = output.advance(array(first))
        if stopped:
            break
    assert stopped == [first]
    assert writers.table.records["text_finish"][0] == FinishReason.ERROR
    output.release(array(first))
    assert output._text._region.num_free == writers.shape.text_pages


def test_without_a_tokenizer_tokens_are_counted_and_stop_tokens_stop():
    writers = Writers()
    output = OutputText(writers.table, None)
    reference = writers.submit(0, Options(stop_token_ids=[9]))
    writers.emit(0, [3, 9, 4])
    output.advance(array(reference))
    record = writers.table.records[0]
    assert (record["num_visible"], record["text_bytes"], record["text_finish"]) == (2, 0, FinishReason.STOP)


def test_an_end_without_output_is_published():
    writers = Writers()
    output = OutputText(writers.table, Decoders(byte_level()))
    reference = writers.submit(0, Options())
    writers.emit(0, [], FinishReason.ERROR)
    news, stopped = output.advance(array(reference))
    assert (news.tolist(), stopped) == ([list(reference)], [])
    assert writers.table.records["text_finish"][0] == FinishReason.ERROR
    news, _ = output.advance(np.empty((0, 2), dtype=np.uint32))
    assert len(news) == 0
