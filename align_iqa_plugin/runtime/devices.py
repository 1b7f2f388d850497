"""Devices by the names that people give them."""

import os
import platform
import sys
from pathlib import Path


def usable_device(name: str | None):
    """The torch.device of this name; without one the GPU if there is one, else the CPU.

    Raises:
        ValueError: it cannot be used; the message says why.
    """
    import torch

    from align_iqa_plugin.runtime.errors import reason_of

    name = name or ('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    # torch has no one exception for this: an unknown name, no driver and a torch without CUDA raise three kinds.
    except Exception as error:
        raise ValueError(f"the device '{name}' cannot be used: {reason_of(error)}") from error
    return device


def processor_name() -> str:
    """This machine's processor in words: how many cores of what."""
    name = platform.processor() or platform.machine()
    if sys.platform == 'linux':
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        name = next((line.partition(':')[2].strip() for line in lines if line.startswith('model name')), name)
    return f'{os.cpu_count()} cores of {name}'
