"""Devices by the names that people give them."""


def usable_device(name: str | None):
    """The torch.device of this name; without one the GPU if there is one, else the CPU.

    Raises:
        ValueError: it cannot be used; the message says why.
    """
    import torch

    from align_iqa_plugin.reasons import reason_of

    name = name or ('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    # torch has no one exception for this: an unknown name, no driver and a torch without CUDA raise three kinds.
    except Exception as error:
        raise ValueError(f"the device '{name}' cannot be used: {reason_of(error)}") from error
    return device
