"""The Generate RPC: from a gateway's request to sequences, and from outcomes to messages."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from itertools import count

from smg_grpc_proto import vllm_engine_pb2 as pb

from proa_workers.core.params import SamplingParams
from proa_workers.core.plan import GrammarState, Sampled, SampleRow
from proa_workers.core.sequence import Sequence
from proa_workers.errors import EngineFailed, InvalidRequest
from proa_workers.kv.handoff import HandOff, load_object
from proa_workers.sampling.admission import check_admissible
from proa_workers.sampling.stop import StopStrings
from proa_workers.serving.convert import chunk_of, complete_of, prompt_of, sampling_of
from proa_workers.serving.stream import Batch, Stream
from proa_workers.serving.worker import NOTHING_TO_FETCH, Worker

_seq_ids = count(1)
SEED_STEP = 0x9E3779B97F4A7C15  # golden-ratio stride: the n outputs of one seed must not be equal
SEED_MASK = 2**63 - 1


async def generate(worker: Worker, request: pb.GenerateRequest) -> AsyncGenerator[pb.GenerateResponse, None]:
    """Serve one request; leaves nothing behind however it ends. Raises the typed errors of `Worker.open`."""
    worker.check_open()
    stream = await _prepare(worker, request)
    sampled: dict[int, list[Sampled]] = {seq.seq_id: [] for seq in stream.seqs}
    await worker.open(stream)
    try:
        while stream.num_open or stream.has_news:
            for batch in await stream.read():
                sampled[batch.seq.seq_id] += batch.sampled
                for response in _responses(stream, batch, sampled[batch.seq.seq_id], is_streaming=request.stream):
                    yield response
    finally:
        await worker.close(stream)


async def _prepare(worker: Worker, request: pb.GenerateRequest) -> Stream:
    prompt = prompt_of(request)
    info = worker.engine.info
    if bad := [token for token in prompt if token >= info.vocab_size]:
        raise InvalidRequest(f"token id {bad[0]} is outside the vocabulary of {info.vocab_size}")
    params = sampling_of(request.sampling_params, num_prompt=len(prompt), max_model_len=info.max_model_len)
    check_admissible(params, info.vocab_size, info.eos_token_ids)
    hand_off = _hand_off_of(request, len(prompt))
    grammars = await _grammars(worker, params)
    key = worker.new_key(request.request_id)
    is_hand_off = hand_off is None and worker.role == "prefill" and params.max_tokens == 1 and params.n == 1
    seed = secrets.randbits(63) if params.seed is None else params.seed
    seqs: list[Sequence] = []
    for index in range(params.n):
        row = SampleRow(
            params=params,
            seed=(seed + index * SEED_STEP) & SEED_MASK,
            prompt_ids=prompt,
            output_ids=[],
            eos_token_ids=info.eos_token_ids,
            grammar=grammars[index],
        )
        seqs.append(
            Sequence(
                seq_id=next(_seq_ids),
                request_id=key,
                row=row,
                index=index,
                is_hand_off=is_hand_off,
                num_remote_tokens=hand_off.num_tokens if hand_off and index == 0 else 0,
                stop=StopStrings(worker.tokenizer, params.stop) if params.stop else None,
                leader=seqs[0] if seqs else None,
                arrived_at=worker.clock(),
            )
        )
    return Stream(key, seqs, hand_off, worker.metrics, worker.tally, is_streaming=request.stream)


async def _grammars(worker: Worker, params: SamplingParams) -> list[GrammarState | None]:
    """One automaton an output; compiled off the event loop, since a large schema takes a while."""
    if params.constraint is None:
        return [None] * params.n
    build, constraint = worker.grammars.build, params.constraint
    return await asyncio.to_thread(lambda: [build(constraint) for _ in range(params.n)])


def _hand_off_of(request: pb.GenerateRequest, num_prompt: int) -> HandOff | None:
    """The prefill worker's offer; None when there is none or it has no blocks (a prompt of one token)."""
    text = request.kv_transfer_params_json
    if not request.HasField("kv_transfer_params_json") or load_object(text) == NOTHING_TO_FETCH:
        return None
    hand_off = HandOff.parse(text)
    if hand_off.num_tokens != num_prompt - 1:
        raise InvalidRequest(
            f"the hand-off has {hand_off.num_tokens} tokens, the prompt {num_prompt}: they belong to two requests"
        )
    return hand_off


def _responses(
    stream: Stream, batch: Batch, sampled: list[Sampled], *, is_streaming: bool
) -> list[pb.GenerateResponse]:
    seq, responses = batch.seq, []
    if is_streaming and batch.sampled:
        responses.append(
            chunk_of(
                index=seq.index,
                sampled=batch.sampled,
                num_prompt=seq.num_prompt,
                num_output=len(sampled),
                num_cached=seq.num_cached,
            )
        )
    if batch.finish is None:
        return responses
    if batch.finish.reason == "error":
        broken = InvalidRequest(batch.finish.why) if batch.finish.why else None
        raise broken or stream.error or EngineFailed()
    responses.append(
        complete_of(
            index=seq.index,
            sampled=sampled,
            finish=batch.finish,
            num_prompt=seq.num_prompt,
            num_cached=seq.num_cached,
            kv_params=batch.kv_params,
        )
    )
    return responses
