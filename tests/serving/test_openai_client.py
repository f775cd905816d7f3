"""The real `openai` client against a prefill and a decode worker behind the real gateway."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

CHAT = {"model": "tiny-moe", "messages": [{"role": "user", "content": "Reverse these words: red green blue"}]}
TEXT = {"model": "tiny-moe", "prompt": "In the beginning"}


def test_models_lists_the_served_name(native) -> None:
    assert [model.id for model in native.client().models.list()] == ["tiny-moe"]


def test_chat_with_usage(native) -> None:
    answer = native.client().chat.completions.create(**CHAT, max_tokens=8, temperature=0)
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.prompt_tokens > 5
    assert 1 <= answer.usage.completion_tokens <= 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_chat_stream_equals_non_stream(native) -> None:
    client = native.client()
    whole = client.chat.completions.create(**CHAT, max_tokens=24, temperature=0)
    events = list(
        client.chat.completions.create(
            **CHAT, max_tokens=24, temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
    assert text == whole.choices[0].message.content
    assert events[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_completion_stream_equals_non_stream(native) -> None:
    client = native.client()
    whole = client.completions.create(**TEXT, max_tokens=24, temperature=0)
    parts = client.completions.create(**TEXT, max_tokens=24, temperature=0, stream=True)
    assert "".join(part.choices[0].text for part in parts if part.choices) == whole.choices[0].text


@pytest.mark.parametrize("stream", [False, True])
def test_n_gives_distinct_outputs(native, stream: bool) -> None:
    reply = native.client().completions.create(**TEXT, max_tokens=12, n=2, seed=3, temperature=1.0, stream=stream)
    texts = {0: "", 1: ""}
    for part in reply if stream else [reply]:
        for choice in part.choices:
            texts[choice.index] += choice.text
    assert texts[0]
    assert texts[1]
    assert texts[0] != texts[1]


def test_seed_repeats_and_another_seed_differs(native) -> None:
    client = native.client()
    one, again, other = (
        client.completions.create(**TEXT, max_tokens=16, temperature=1.0, seed=seed).choices[0].text
        for seed in (7, 7, 8)
    )
    assert one == again
    assert one != other


def test_stop_string_ends_before_itself(native) -> None:
    client = native.client()
    free = client.completions.create(**TEXT, max_tokens=24, temperature=0).choices[0].text
    stop = free.strip()[3:6]
    cut = client.completions.create(**TEXT, max_tokens=24, temperature=0, stop=[stop]).choices[0]
    assert cut.finish_reason == "stop"
    assert cut.text == free[: free.index(stop)]


def test_chat_logprobs(native) -> None:
    answer = native.client().chat.completions.create(**CHAT, max_tokens=5, temperature=0, logprobs=True, top_logprobs=3)
    choice = answer.choices[0]
    has_stop_token = choice.finish_reason == "stop"  # counted in usage, not shown
    assert len(choice.logprobs.content) == answer.usage.completion_tokens - has_stop_token > 0
    for token in choice.logprobs.content:
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].logprob == token.logprob <= 0  # greedy: the chosen token is the likeliest


def test_json_schema_is_followed(native) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "maximum": 99}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    answer = native.client().chat.completions.create(
        model="tiny-moe",
        messages=[{"role": "user", "content": "Make a person."}],
        max_tokens=96,
        temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}},
    )
    person = json.loads(answer.choices[0].message.content)
    assert set(person) == {"name", "age"}
    assert isinstance(person["age"], int)


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        ({**TEXT, "model": "nope"}, 404, "nope"),
        ({**TEXT, "max_tokens": -3}, 400, "max_tokens"),
        ({**TEXT, "prompt": "word " * 9000}, 400, "context"),
        ({**TEXT, "prompt": ""}, 400, "empty"),
        ({**TEXT, "temperature": -1.0}, 400, "temperature"),
        ({**TEXT, "top_p": 2.0}, 400, "top_p"),
        ({**TEXT, "extra_body": {"regex": "("}}, 400, "regex"),
    ],
)
def test_bad_requests_are_4xx_with_a_reason(native, request_: dict[str, object], status: int, reason: str) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        native.client().completions.create(**{"max_tokens": 4, **request_})
    assert caught.value.status_code == status
    assert reason in str(caught.value).lower()


def test_no_client_may_register_a_backend(native) -> None:
    body = {"url": "grpc://127.0.0.1:1", "worker_type": "decode", "runtime_type": "vllm"}
    assert httpx.post(f"{native.url}/workers", json=body, timeout=60).status_code in (401, 403)


def test_malformed_json_is_400(native) -> None:
    headers = {"content-type": "application/json"}
    reply = httpx.post(f"{native.url}/v1/completions", content=b"{bad", headers=headers, timeout=60)
    assert reply.status_code == 400
    assert "json" in reply.text.lower()


def test_client_that_leaves_in_mid_stream_leaves_nothing(native) -> None:
    stream = native.client().completions.create(
        **TEXT, max_tokens=2000, temperature=1.0, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    assert native.busy()
    stream.close()
    native.wait_idle()


def test_clients_that_leave_in_prefill_leave_nothing(native) -> None:
    """Twenty clients with long prompts that give up after a few milliseconds, wherever their request is then."""

    def leave(index: int) -> None:
        client = native.client().with_options(timeout=0.005 * (1 + index % 8))
        with pytest.raises(openai.APITimeoutError):
            client.completions.create(model="tiny-moe", prompt=f"{index} " * 900, max_tokens=500)

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(leave, range(20)))
    native.wait_idle()
