"""`van complexity`."""

from van.cli.selecting import report


def run(arguments: list[str]) -> int:
    """Run van.analysis.complexity, and print its report."""
    return report(arguments, "complexity", optional="model")
