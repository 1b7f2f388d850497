"""One seed for every random generator."""

import random

import numpy as np
import torch


def seed_everything(*numbers: int) -> None:
    """Seed Python's, NumPy's and PyTorch's global generators from the numbers, each 0 or greater."""
    python, numpy, pytorch = np.random.SeedSequence(numbers).generate_state(3).tolist()
    random.seed(python)
    np.random.seed(numpy)
    torch.manual_seed(pytorch)
