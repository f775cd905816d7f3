"""VllmEngine messages to core values: zeros mean unset, and what is not served is refused by name."""

from __future__ import annotations

import pytest
from proa_workers.core.outcome import Finish
from proa_workers.core.params import Constraint
from proa_workers.core.plan import Sampled
from proa_workers.errors import InvalidRequest, Unsupported
from proa_workers.serving.convert import chunk_of, complete_of, prompt_of, sampling_of
from smg_grpc_proto import vllm_engine_pb2 as pb


def sampling(**fields: object):
    return sampling_of(pb.SamplingParams(**fields), num_prompt=10, max_model_len=100)


def test_unset_fields_become_vllm_defaults() -> None:
    params = sampling()
    assert (params.max_tokens, params.temperature, params.top_p, params.top_k) == (90, 1.0, 1.0, 0)
    assert (params.repetition_penalty, params.n, params.seed, params.logprobs) == (1.0, 1, None, None)


def test_explicit_zeros_of_optional_fields_are_kept() -> None:
    params = sampling(temperature=0.0, seed=0, logprobs=0)
    assert (params.temperature, params.seed, params.logprobs) == (0.0, 0, 0)


@pytest.mark.parametrize(
    ("fields", "constraint"),
    [
        ({"json_schema": "{}"}, Constraint(kind="json_schema", text="{}")),
        ({"json_object": True}, Constraint(kind="json_object")),
        ({"json_object": False}, None),
        ({"regex": "a+"}, Constraint(kind="regex", text="a+")),
        ({"choice": pb.ChoiceConstraint(choices=["a", "b"])}, Constraint(kind="choice", text='["a", "b"]')),
    ],
)
def test_constraints(fields: dict[str, object], constraint: Constraint | None) -> None:
    assert sampling(**fields).constraint == constraint


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"max_tokens": 0}, InvalidRequest, "max_tokens must be at least 1"),
        ({"temperature": -1.0}, InvalidRequest, "temperature must be in 0..100"),
        ({"top_p": 2.0}, InvalidRequest, r"top_p must be in \(0, 1\]"),
        ({"logprobs": 21}, InvalidRequest, "logprobs must be in 0..20"),
        ({"min_tokens": 8, "max_tokens": 7}, InvalidRequest, "min_tokens must be in 0..max_tokens"),
        ({"stop": [""]}, InvalidRequest, "stop strings must not be empty"),
        ({"prompt_logprobs": 1}, Unsupported, "prompt_logprobs"),
        ({"truncate_prompt_tokens": 5}, Unsupported, "truncate_prompt_tokens"),
        ({"structural_tag": "x"}, Unsupported, "structural_tag"),
    ],
)
def test_refusals(fields: dict[str, object], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        sampling(**fields)


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        (pb.GenerateRequest(), InvalidRequest, "send token ids"),
        (pb.GenerateRequest(text="hi"), InvalidRequest, "send token ids"),
        (pb.GenerateRequest(tokenized=pb.TokenizedInput()), InvalidRequest, "prompt is empty"),
        (pb.GenerateRequest(mm_inputs=pb.MultimodalInputs()), Unsupported, "text models only"),
    ],
)
def test_prompt_refusals(request_: pb.GenerateRequest, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        prompt_of(request_)


def test_chunk_and_complete_carry_tokens_logprobs_and_the_matched_stop() -> None:
    sampled = [Sampled(token_id=5, logprob=-0.5, top=((5, -0.5), (6, -1.0)))]
    chunk = chunk_of(index=1, sampled=sampled, num_prompt=3, num_output=4, num_cached=2).chunk
    assert (list(chunk.token_ids), chunk.completion_tokens, chunk.cached_tokens, chunk.index) == ([5], 4, 2, 1)
    assert list(chunk.output_logprobs.top_logprobs[0].token_ids) == [5, 6]
    finish = Finish(reason="stop", matched="END")
    done = complete_of(index=0, sampled=sampled, finish=finish, num_prompt=3, num_cached=0, kv_params=None).complete
    assert (list(done.output_ids), done.finish_reason, done.matched_stop_str) == ([5], "stop", "END")
    assert not done.HasField("kv_transfer_params_json")
