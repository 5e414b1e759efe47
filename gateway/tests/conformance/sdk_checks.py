"""What an application sees through OpenAI's own Python SDK."""

import threading
import time

import openai


def client(server, **options):
    return openai.OpenAI(base_url=f"{server.base_url}/v1", api_key=server.api_key, max_retries=0, **options)


HELLO = [{"role": "user", "content": "Say hello."}]


def check_chat(server):
    completion = client(server).chat.completions.create(model=server.model, messages=HELLO, max_tokens=8)
    assert completion.choices[0].message.role == "assistant"
    assert completion.choices[0].message.content
    assert completion.choices[0].finish_reason in ("stop", "length")
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    assert completion._request_id, "the SDK found no x-request-id"


def check_chat_stream(server):
    stream = client(server).chat.completions.create(
        model=server.model, messages=HELLO, max_tokens=8, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert chunks[-1].usage.completion_tokens > 0


def check_chat_stream_helper(server):
    """The SDK's accumulator: it trips over missing indices, roles and nulls."""
    # The helper refuses an answer that was cut, so this one must end by itself: after its first word.
    settings = {"max_tokens": 64, "temperature": 0, "stop": [" "]}
    with client(server).chat.completions.stream(model=server.model, messages=HELLO, **settings) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert "content.delta" in kinds, kinds
    assert final.choices[0].message.content and final.choices[0].finish_reason


def check_chat_async(server):
    import asyncio

    async def talk():
        async with openai.AsyncOpenAI(base_url=f"{server.base_url}/v1", api_key="any", max_retries=0) as asynchronous:
            create = asynchronous.chat.completions.create
            asked = [create(model=server.model, messages=HELLO, max_tokens=8) for _ in range(4)]
            return await asyncio.gather(*asked)

    assert all(completion.choices[0].message.content for completion in asyncio.run(talk()))


def check_chat_with_extensions(server):
    completion = client(server).chat.completions.create(
        model=server.model,
        messages=HELLO,
        max_completion_tokens=8,
        logprobs=True,
        top_logprobs=2,
        extra_body={"top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1, "chat_template_kwargs": {"x": 1}},
    )
    assert len(completion.choices[0].logprobs.content[0].top_logprobs) == 2
    assert completion.timings["predicted_n"] > 0


def check_chat_parsed_into_pydantic(server):
    """The SDK makes a schema of a class, and an object of the answer."""
    import typing

    import pydantic

    class Step(pydantic.BaseModel):
        title: str = pydantic.Field(max_length=16)
        minutes: int = pydantic.Field(ge=0, le=999)

    class Plan(pydantic.BaseModel):
        mood: typing.Literal["calm", "busy"]
        steps: list[Step] = pydantic.Field(min_length=1, max_length=2)
        note: str | None = pydantic.Field(max_length=10)

    for seed in range(3):
        completion = client(server).chat.completions.parse(
            model=server.model, messages=HELLO, max_tokens=300, seed=seed, response_format=Plan
        )
        parsed = completion.choices[0].message.parsed
        assert isinstance(parsed, Plan) and parsed.mood in ("calm", "busy"), completion


def check_bad_schema_is_a_bad_request(server):
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}
    error = expect(openai.BadRequestError, server, response_format=schema)
    assert error.param == "response_format" and "nonsense" in str(error), error


def check_text(server):
    completion = client(server).completions.create(model=server.model, prompt="Once upon", max_tokens=8, logprobs=1)
    assert completion.choices[0].text
    assert len(completion.choices[0].logprobs.tokens) == completion.usage.completion_tokens


def check_text_stream(server):
    stream = client(server).completions.create(model=server.model, prompt="Once upon", max_tokens=8, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream)


def check_models(server):
    models = client(server).models
    assert server.model in [model.id for model in models.list()]
    assert models.retrieve(server.model).id == server.model


def check_unknown_model_is_not_found(server):
    expect(openai.NotFoundError, server, model="no-such-model", code="model_not_found")
    try:
        client(server).models.retrieve("no-such-model")
    except openai.NotFoundError as error:
        assert error.code == "model_not_found"
    else:
        raise AssertionError("no error")


def check_bad_parameters_are_bad_requests(server):
    error = expect(openai.BadRequestError, server, temperature=9)
    assert error.param == "temperature" and error.type == "invalid_request_error", error
    expect(openai.BadRequestError, server, messages=[])
    expect(openai.BadRequestError, server, stream=True, top_p=7)
    expect(openai.BadRequestError, server, messages=[{"role": "wizard", "content": "x"}])


def check_hang_up_leaves_the_server_well(server):
    """Leaves streams and requests half-way; the metrics of a Kindling count them, and the next request is served."""
    create = client(server).chat.completions.create
    long = [{"role": "user", "content": "Write a very slow and long story; hang on every word."}]
    for _ in range(3):
        stream = create(model=server.model, messages=long, max_tokens=512, stream=True)
        next(iter(stream))
        stream.close()
    impatient = client(server, timeout=0.3)
    try:
        impatient.chat.completions.create(model=server.model, messages=long, max_tokens=512)
    except openai.APITimeoutError:
        pass
    deadline = time.monotonic() + 20
    while in_flight(server) not in (0, None):
        assert time.monotonic() < deadline, f"{in_flight(server)} requests are still in flight"
        time.sleep(0.1)
    check_chat(server)


def in_flight(server):
    """Requests that a Kindling is answering; None if its metrics are elsewhere."""
    response = server.get("/metrics")
    if response.status != 200:
        return None
    name = 'kindling_gateway_requests_in_flight{route="chat_completions"} '
    return next((int(line.removeprefix(name)) for line in response.text.splitlines() if line.startswith(name)), None)


def check_many_at_once(server):
    failures = []

    def ask():
        try:
            stream = openai.OpenAI(base_url=f"{server.base_url}/v1", api_key="any").chat.completions.create(
                model=server.model, messages=HELLO, max_tokens=8, stream=True
            )
            assert "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


def expect(kind, server, code=None, **fields):
    try:
        client(server).chat.completions.create(**{"model": server.model, "messages": HELLO, **fields})
    except kind as error:
        assert code is None or error.code == code, error
        return error
    raise AssertionError(f"no {kind.__name__}")
