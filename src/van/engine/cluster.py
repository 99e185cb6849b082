"""Prediction on the machines of a Ray cluster, by Ray Data."""

import logging
import os
import pickle
import zlib
from collections.abc import Iterable, Iterator
from time import perf_counter
from typing import Any

from van.engine.result import Result
from van.errors import DataError, VanError

_BLOCK = 4  # batches that are done again where a process dies


class _Worker:
    """A process that predicts; Ray starts it anew where it dies, and gives it the images again that had no result.

    Args:
        options: Of prediction.
        changes: Options of inference.
        keep: Whether results keep their images.
        threads: Processors of this process; None leaves PyTorch's choice.
    """

    def __init__(self, options: Any, changes: dict[str, Any], keep: bool, threads: int | None) -> None:
        import torch

        from van.engine.api import load

        if threads:
            torch.set_num_threads(threads)
        self.predictor = load(
            options.weights, options.device, options.batch_size, options.engine, options.precision, **changes
        )
        self.keep = keep

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Return the packed results of the images of a batch, and the seconds of each."""
        images = [pickle.loads(image) for image in batch["image"]]  # noqa: S301 - packed below
        start = last = perf_counter()
        found, waited = [], 0.0
        batches = iter(self.predictor.loader(images, 0, self.keep))
        while (decoded := next(batches, None)) is not None:
            waited += perf_counter() - last
            found += list(self.predictor.results(decoded))
            last = perf_counter()
        share = 1 / max(1, len(images))
        return {
            "number": list(batch["number"]),
            "result": [zlib.compress(pickle.dumps(one), 1) for one in found],  # masks are mostly zeros
            "waited": [waited * share] * len(images),
            "spent": [(last - start) * share] * len(images),
        }


def predict_on_ray(
    options: Any, changes: dict[str, Any], images: Iterable[Any], keep: bool, clock: Any
) -> Iterator[tuple[str, None, Result | DataError]]:
    """Yield path, None for the number of a frame, and result of each image in order.

    All machines must find the weights, and images that are files, under the same paths.

    Args:
        options: Of prediction; workers is the number of processes that predict.
        changes: Options of inference that differ from those in the weight file.
        images: What van.data.inputs.ImageSources lists.
        keep: Whether results keep their images, for pictures.
        clock: Gets the seconds; a van.engine.prediction.Clock.

    Raises:
        VanError: Ray is not installed, or a process cannot predict.
    """
    ray = _ray()
    start = perf_counter()
    listed = list(images)
    if not listed:
        return
    begun = not ray.is_initialized()
    if begun:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        total = ray.cluster_resources()
        gpus, nodes = int(total.get("GPU", 0)), max(1, len([node for node in ray.nodes() if node["Alive"]]))
        use_gpu = gpus > 0 and options.device in (None, "cuda")
        workers = options.workers or (gpus if use_gpu else nodes)
        # a processor stays for Ray's own tasks where there are enough of them
        cpus = max(1, int(total.get("CPU", 1)) // (workers + (not use_gpu and workers < nodes)))
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        rows = [{"number": i, "image": pickle.dumps(image)} for i, image in enumerate(listed)]
        size = options.batch_size * _BLOCK
        source = ray.data.from_items(rows, override_num_blocks=max(1, -(-len(rows) // size)))
        results = source.map_batches(
            _Worker,
            fn_constructor_args=(options, changes, keep, None if use_gpu else cpus),
            batch_size=size,
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=None if use_gpu else cpus,
            num_gpus=1 if use_gpu else None,
            zero_copy_batch=True,
        )
        seconds = [0.0, 0.0]
        for count, row in enumerate(results.iter_rows()):
            if row["number"] != count:
                raise VanError(
                    f"Ray returned image {row['number']} where {count} was expected. Continue with --resume."
                )
            seconds = [seconds[0] + row["waited"], seconds[1] + row["spent"]]
            clock.spent = perf_counter() - start
            clock.waited = clock.spent * seconds[0] / max(seconds[1], 1e-9)  # the share of the processes
            yield str(listed[count]), None, pickle.loads(zlib.decompress(row["result"]))  # noqa: S301 - from our processes
    except ray.exceptions.RayError as error:
        raise VanError(f"A process of the Ray cluster has failed: {_cause(error)}") from error
    finally:
        if begun:
            ray.shutdown()


def _cause(error: Any) -> str:
    """Return what went wrong in a process, in one line."""
    while (inner := getattr(error, "cause", None) or error.__cause__) is not None and inner is not error:
        error = inner
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _ray() -> Any:
    """Return Ray, which reports nothing to its makers.

    Raises:
        VanError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it calls warnings errors
    try:
        import ray  # pyright: ignore[reportMissingImports]
        import ray.data  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise VanError("--cluster ray needs Ray: pip install 'visual-attention-network[ray]'") from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray
