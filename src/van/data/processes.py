"""What goes wrong in loading processes, as one sentence."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from van.errors import DataError, VanError

# the causes by the signal that ended a loading process
_CAUSES = {
    "Killed": "The system kills processes where memory runs out",
    "Bus error": "That happens where shared memory runs out; a container needs more with --shm-size",
}
_DIED = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) (?:is killed by signal: (?P<signal>[\w ]+)|exited unexpectedly"
    r"(?: with exit code (?P<code>-?\d+))?)"
)


@contextmanager
def loading_errors() -> Iterator[None]:
    """Inside the block, turn what a data loader raises about its processes into errors of one sentence.

    Raises:
        DataError: a loading process has died.
        VanError: the error of a loading process, without the traceback that PyTorch wraps it in.
    """
    try:
        yield
    except VanError as error:
        text = str(error)
        if "Original Traceback" not in text:
            raise
        raise type(error)(text.rpartition(f"{type(error).__name__}: ")[2].strip()) from None
    except RuntimeError as error:
        # the cause may say more: PyTorch finds a process dead while it handles that signal
        texts = [str(one) for one in (error.__cause__, error) if one is not None]
        died = next((match for text in texts if (match := _DIED.search(text))), None)
        if died is None:
            raise
        how = f"was ended by the signal {died['signal']!r}" if died["signal"] else "ended unexpectedly"
        if died["code"]:
            how += f" with exit code {died['code']}"
        cause = _CAUSES.get(died["signal"] or "", "A library that decodes images may have crashed")
        raise DataError(
            f"A loading process {how}. {cause}. Try fewer processes with --workers, or a smaller --batch-size; "
            "--workers 0 loads in the main process and shows which image it stops at."
        ) from None
