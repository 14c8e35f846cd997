import msgspec
import pytest

from lightllm.base.config import ServerConfig
from lightllm.base.pages import PAGE_WORDS
from lightllm.base.request_table import RequestTable
from lightllm.processes.supervision.wiring import Wires, table_shape


@pytest.mark.parametrize("clients", [1, 64])
@pytest.mark.parametrize("longest", [512, 131_072, 10_000_000])
@pytest.mark.parametrize(("running", "queued"), [(1, 0), (1000, 4096)])
def test_the_table_is_bounded_and_holds_the_longest_request(clients, longest, running, queued):
    config = ServerConfig(running_max_req_size=running, max_queued_requests=queued, max_req_total_len=longest)
    shape = table_shape(config, clients=clients)
    assert shape.records == running + queued
    for pages in (shape.prompt_pages, shape.output_pages, shape.text_pages):
        assert pages * PAGE_WORDS >= longest
    memory = RequestTable.create(shape)
    RequestTable(memory, shape).records["generation"][-1] = 1
    memory.close()


def test_an_end_is_handed_over_once_and_closed_after():
    wires = Wires()
    wires.connect("scheduler", "worker:0")
    wires.connect_client(0)
    with wires.taken("scheduler", "client:0") as ends:
        assert list(ends) == ["client:0"]
    assert ends["client:0"].fileno() == -1
    with wires.taken("scheduler") as ends:
        assert list(ends) == ["worker:0"]
    assert wires.ends["scheduler"] == {}
    with pytest.raises(KeyError):
        wires.taken("scheduler", "client:0").__enter__()
    wires.close()
    assert not any(wires.ends.values())


def test_the_config_that_children_get_is_the_one_that_was_read():
    config = ServerConfig(eos_id=[1, 2], chunked_prefill_size=16, graceful_timeout_s=float("inf"))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(config), type=ServerConfig) == config
