"""`van explain`."""

from van.cli.selecting import report


def run(arguments: list[str]) -> int:
    """Run van.analysis.explain, and print its report."""
    return report(arguments, "explain")
