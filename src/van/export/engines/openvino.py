"""OpenVINO, on CPUs."""

import io
import queue
import warnings
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from van.errors import VanError
from van.export.checks import package
from van.export.engines import cache
from van.export.engines.base import Source, refuse_float16_on_cpu
from van.export.engines.runtime import Arrays, Plan, RuntimeEngine, dynamic_axes, example_of, onnx_model

_HINTS = {"float32": "f32", "float16": "f32", "bfloat16": "bf16", "int8": "bf16"}


def hint_of(precision: str, core: Any) -> str:
    """Return the type that OpenVINO computes with: f32, or bf16 where the processor has it.

    Args:
        precision: Of the arithmetic, or of an exported file; in int8 files of what is not in int8.
        core: An openvino.Core.
    """
    hint = _HINTS[precision]
    return hint if hint == "f32" or "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"


class OpenVINOEngine(RuntimeEngine):
    """OpenVINO's form of a network, or of an exported file (.xml, .onnx).

    One converted network serves all shapes, and is kept in the cache; common shapes get compiled forms of their own.
    """

    name: ClassVar[str] = "openvino"
    formats: ClassVar[tuple[str, ...]] = (".xml", ".onnx")
    fixes_shapes: ClassVar[bool] = True

    def __init__(self, source: Source, precision: str | None, device: torch.device) -> None:
        super().__init__(source, precision, device)
        refuse_float16_on_cpu(precision, device)
        self._core = package("openvino").Core()
        self._hint = hint_of(self.precision, self._core)
        if self.precision == "bfloat16" and self._hint == "f32":
            if precision is not None:
                raise VanError("precision is bfloat16, but this processor cannot compute with it. Use float32.")
            self.precision = "float32"  # with the weights of the file
        # in batches of images up to 32 pixels wide, OpenVINO 2026.4 computes wrong results unless in float32
        self.one_by_one = self.source.batched and self.precision in ("bfloat16", "int8")
        self._model: Any = self._read(source.file) if source.file else None
        self._forms: dict[tuple[Any, int], _Form] = {}

    def compute(self, parts: Sequence[Arrays], plan: Plan) -> list[Arrays]:
        """Return the outputs of each part; see RuntimeEngine."""
        shapes = _shapes(parts[0])
        fixed = plan.fixed and len(parts[0][0]) == plan.part
        form = self._form(shapes if fixed else None, plan.streams, parts[0])
        if not fixed or _shapes(parts[-1]) == shapes:
            return form.run(parts)
        return [*form.run(parts[:-1]), *self._form(None, plan.streams, parts[-1]).run(parts[-1:])]

    def release(self, plans: Sequence[Plan], arrays: Arrays) -> None:
        """Free the compiled forms of these plans."""
        with self.lock:
            for plan in plans:
                shapes = _shapes([array[: plan.part] for array in arrays])
                self._forms.pop((shapes, plan.streams), None)

    def _form(self, shapes: tuple[tuple[int, ...], ...] | None, streams: int, like: Arrays) -> "_Form":
        """Return a compiled form, for inputs of these shapes or of any."""
        with self.lock:
            if (shapes, streams) not in self._forms:
                model = self._converted(like)
                if shapes is not None:
                    model = model.clone()
                    model.reshape({i: list(shape) for i, shape in enumerate(shapes)})
                settings = {
                    # without the hint OpenVINO rounds to bfloat16 wherever the CPU knows it
                    "INFERENCE_PRECISION_HINT": self._hint,
                    "INFERENCE_NUM_THREADS": self.cores,
                    "NUM_STREAMS": streams,
                    "ENABLE_CPU_PINNING": False,  # processes that decode images share the cores
                }
                compiled = self._core.compile_model(model, "CPU", settings)
                self._forms[shapes, streams] = _Form(compiled, 2 * streams)
            return self._forms[shapes, streams]

    def _read(self, file: Path) -> Any:
        try:
            return self._core.read_model(file)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise VanError(f"{file} cannot be read ({reason}). Export it again.") from error

    def _converted(self, like: Arrays) -> Any:
        """Return the network in OpenVINO's form, from the cache if it is there."""
        if self._model is not None:
            return self._model
        key = cache.key_of("openvino", self.source.digest(), self.source.batched, len(like))
        if folder := cache.find(key):
            try:
                self._model = self._core.read_model(folder / "model.xml")
                return self._model
            except RuntimeError:  # written by another build of OpenVINO
                cache.discard(key)
        openvino = package("openvino")
        example = example_of(like, self.source.batched)
        core, axes = self.source.fused(), dynamic_axes(example, self.source.batched)
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # OpenVINO's converter warns about versions of torch
                model = openvino.convert_model(torch.export.export(core, example, dynamic_shapes=axes))
        except Exception:  # of torch, sympy or OpenVINO; ONNX can do more, such as NMS
            onnx = onnx_model(self.source, like)
            model = self._core.read_model(onnx if isinstance(onnx, str) else io.BytesIO(onnx))
        cache.store(key, lambda folder: openvino.serialize(model, folder / "model.xml"))
        self._model = model
        return model


class _Form:
    """A compiled network with requests that wait for inputs; any number of threads may share it.

    Args:
        compiled: OpenVINO's compiled model.
        requests: How many inputs may be on their way at the same time.
    """

    def __init__(self, compiled: Any, requests: int) -> None:
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(requests):
            self._idle.put(compiled.create_infer_request())

    def run(self, parts: Sequence[Arrays]) -> list[Arrays]:
        """Return the outputs of each part, which are computed side by side."""
        running: deque[tuple[int, Any]] = deque()
        found: dict[int, Arrays] = {}

        def finish() -> None:
            index, request = running.popleft()
            try:
                request.wait()
                found[index] = [np.array(tensor.data) for tensor in request.output_tensors]
            finally:
                self._idle.put(request)

        try:
            for index, part in enumerate(parts):
                while True:
                    try:
                        # with requests of its own on their way a thread waits for these: nobody waits for ever
                        request = self._idle.get(block=not running)
                        break
                    except queue.Empty:
                        finish()
                running.append((index, request))
                request.start_async(dict(enumerate(part)), share_inputs=True)
            while running:
                finish()
        except BaseException:
            for _, request in running:
                request.cancel()
                self._idle.put(request)
            raise
        return [found[index] for index in range(len(parts))]


def _shapes(arrays: Arrays) -> tuple[tuple[int, ...], ...]:
    return tuple(array.shape for array in arrays)
