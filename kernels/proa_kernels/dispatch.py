"""Torch custom ops that cost nothing where nobody traces.

The dispatcher's Python path takes tens of microseconds per call, which is more than most of these kernels. It is needed
only by what looks through an op: `torch.compile`, and tensors that are not plain (fake ones, subclasses).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch

R = TypeVar("R")


class Op(Generic[R]):
    """`function` registered as `name`; a call runs the function itself when its first argument is a plain tensor."""

    def __init__(self, function: Callable[..., R], name: str, schema: str, mutates_args: tuple[str, ...]) -> None:
        self._function = function
        self._registered = torch.library.custom_op(name, mutates_args=mutates_args, schema=schema)(function)
        namespace, _, short_name = name.partition("::")
        self._dispatched = getattr(getattr(torch.ops, namespace), short_name)

    def __call__(self, first: torch.Tensor, *others: Any) -> R:
        if type(first) is torch.Tensor and not torch.compiler.is_compiling():
            return self._function(first, *others)
        result: R = self._dispatched(first, *others)
        return result

    def register_fake(self, function: Callable[..., R]) -> Callable[..., R]:
        self._registered.register_fake(function)
        return function


def custom_op(name: str, *, schema: str, mutates_args: tuple[str, ...] = ()) -> Callable[[Callable[..., R]], Op[R]]:
    """Decorator form of `Op`, with the arguments of `torch.library.custom_op`."""
    return lambda function: Op(function, name, schema, mutates_args)
