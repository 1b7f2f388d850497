"""Hashes of weights: by which frozen parts are recognised, and by which a score says what it was computed with."""

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors and their names, whatever their order and device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def weights_digest(network: torch.nn.Module) -> str:
    """SHA-256 of the network's tensors with their names, also of those that modules keep as plain attributes."""
    tensors = dict(network.state_dict())
    for name, module in network.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, Tensor) or isinstance(value, np.ndarray) and value.dtype.kind in 'biufc':
                tensors[f'{name}.{key}'] = torch.as_tensor(value)
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}\n'.encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else b'')
    return digest.hexdigest()
