"""Proa control plane: API types, planning, local mode, command line."""
