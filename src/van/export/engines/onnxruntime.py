"""ONNX Runtime, on CPUs."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import torch

from van.errors import VanError
from van.export.checks import package
from van.export.engines.base import Source
from van.export.engines.runtime import Arrays, Plan, RuntimeEngine, onnx_model


class OnnxRuntimeEngine(RuntimeEngine):
    """ONNX Runtime, with the network or an exported file (.onnx); on CPUs it computes in float32."""

    name: ClassVar[str] = "onnxruntime"
    formats: ClassVar[tuple[str, ...]] = (".onnx",)
    fixes_shapes: ClassVar[bool] = False

    def __init__(self, source: Source, precision: str | None, device: torch.device) -> None:
        super().__init__(source, precision, device)
        if precision not in (None, "float32"):
            raise VanError(f"The engine {self.name} computes in float32 on CPUs, not in {precision}. Use openvino.")
        self._package = package("onnxruntime")
        if source.file is None:
            for name in ("onnx", "onnxscript"):
                package(name)
        self._model: str | bytes | None = str(source.file) if source.file else None
        self._sessions: dict[int, Any] = {}
        self._threads = ThreadPoolExecutor(self.cores, "onnxruntime")
        if source.file:
            self._session(1, [])  # a broken file shows now

    def compute(self, parts: Sequence[Arrays], plan: Plan) -> list[Arrays]:
        """Return the outputs of each part; see RuntimeEngine."""
        session = self._session(max(1, self.cores // plan.streams), parts[0])
        names = [one.name for one in session.get_inputs()]

        def run(part: Arrays) -> Arrays:
            return session.run(None, dict(zip(names, part, strict=True)))

        return [run(part) for part in parts] if plan.streams == 1 else list(self._threads.map(run, parts))

    def _session(self, threads: int, like: Arrays) -> Any:
        """Return a session that computes an input on so many threads; several threads may call it."""
        with self.lock:
            if threads not in self._sessions:
                options = self._package.SessionOptions()
                options.intra_op_num_threads = threads
                options.log_severity_level = 3  # errors
                model = self._converted(like)
                try:
                    self._sessions[threads] = self._package.InferenceSession(
                        model, options, providers=["CPUExecutionProvider"]
                    )
                except Exception as error:  # its own classes, which are not exported
                    if self.source.file is None:
                        raise
                    reason = str(error).strip().splitlines()[0]
                    raise VanError(f"{self.source.file} cannot be read ({reason}). Export it again.") from error
            return self._sessions[threads]

    def _converted(self, like: Arrays) -> str | bytes:
        """Return the network as an ONNX file, from the cache if it is there, or its content."""
        if self._model is None:
            self._model = onnx_model(self.source, like)
        return self._model
