import sys

import pytest
import torch

from align_iqa_plugin.runtime.memory import PeakMemory

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='the memory of a process is read as Linux tells it')


def test_memory_that_the_allocator_keeps_from_an_earlier_call_does_not_count():
    torch.ones(7_500_000)  # once this is freed, glibc takes blocks of up to 30 MB from its heap, and keeps them
    blocks = [torch.ones(1_000_000) for _ in range(225)]
    above = [bytes(1000) for _ in range(1000)]
    del blocks
    memory = PeakMemory(torch.device('cpu'))
    torch.ones(50_000_000)  # fits into what was freed
    memory.restart()
    torch.ones(25_000_000)
    peak = memory.read()
    assert len(above) == 1000
    assert peak is not None and 95 < peak < 115
