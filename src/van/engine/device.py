"""Where networks compute."""

from typing import TYPE_CHECKING

from van.errors import VanError

if TYPE_CHECKING:
    import torch
    from torch import nn


def pick_device(device: "torch.device | str | None" = None) -> "torch.device":
    """Return a device that works.

    Args:
        device: Its name, such as cpu, cuda:1 or mps; None or "auto" takes a GPU if there is one.

    Raises:
        VanError: there is no such device on this machine.
    """
    import torch

    if device in (None, "auto"):
        available = torch.accelerator.current_accelerator(check_available=True)
        return available or torch.device("cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0]
        raise VanError(f"The device {str(device)!r} is not available on this machine ({reason}). Try cpu.") from error
    return chosen


def to_device(network: "nn.Module", device: "torch.device") -> "nn.Module":
    """Return a network on a device, in evaluation mode and channels_last memory."""
    import torch

    return network.to(memory_format=torch.channels_last).to(device).eval()
