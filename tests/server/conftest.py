"""One server process for all tests of the server, with the real model and a pool of some 8,000 tokens."""

import openai
import pytest

from helpers.server import Server


@pytest.fixture(scope="session")
def server(smollm2_gguf):
    with Server("--pool", "200M", "--max-batch", "8", "--max-queue", "24", "--log-prompts", "--cors", "https://ok.example") as s:
        yield s


@pytest.fixture(scope="session")
def client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=180) as c:
        yield c
