"""Host arrays to the device."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def upload(host: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    """Copy to the device without waiting for it: pageable memory would make the copy synchronous."""
    tensor = torch.from_numpy(host)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def place(columns: npt.NDArray[np.float64], logits_RV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Device copies of (row index, token id, further columns) from a host array of shape columns x edits."""
    assert columns[1].min() >= 0, f"token id {columns[1].min()} in an edit"
    assert columns[1].max() < logits_RV.shape[1], f"token id {columns[1].max()} of {logits_RV.shape[1]} in an edit"
    placed = upload(columns, logits_RV.device)
    return placed[0].long(), placed[1].long(), placed[2:].float()
