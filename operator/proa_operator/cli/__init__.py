"""The command line `proa`."""
