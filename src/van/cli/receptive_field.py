"""`van receptive-field`."""

from van.cli.selecting import report


def run(arguments: list[str]) -> int:
    """Run van.analysis.receptive_field, and print its report."""
    return report(arguments, "receptive-field")
