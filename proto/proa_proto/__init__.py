"""Proa protocol: protobuf files and their generated code."""
