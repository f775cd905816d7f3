"""The fabric between the pools: transfers share it evenly, none is faster than one link."""

from __future__ import annotations

from proa_operator.simulate.shared import Shared


class Fabric(Shared):
    """Rate is bytes a second of each transfer: min(link, fabric / transfers), times the fault's factor."""

    __slots__ = ("_fabric", "_link", "factor")

    def __init__(self, *, link_bytes_per_second: float, fabric_bytes_per_second: float) -> None:
        super().__init__()
        self._link = link_bytes_per_second
        self._fabric = fabric_bytes_per_second
        self.factor = 1.0

    def retime(self) -> None:
        self.generation += 1
        num_transfers = max(1, len(self.ends))
        self.rate = self.factor * min(self._link, self._fabric / num_transfers)
