"""`van label`."""

from van.cli import evaluate


def run(arguments: list[str]) -> int:
    """Write what a model finds on images as labels; see van.label."""
    return evaluate.run(arguments, "label")
