"""The accelerator that a pod asks for; a service without one runs on CPUs."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from proa_operator.api.noun import Noun, Positive


class Partition(StrEnum):
    """Compute partition of an AMD Instinct GPU: one GPU shows up as 1 (SPX), 2 (DPX), 4 (QPX) or 8 (CPX) devices."""

    SPX = "SPX"
    DPX = "DPX"
    QPX = "QPX"
    CPX = "CPX"


class Accelerator(Noun):
    """Product, partition and number of GPUs in each pod."""

    product: Annotated[str, Field(min_length=1)]
    """Product name, such as MI300X or MI355X."""
    partition: Partition = Partition.SPX
    """Compute partition of each GPU."""
    resource_name: str = "amd.com/gpu"
    """Extended resource that the device plugin offers."""
    rdma_resource_name: Annotated[str, Field(pattern=r"^([a-z0-9.-]+/[A-Za-z0-9_.-]+)?$")] = ""
    """Extended resource of an RDMA device for security.profile Rdma, such as amd.com/nic; empty takes the chart's."""
    gpus_per_pod: Positive = 8
    """Devices in one pod, counted after partitioning."""
