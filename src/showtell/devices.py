"""What to compute on."""

from __future__ import annotations

import torch

from showtell.errors import DataError


def choose_device(wanted: str | torch.device | None) -> torch.device:
    """The device that `wanted` names, or for None a GPU if there is one; `DataError` for one that cannot be used."""
    if wanted is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        if device.type not in ("cpu", "cuda", "mps", "xpu"):
            raise RuntimeError
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):  # AssertionError where torch was built without it
        raise DataError(
            f"device '{wanted}' cannot be used here; expected cpu, or, where there is one, e.g. cuda, cuda:1 or mps"
        ) from None
    return device
