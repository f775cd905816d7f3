"""KV blocks in memory and between workers: layout, memory, transports, hand-off."""
