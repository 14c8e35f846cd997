import httpx
import pytest

from tests.serving import checkpoint_for_tests
from tests.serving.live_api import LiveApi, client_of
from tests.serving.script_for_tests import answer


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    return checkpoint_for_tests.write(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def live(checkpoint):
    """Shared by tests that leave it as they found it."""
    api = LiveApi(checkpoint, answer)
    yield api
    api.close()


@pytest.fixture(scope="session")
def official_client(live):
    with client_of(live) as client:
        yield client


@pytest.fixture
def client(live, official_client):
    yield official_client
    assert live.engine.is_idle(), "every request was released"


@pytest.fixture(scope="session")
def http(live):
    # Without certificates, whose loading takes longer than most tests.
    with httpx.Client(base_url=live.url, timeout=20, verify=False) as http:
        yield http


@pytest.fixture
def start(checkpoint):
    """Starts api processes of a test's own: start(script, **flags of LiveApi)."""
    started: list[LiveApi] = []

    def begin(script=answer, **arguments) -> LiveApi:
        started.append(LiveApi(arguments.pop("model_dir", checkpoint), script, **arguments))
        return started[-1]

    yield begin
    for api in started:
        api.close()
