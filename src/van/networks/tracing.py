"""Lets torch.export trace code of transformers with heights and widths that stay dynamic."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode


class _Dynamic(TorchFunctionMode):
    """Replaces functions that would write the sizes of the example into the graph."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.linspace and isinstance(args[2], torch.SymInt):  # all of them have steps of 1
            return torch.arange(args[2], **kwargs) + args[0]
        if func in (torch.tensor, torch.as_tensor) and _has_sizes(args[0]):
            return _stacked(args[0], kwargs.get("device")).to(kwargs.get("dtype", torch.long))
        return func(*args, **kwargs)


def _has_sizes(values: Any) -> bool:
    if isinstance(values, list | tuple):
        return any(_has_sizes(value) for value in values)
    return isinstance(values, torch.SymInt)


def _stacked(values: Any, device: Any) -> torch.Tensor:
    if isinstance(values, list | tuple):
        return torch.stack([_stacked(value, device) for value in values])
    return torch.full((), values, dtype=torch.long, device=device)


def _length(values: Any) -> Any:
    return values.shape[0] if isinstance(values, torch.Tensor) else len(values)


def _same(value: Any) -> Any:
    return value


def _inverse_sigmoid(x: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """Return the same as transformers for values from 0 to 1, with one limit where the ONNX exporter trips over two."""
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


_REPLACED = {"len": _length, "torch_int": _same, "inverse_sigmoid": _inverse_sigmoid}


@contextmanager
def dynamic_sizes(module: Any = None) -> Iterator[None]:
    """While torch.export traces, keep sizes dynamic where transformers' code would fix them; otherwise do nothing.

    Args:
        module: Python module whose functions are replaced meanwhile by those that keep sizes dynamic.
    """
    if not torch.compiler.is_exporting():
        yield
        return
    with ExitStack() as stack:
        for name, function in _REPLACED.items() if module else ():
            stack.enter_context(patch.object(module, name, function, create=True))
        stack.enter_context(_Dynamic())
        yield
