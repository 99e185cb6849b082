"""Run the command line as `python -m van`."""

import sys

from van.cli import main

if __name__ == "__main__":
    sys.exit(main())
