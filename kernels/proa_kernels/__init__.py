"""Proa kernels: MoE and KV kernels, each beside its reference."""
