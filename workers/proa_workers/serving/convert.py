"""vllm.grpc.engine messages to core values and back. proto3 zero means unset, so zeros become vLLM's defaults."""

from __future__ import annotations

import json
from collections.abc import Sequence as Seq

from smg_grpc_proto import vllm_engine_pb2 as pb

from proa_workers.core.outcome import Finish
from proa_workers.core.params import Constraint, SamplingParams
from proa_workers.core.plan import Sampled
from proa_workers.errors import InvalidRequest, Unsupported


def prompt_of(request: pb.GenerateRequest) -> list[int]:
    """Token ids of a request; InvalidRequest when it has none, Unsupported for images and the like."""
    if request.HasField("mm_inputs") or request.HasField("media_refs"):
        raise Unsupported("this engine serves text models only: send no images, audio or video")
    if request.WhichOneof("input") != "tokenized":
        raise InvalidRequest("send token ids (input.tokenized): the worker does not tokenize")
    ids = list(request.tokenized.input_ids)
    if not ids:
        raise InvalidRequest("the prompt is empty: send at least one token")
    return ids


def sampling_of(p: pb.SamplingParams, *, num_prompt: int, max_model_len: int) -> SamplingParams:
    """Sampling values of a request; an absent max_tokens means whatever the context leaves."""
    if p.HasField("prompt_logprobs"):
        raise Unsupported("prompt_logprobs (echo with logprobs) is not served: drop it")
    if p.HasField("truncate_prompt_tokens"):
        raise Unsupported("truncate_prompt_tokens is not served: truncate before sending")
    return SamplingParams(
        max_tokens=p.max_tokens if p.HasField("max_tokens") else max(max_model_len - num_prompt, 1),
        min_tokens=p.min_tokens,
        temperature=p.temperature if p.HasField("temperature") else 1.0,
        top_p=p.top_p or 1.0,
        top_k=p.top_k,
        min_p=p.min_p,
        frequency_penalty=p.frequency_penalty,
        presence_penalty=p.presence_penalty,
        repetition_penalty=p.repetition_penalty or 1.0,
        seed=p.seed if p.HasField("seed") else None,
        n=p.n or 1,
        logprobs=p.logprobs if p.HasField("logprobs") else None,
        stop=tuple(p.stop),
        stop_token_ids=tuple(p.stop_token_ids),
        include_stop_str_in_output=p.include_stop_str_in_output,
        ignore_eos=p.ignore_eos,
        logit_bias=tuple(sorted(p.logit_bias.items())),
        constraint=_constraint_of(p),
    )


def _constraint_of(p: pb.SamplingParams) -> Constraint | None:
    kind = p.WhichOneof("constraint")
    if kind is None or (kind == "json_object" and not p.json_object):
        return None
    if kind == "structural_tag":
        raise Unsupported("structural_tag is not served: use json_schema, regex, grammar or choice")
    if kind == "choice":
        return Constraint(kind="choice", text=json.dumps(list(p.choice.choices)))
    return Constraint(kind=kind, text="" if kind == "json_object" else getattr(p, kind))


def logprobs_of(sampled: Seq[Sampled]) -> pb.OutputLogProbs | None:
    """Logprobs of consecutive tokens; None when none were asked for."""
    if not sampled or sampled[0].logprob is None:
        return None
    out = pb.OutputLogProbs()
    for token in sampled:
        assert token.logprob is not None
        out.token_logprobs.append(token.logprob)
        out.token_ids.append(token.token_id)
        out.top_logprobs.add(
            values=[logprob for _, logprob in token.top], token_ids=[token_id for token_id, _ in token.top]
        )
    return out


def complete_of(
    *, index: int, sampled: Seq[Sampled], finish: Finish, num_prompt: int, num_cached: int, kv_params: str | None
) -> pb.GenerateResponse:
    """The final message of one output, with all its tokens."""
    done = pb.GenerateComplete(
        output_ids=[token.token_id for token in sampled],
        finish_reason=finish.reason,
        prompt_tokens=num_prompt,
        completion_tokens=len(sampled),
        cached_tokens=num_cached,
        output_logprobs=logprobs_of(sampled),
        index=index,
    )
    if isinstance(finish.matched, int):
        done.matched_token_id = finish.matched
    elif finish.matched is not None:
        done.matched_stop_str = finish.matched
    if kv_params is not None:
        done.kv_transfer_params_json = kv_params
    return pb.GenerateResponse(complete=done)


def chunk_of(
    *, index: int, sampled: Seq[Sampled], num_prompt: int, num_output: int, num_cached: int
) -> pb.GenerateResponse:
    """The next tokens of one streamed output; `num_output` counts all tokens so far."""
    chunk = pb.GenerateStreamChunk(
        token_ids=[token.token_id for token in sampled],
        prompt_tokens=num_prompt,
        completion_tokens=num_output,
        cached_tokens=num_cached,
        output_logprobs=logprobs_of(sampled),
        index=index,
    )
    return pb.GenerateResponse(chunk=chunk)
