import numpy as np
import pytest

from lightllm.base.pages import PAGE_WORDS
from lightllm.base.request_table import RECORD, RequestTable, TableShape, output_words, rows_per_page
from lightllm.base.shared_memory import SharedMemory


@pytest.fixture
def shape() -> TableShape:
    return TableShape.of(clients=3, records=4, max_length=3000)


def test_regions_of_pages_cover_all_and_do_not_overlap(shape):
    table = RequestTable(RequestTable.create(shape), shape)
    regions = [table.client_pages(client) for client in range(3)] + [table.output_pages(), table.text_pages()]
    taken = np.concatenate([region.take(region.num_free) for region in regions])
    assert sorted(taken.tolist()) == list(range(shape.pages))
    assert [list(table.client_records(client)) for client in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_opening_a_table_changes_nothing_in_it(shape):
    memory = RequestTable.create(shape)
    first = RequestTable(memory, shape)
    first.records["generation"][5] = 7
    page = first.client_pages(1).store(np.arange(2500, dtype=np.int32))
    first.records["prompt_page"][5], first.records["prompt_length"][5] = page, 2500
    second = RequestTable(SharedMemory(memory.fd), shape)
    assert second.records["generation"][5] == 7
    assert second.prompt(5).tolist() == list(range(2500))


def test_chains_are_read_from_anywhere_and_released_whole(shape):
    region = RequestTable(RequestTable.create(shape), shape).client_pages(0)
    free, words = region.num_free, np.arange(3 * PAGE_WORDS + 5, dtype=np.int32)
    page = region.store(words)
    assert region.num_free == free - 4
    for start, count in [
        (0, 1),
        (PAGE_WORDS - 1, 2),
        (PAGE_WORDS, PAGE_WORDS),
        (5, 3 * PAGE_WORDS),
        (3 * PAGE_WORDS, 5),
    ]:
        assert region.memory.read(page, start, count).tolist() == words[start : start + count].tolist()
    region.release(page)
    assert region.num_free == free
    assert region.store(np.zeros(free * PAGE_WORDS + 1, dtype=np.int32)) is None
    assert region.num_free == free


def test_bytes_are_read_from_anywhere(shape):
    region = RequestTable(RequestTable.create(shape), shape).client_pages(0)
    data = bytes(range(256)) * 33
    page = region.store_bytes(data)
    for start, count in [(0, 0), (1, 1), (3, 6), (4095, 3), (1, len(data) - 1)]:
        assert region.memory.read_bytes(page, start, count) == data[start : start + count]


@pytest.mark.parametrize("num_logprobs", [-1, 0, 5, 20])
def test_output_rows_never_cross_a_page(shape, num_logprobs):
    table = RequestTable(RequestTable.create(shape), shape)
    width, per_page = output_words(num_logprobs), rows_per_page(output_words(num_logprobs))
    pages = table.output_pages().take(3)
    table.pages.next[pages[:-1]] = pages[1:]
    count = 2 * per_page + 3
    for i in range(count):
        start = i % per_page * width
        table.pages.words[pages[i // per_page], start : start + width] = i
    table.records["output_page"][0], table.records["num_logprobs"][0] = pages[0], num_logprobs
    for start, stop in [(0, count), (per_page - 1, per_page + 1), (per_page, 2 * per_page), (5, 5), (count - 1, count)]:
        rows = table.output(0, start, stop)
        assert rows.shape == (stop - start, width)
        assert (rows == np.arange(start, stop)[:, None]).all()


def test_every_field_is_aligned():
    for name in RECORD.names:
        kind, offset = RECORD.fields[name][:2]
        assert offset % kind.alignment == 0
