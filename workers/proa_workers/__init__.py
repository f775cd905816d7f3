"""Proa data plane: gRPC worker, engines, KV transfer."""
