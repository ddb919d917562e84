"""One server for the tests of a file, and the real client."""

import pytest

from support.served import served, warmed


@pytest.fixture(scope="session")
def made():
    return warmed()


@pytest.fixture
def server(made):
    with served(made) as one:
        yield one


@pytest.fixture
def client(server):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        yield client
