"""Engines: one Protocol, the loop that drives it, and its implementations."""
