"""`van serve`."""

from van.cli import evaluate


def run(arguments: list[str]) -> int:
    """Answer requests with images over HTTP; see van.serve."""
    return evaluate.run(arguments, "serve")
