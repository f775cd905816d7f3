"""Proa data plane: gRPC worker, engines, KV transfer."""

from importlib.metadata import version

__version__ = version("proa")
