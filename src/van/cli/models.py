"""`van models`."""

from van.cli.selecting import report


def run(arguments: list[str]) -> int:
    """Run van.analysis.models, and print its report."""
    return report(arguments, "models")
