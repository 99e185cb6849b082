"""The fastest engine that is installed, measured once."""

import statistics
import threading
import time
from importlib.util import find_spec
from typing import Any, ClassVar

import torch

from van.engine.engines import FORMATS, engine_class
from van.errors import VanError
from van.export.engines import cache
from van.export.engines.base import Engine, Source

_ROUNDS = 3

# Those that are compared by the kind of device. torch.compile takes minutes to start on CPUs, and is slower there
_CANDIDATES = {"cpu": ("torch", "onnxruntime", "openvino")}
_OTHERWISE = ("torch", "compiled")


class AutoEngine(Engine):
    """Compares the engines that can be used on the first inputs, and remembers the fastest in the cache of the user.

    Attributes:
        chosen: The engine that computes; None before the first call, unless only one can be used.
    """

    name: ClassVar[str] = "auto"
    formats: ClassVar[tuple[str, ...]] = tuple(FORMATS)

    def __init__(self, source: Source, precision: str | None, device: torch.device) -> None:
        super().__init__(source, precision, device)
        self._candidates: list[Engine] = []
        reasons = []
        for name in _CANDIDATES.get(device.type, _OTHERWISE):
            kind = engine_class(name)
            if source.file is not None and source.file.suffix not in kind.formats:
                continue
            if name in ("onnxruntime", "openvino") and find_spec(name) is None:
                continue
            try:
                self._candidates.append(kind(source, precision, device))
            except VanError as error:
                reasons.append(error)
        if not self._candidates:
            raise (
                reasons[0]
                if reasons
                else VanError(
                    f"No engine that runs {source.file} on {device.type} is installed; install some with pip install "
                    "'visual-attention-network[export]'."
                )
            )
        self._lock = threading.Lock()
        self.chosen = self._candidates[0] if len(self._candidates) == 1 else None

    def __call__(self, *inputs: torch.Tensor) -> Any:
        """Return the outputs of the fastest engine."""
        return (self.chosen or self._choose(inputs))(*inputs)

    def prepare(self, *inputs: torch.Tensor) -> None:
        """Choose an engine, and prepare it; see Engine."""
        (self.chosen or self._choose(inputs)).prepare(*inputs)

    def _choose(self, inputs: tuple[torch.Tensor, ...]) -> Engine:
        with self._lock:
            if self.chosen is not None:  # by another thread
                return self.chosen
            names = [engine.name for engine in self._candidates]
            shapes = [list(x.shape) for x in inputs]
            where = [str(self.device), torch.get_num_threads(), cache.processor()]
            if self.device.type == "cuda":
                where.append(torch.cuda.get_device_name(self.device))
            key = cache.key_of("auto", self.source.digest(), names, shapes, self.precision, *where)
            known = cache.remembered(key)
            if known not in names:
                known = self._fastest(inputs)
                cache.remember(key, known)
            self.chosen = next(engine for engine in self._candidates if engine.name == known)
            self._candidates = [self.chosen]
            return self.chosen

    def _fastest(self, inputs: tuple[torch.Tensor, ...]) -> str:
        """Return the name of the fastest engine on these inputs."""
        seconds: dict[str, list[float]] = {}
        for engine in self._candidates:
            try:
                engine(*inputs)
                engine(*inputs)
            except (RuntimeError, VanError, NotImplementedError):  # an operation that it does not have
                if engine.name == "torch":  # the inputs are wrong
                    raise
                continue
            seconds[engine.name] = []
        for _ in range(_ROUNDS):
            for engine in self._candidates:
                if engine.name in seconds:
                    start = time.perf_counter()
                    engine(*inputs)
                    if self.device.type == "cuda":
                        torch.cuda.synchronize(self.device)
                    seconds[engine.name].append(time.perf_counter() - start)
        if not seconds:
            raise VanError(f"No engine runs {self.source.file} here. Name one to see why: --engine openvino.")
        return min(seconds, key=lambda name: statistics.median(seconds[name]))

    def __str__(self) -> str:
        return f"auto ({self.chosen.name}), {self.precision}" if self.chosen else f"auto, {self.precision}"
