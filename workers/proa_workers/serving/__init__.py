"""gRPC surface of a worker."""
