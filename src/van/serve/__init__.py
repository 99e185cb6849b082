"""An HTTP service that runs a predictor: `van serve`."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from van.engine.options import ServeOptions
from van.errors import VanError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from van.engine.predictor import Predictor

__all__ = ["ServeOptions", "create_app", "serve"]


def create_app(load: "Callable[[], Predictor]", options: ServeOptions) -> "FastAPI":
    """Return the service as an ASGI application, which any ASGI server can run.

    Args:
        load: Returns the predictor; called in the thread that computes, while requests are answered with 503.
        options: Of the service; host, port and quiet are up to the server.

    Raises:
        VanError: a package of the extra `serve` is missing, an option is out of range, or the file with the API key
            cannot be used.
    """
    try:
        from van.serve.app import create
    except ImportError as error:
        raise VanError(
            f"The service needs the extra serve: pip install 'visual-attention-network[serve]' ({error})."
        ) from error
    return create(load, options)


def serve(options: ServeOptions, changes: dict[str, Any]) -> int:
    """Load weights and answer requests until SIGTERM or Ctrl-C: what `van serve` does.

    Args:
        options: Of the service.
        changes: Options of inference that differ from those in the weight file.

    Returns:
        Exit status.

    Raises:
        VanError: see create_app; or the weights cannot be used, or the port is taken.
    """
    from van.engine.api import load

    def loaded() -> "Predictor":
        return load(options.weights, options.device, options.max_batch, options.engine, options.precision, **changes)

    app = create_app(loaded, options)
    from van.serve.server import run

    return run(app, options)
