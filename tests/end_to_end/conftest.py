import pytest

from tests.end_to_end.serving import Server

LONGEST = 600  # prompt plus output


@pytest.fixture(scope="session")
def server():
    """Shared by tests of client libraries, which leave it as they found it."""
    with Server("--max_total_token_num", "5000", "--max_req_total_len", str(LONGEST)) as running:
        yield running
