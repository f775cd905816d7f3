"""Timing of the benchmarks: the one of `proa-kernels tune`, so that a table and a benchmark measure the same."""

from proa_kernels.timing import Ceilings, Launch, Timing, measure_ceilings, time_launches

__all__ = ["Ceilings", "Launch", "Timing", "measure_ceilings", "time_launches"]
