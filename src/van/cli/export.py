"""`van export`."""

from van.cli import evaluate


def run(arguments: list[str]) -> int:
    """Write trained weights in a format that other software runs; see van.export."""
    first = arguments[:1] if arguments and not arguments[0].startswith("-") else []
    return evaluate.run([*(["--weights", *first] if first else []), *arguments[len(first) :]], "export")
