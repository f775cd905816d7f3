"""One place where errors become gRPC statuses and each call gets its deadline checked."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc

from proa_workers.errors import WorkerError

logger = logging.getLogger(__name__)
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Answers a WorkerError with its status and message, anything else with INTERNAL and a log line."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The handler, wrapped so that its errors become statuses."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(
                _typed_unary(handler.unary_unary), handler.request_deserializer, handler.response_serializer
            )
        if (behavior := handler.unary_stream) is not None:
            # Health's Watch is a coroutine that writes to its context, and not a generator.
            typed = _typed_unary if inspect.iscoroutinefunction(behavior) else _typed_stream
            return grpc.unary_stream_rpc_method_handler(
                typed(behavior), handler.request_deserializer, handler.response_serializer
            )
        return handler  # stream requests: reflection only


def _typed_unary(behavior: Any) -> Any:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await behavior(request, context)
        except WorkerError as error:
            await _answer(context, error)
        except (grpc.aio.AbortError, grpc.RpcError):
            raise
        except Exception:  # the one place that turns a bug into a status
            await _answer_bug(context)

    return call


def _typed_stream(behavior: Any) -> Any:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        try:
            async with aclosing(behavior(request, context)) as responses:
                async for response in responses:
                    yield response
        except WorkerError as error:
            await _answer(context, error)
        except (grpc.aio.AbortError, grpc.RpcError):
            raise
        except Exception:  # as above
            await _answer_bug(context)

    return call


async def _answer(context: grpc.aio.ServicerContext[Any, Any], error: WorkerError) -> None:
    await context.abort(grpc.StatusCode[error.code], str(error))


async def _answer_bug(context: grpc.aio.ServicerContext[Any, Any]) -> None:
    logger.exception("request failed by a bug")
    await context.abort(grpc.StatusCode.INTERNAL, "internal error: see the worker's log")
