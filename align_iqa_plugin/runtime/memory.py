"""The peak of the memory that something needs, and how much there is."""

import ctypes
import gc
import sys
from pathlib import Path

import torch


class PeakMemory:
    """Memory in MB (10^6 bytes), counted from when this is made: make it before what is to be measured is loaded.

    On a GPU it is what torch allocates there; on the CPU the growth of the process (Linux only, elsewhere it is not known).
    """

    def __init__(self, device: torch.device):
        self.device = device
        gc.collect()
        if device.type == 'cuda':
            torch.cuda.empty_cache()
            self._before: float | None = torch.cuda.memory_allocated(device)
        else:
            _return_freed_memory()  # what is reused would not count as growth
            self._before = _resident('VmRSS')

    def restart(self) -> None:
        """Forget the peak so far."""
        if self.device.type == 'cuda':
            torch.cuda.reset_peak_memory_stats(self.device)
        elif self._before is not None:
            _return_freed_memory()  # what an earlier call needed would count as growth
            try:
                Path('/proc/self/clear_refs').write_text('5')
            except OSError:  # not everywhere allowed
                self._before = None

    def read(self) -> float | None:
        """The peak since `restart`, None where it is not known."""
        if self._before is None:
            return None
        if self.device.type == 'cuda':
            return (torch.cuda.max_memory_allocated(self.device) - self._before) / 1e6
        peak = _resident('VmHWM')
        return None if peak is None else max(0.0, peak - self._before)


def available_mb() -> float | None:
    """What the machine can still give to its processes, in MB, as Linux tells it; elsewhere it is not known."""
    try:
        return float(Path('/proc/meminfo').read_text().split('MemAvailable:')[1].split()[0]) * 1024 / 1e6
    except (OSError, IndexError):
        return None


def _return_freed_memory() -> None:
    """Have the C library return to the system what it keeps for reuse."""
    if sys.platform == 'linux' and hasattr(libc := ctypes.CDLL(None), 'malloc_trim'):
        libc.malloc_trim(0)


def _resident(line: str) -> float | None:
    try:
        return float(Path('/proc/self/status').read_text().split(f'{line}:')[1].split()[0]) * 1024 / 1e6
    except (OSError, IndexError):
        return None
