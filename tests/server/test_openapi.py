"""Requests made from /openapi.json, right and wrong ones: no answer is a 500, and each is as the document says."""

import json

import pytest

from helpers.server import Server

schemathesis = pytest.importorskip("schemathesis")       # brings requests and jsonschema_rs


def test_the_document_is_valid_and_names_every_path(server):
    import jsonschema_rs

    document = server.ask("/openapi.json")[1]
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate({**schema, "$schema": "https://json-schema.org/draft/2020-12/schema"})
    assert document["openapi"] == "3.1.0" and len(document["paths"]) >= 13
    text = json.dumps(document)
    for ref in {part.split('"')[0] for part in text.split('"$ref": "')[1:]}:
        at = document
        for part in ref.removeprefix("#/").split("/"):
            at = at[part]


@pytest.mark.slow
def test_no_request_of_the_document_gives_a_500(smollm2_gguf):
    """Many requests for each operation. Answers are short: the server generates 4 tokens where nothing is said."""
    import requests
    from hypothesis import HealthCheck, Phase, given, settings

    seen, wrong = {}, []
    with Server("--pool", "60M", "--max-batch", "4", "--max-tokens", "4", "--timeout", "5") as server:
        schema = schemathesis.openapi.from_dict(server.ask("/openapi.json")[1])
        for found in schema.get_all_operations():
            operation = found.ok()
            for mode in schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE:
                @settings(max_examples=60, suppress_health_check=list(HealthCheck), phases=[Phase.generate], database=None)
                @given(case=operation.as_strategy(generation_mode=mode))
                def ask(case):
                    operation = case.operation
                    answer = case.call(base_url=server.url, timeout=60)
                    key = operation.method, operation.path, answer.status_code
                    seen[key] = seen.get(key, 0) + 1
                    allowed = operation.definition.raw["responses"]
                    if answer.status_code >= 500 and answer.status_code not in (503, 504) or (
                            str(answer.status_code) not in allowed and answer.status_code != 405):
                        wrong.append((operation.label, answer.status_code, answer.text[:200], str(case.body)[:300]))
                try:
                    ask()
                except requests.RequestException as e:
                    wrong.append((operation.label, repr(e)[:300]))
                except Exception as e:           # schemathesis has nothing to make wrong in an operation without parameters
                    if "Unsatisfiable" not in repr(e):
                        raise
        assert server.ask("/health")[0] == 200
        assert "Traceback" not in server.read_log()
    print("\n", *(f"{n} x {key}\n" for key, n in sorted(seen.items())))
    assert not wrong, wrong[:5]
    assert sum(seen.values()) > 500
