"""Asks an endpoint what it serves and what a word costs there, before any load."""

from __future__ import annotations

import httpx

from proa_operator.bench.client import Endpoint, ask, headers, http_error_text, outgoing
from proa_operator.bench.connections import Connections
from proa_operator.bench.errors import EndpointError
from proa_operator.bench.prompt import TokenDensity, fit_density, words
from proa_operator.bench.record import RequestRecord, Status

PROBE_OUTPUT_TOKENS = 2
PROBE_WORDS = (64, 2048)  # the longer probe is as long as the load's prompts, within these bounds
MODELS_SECONDS = 10.0


async def served_model(url: str, api_key: str | None) -> str:
    """The one model that `url` lists.

    Raises EndpointError when the endpoint cannot be reached or lists none or several.
    """
    endpoint = Endpoint(url=url, model="", api_key=api_key)
    try:
        async with Connections(endpoint) as connections, connections.lease() as client:
            response = await client.get(f"{url}/v1/models", headers=headers(endpoint), timeout=MODELS_SECONDS)
            response.raise_for_status()
            names = [str(entry["id"]) for entry in response.json()["data"]]
    except httpx.HTTPStatusError as error:
        text = http_error_text(error.response.status_code, error.response.content)
        raise EndpointError(f"{url}/v1/models: {text}; name the model with --model") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise EndpointError(f"cannot reach {url}: {error or type(error).__name__}; check --url") from error
    except (ValueError, KeyError, TypeError) as error:
        raise EndpointError(f"{url}/v1/models is not an OpenAI model list; check --url") from error
    if len(names) != 1:
        raise EndpointError(f"{url} serves {', '.join(names) or 'no model'}; choose one with --model")
    return names[0]


async def measure_density(connections: Connections, endpoint: Endpoint, num_tokens: int, seed: int) -> TokenDensity:
    """Tokens per word and per template, from two short requests whose longer prompt has about `num_tokens` words.

    Raises EndpointError when a probe fails; the message has the server's reason.
    """
    low, high = PROBE_WORDS
    num_words = min(max(num_tokens, low), high)
    probes = [
        (count, await _prompt_tokens(connections, endpoint, count, seed)) for count in (num_words // 4, num_words)
    ]
    try:
        return fit_density(*probes)
    except ValueError as error:
        raise EndpointError(f"{endpoint.url} reports wrong usage: {error}; its prompt_tokens must count") from error


async def _prompt_tokens(connections: Connections, endpoint: Endpoint, num_words: int, seed: int) -> int:
    # NOTE: the seed has three parts, prompts have two more after theirs: a probe never shares text with the load.
    out = outgoing(endpoint, words(num_words, [seed, num_words, 1 << 21]), PROBE_OUTPUT_TOKENS, 0)
    async with connections.lease() as client:
        record = await ask(client, out, start=0.0, timeout_seconds=endpoint.timeout_seconds)
    if record.status is not Status.OK:
        raise EndpointError(_probe_failed(endpoint, record, num_words))
    return record.input_tokens


def _probe_failed(endpoint: Endpoint, record: RequestRecord, num_words: int) -> str:
    where = f"{endpoint.url}{endpoint.path} with a prompt of {num_words} words"
    return f"{where}: {record.error}; check --url, --model and --api, or shrink the load with --scale"
