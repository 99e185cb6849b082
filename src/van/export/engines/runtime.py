"""What engines outside PyTorch share: parts of a batch side by side, and the fastest way to do so, measured once."""

import statistics
import threading
import time
import warnings
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch

from van.export.checks import package
from van.export.engines import cache
from van.export.engines.base import Engine, Source, unpacked

_WORTHWHILE = 16  # calls with one shape after which finding their fastest plan pays
_FORMS = 8  # at most so many shapes have a compiled form of their own
_ROUNDS = 5  # measurements of each plan

Arrays = list[np.ndarray]


@dataclass(frozen=True)
class Plan:
    """How a batch is computed.

    Attributes:
        part: Images that are computed together.
        streams: Parts at the same time; the processor's cores are shared out among them.
        fixed: In a form that is compiled for the shape of a part, not for any shape.
    """

    part: int
    streams: int
    fixed: bool = False


class RuntimeEngine(Engine):
    """An engine that takes a batch apart.

    A batch goes through as many streams as there are cores, an image at a time: maps then stay in the caches. A single
    image gets all cores. Once a shape has come a number of times, other plans are measured, and the fastest is kept
    and remembered in the cache of the user.

    Args:
        source: What is computed.
        precision: See Engine.
        device: See Engine.

    Attributes:
        fixes_shapes: Whether common shapes get forms of their own.
        one_by_one: Whether images are always computed one at a time.
    """

    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    fixes_shapes: ClassVar[bool]
    one_by_one: bool = False

    def __init__(self, source: Source, precision: str | None, device: torch.device) -> None:
        super().__init__(source, precision, device)
        self.cores = torch.get_num_threads()
        self.lock = threading.RLock()
        self._measuring = threading.Lock()
        self._plans: dict[Any, Plan | None] = {}
        self._seen: Counter[Any] = Counter()

    def __call__(self, *inputs: torch.Tensor) -> Any:
        """Return the outputs, on the CPU."""
        arrays = _arrays(inputs)
        kind, plan = self._kind(arrays), self._plan(arrays)
        if plan is None:
            plan = self._default(arrays)
            with self.lock:
                self._seen[kind] += 1
                due = self._seen[kind] == _WORTHWHILE and self._has_room()
            if due:
                plan = self._measured(arrays)
        return unpacked([torch.from_numpy(output) for output in self._run(arrays, plan)])

    def prepare(self, *inputs: torch.Tensor) -> None:
        """Find the fastest plan for inputs of these shapes now, unless it is known, and compile what it needs."""
        arrays = _arrays(inputs)
        self._run(arrays, self._plan(arrays) or self._measured(arrays))

    @abstractmethod
    def compute(self, parts: Sequence[Arrays], plan: Plan) -> list[Arrays]:
        """Return the outputs of each part.

        Args:
            parts: Inputs, in order.
            plan: How to compute them; the last part may be smaller than it says.
        """

    def release(self, plans: Sequence[Plan], arrays: Arrays) -> None:
        """Free what only these plans need for inputs of these shapes; by default nothing."""

    # ------------------------------------------------------------------------------------------------

    def _kind(self, arrays: Arrays) -> tuple[Any, ...]:
        """Return what a plan depends on: shapes of single images, and whether there are several."""
        return (*(array.shape[1:] for array in arrays), len(arrays[0]) > 1)

    def _default(self, arrays: Arrays) -> Plan:
        batch = len(arrays[0])
        return Plan(1, min(batch, self.cores)) if self.source.batched else Plan(batch, 1)

    def _key(self, arrays: Arrays) -> str:
        """Return the key of a plan in the cache."""
        shapes = [list(shape) if isinstance(shape, tuple) else shape for shape in self._kind(arrays)]
        return cache.key_of(
            "plan", self.name, self.source.digest(), shapes, self.precision, self.cores, cache.processor()
        )

    def _has_room(self) -> bool:
        return not self.fixes_shapes or sum(bool(plan and plan.fixed) for plan in self._plans.values()) < _FORMS

    def _plan(self, arrays: Arrays) -> Plan | None:
        """Return the plan for inputs of these shapes, if it is known."""
        kind = self._kind(arrays)
        with self.lock:
            if kind not in self._plans:
                known = cache.remembered(self._key(arrays)) if self._has_room() else None
                self._plans[kind] = Plan(**known) if known else None
            return self._plans[kind]

    def _candidates(self, arrays: Arrays) -> list[Plan]:
        """Return the plans that are compared."""
        batch, fixed = len(arrays[0]), self.fixes_shapes
        if batch == 1 or not self.source.batched:
            return [Plan(batch, 1, fixed)]
        parts = [part for part in (1, 2, 4) if part == 1 or (part * self.cores <= batch and not self.one_by_one)]
        plans = [Plan(part, min(self.cores, -(-batch // part)), fixed) for part in parts]
        return list(dict.fromkeys([*plans, Plan(1 if self.one_by_one else batch, 1, fixed)]))

    def _measured(self, arrays: Arrays) -> Plan:
        """Measure plans, remember the fastest, and return it."""
        if not self._measuring.acquire(blocking=False):  # another thread is at it
            return self._default(arrays)
        try:
            candidates = self._candidates(arrays)
            seconds: dict[Plan, list[float]] = {plan: [] for plan in candidates}
            if len(candidates) > 1:
                for plan in candidates:
                    self._run(arrays, plan)
                for _ in range(_ROUNDS):
                    for plan in candidates:
                        start = time.perf_counter()
                        self._run(arrays, plan)
                        seconds[plan].append(time.perf_counter() - start)
            best = min(candidates, key=lambda plan: statistics.median(seconds[plan] or [0.0]))
            self.release([plan for plan in candidates if plan != best], arrays)
            cache.remember(self._key(arrays), asdict(best))
            with self.lock:
                self._plans[self._kind(arrays)] = best
            return best
        finally:
            self._measuring.release()

    def _run(self, arrays: Arrays, plan: Plan) -> Arrays:
        batch = len(arrays[0])
        if batch <= plan.part or not self.source.batched:
            return self.compute([arrays], plan)[0]
        starts = range(0, batch, plan.part)
        found = self.compute([[array[i : i + plan.part] for array in arrays] for i in starts], plan)
        return [np.concatenate(outputs) for outputs in zip(*found, strict=True)]


def _arrays(inputs: Sequence[torch.Tensor]) -> Arrays:
    """Return inputs as arrays, floating-point ones in float32."""
    tensors = [x.float() if x.is_floating_point() else x for x in inputs]
    return [x.detach().cpu().contiguous().numpy() for x in tensors]


def example_of(arrays: Arrays, batched: bool) -> tuple[torch.Tensor, ...]:
    """Return inputs to export a network with, whose sizes are like those of arrays.

    Args:
        arrays: Inputs.
        batched: Take two images: a batch of one would be baked in.
    """
    tensors = [torch.from_numpy(array[:1].copy()) for array in arrays]
    return tuple(x.expand(2, *x.shape[1:]).contiguous() if batched else x for x in tensors)


def dynamic_axes(inputs: Sequence[torch.Tensor], batched: bool) -> tuple[tuple[dict[int, Any], ...]]:
    """Return the dynamic axes of a Core's inputs: batch, and height and width of images."""
    auto = torch.export.Dim.AUTO  # type: ignore[attr-defined]
    batch = {0: auto} if batched else {}
    return (tuple({**batch, **({2: auto, 3: auto} if x.ndim == 4 else {})} for x in inputs),)


def onnx_model(source: Source, like: Arrays) -> str | bytes:
    """Return a network as the path of an ONNX file in the cache, or as the content of one where there is no cache.

    Args:
        source: The network.
        like: Inputs.

    Raises:
        VanError: a package that writes ONNX files is missing.
    """
    for name in ("onnx", "onnxscript"):
        package(name)
    key = cache.key_of("onnx", source.digest(), source.batched, len(like))
    folder = cache.find(key)
    if folder is None:
        example = example_of(like, source.batched)
        core, axes = source.fused(), dynamic_axes(example, source.batched)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own code
            program = torch.onnx.export(core, example, dynamo=True, verbose=False, dynamic_shapes=axes)
        program = cast(torch.onnx.ONNXProgram, program)
        folder = cache.store(key, lambda folder: program.save(folder / "model.onnx"))
        if folder is None:
            return program.model_proto.SerializeToString()
    return str(folder / "model.onnx")
