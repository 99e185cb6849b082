"""`van predict`."""

from van.cli import evaluate


def run(arguments: list[str]) -> int:
    """Run a model on images; see van.load."""
    return evaluate.run(arguments, "predict")
