"""A user's process may have more descriptors open than select takes."""

import os
import resource

import pytest

from lightllm import LLM, SamplingParams
from lightllm.processes.ipc.channels import Channel, wait_for


@pytest.fixture
def many_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2000:
        pytest.skip("this system lets no process open so many")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    yield
    for descriptor in opened:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_offline_api_works_in_a_process_with_many_open_files(many_descriptors):
    with LLM(max_total_token_num=1000) as llm:
        (output,) = llm.generate(["1 2 3"], SamplingParams(max_tokens=2, ignore_eos=True))
    assert len(output.outputs[0].token_ids) == 2


def test_waiting_ends_when_something_can_be_read(many_descriptors):
    ours, theirs = (Channel(end) for end in Channel.pair())
    wait_for([ours], timeout_s=0.01)
    assert ours.receive() is None
    wait_for([], [theirs])  # can be written at once
    ours.close()
    theirs.close()
