"""Pure core of a worker: requests, blocks, scheduler, leases. No torch, no grpc, no asyncio."""
