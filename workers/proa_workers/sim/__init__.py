"""Simulated engine: cost model and deterministic tokens, without torch."""
