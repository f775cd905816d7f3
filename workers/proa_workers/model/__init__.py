"""Model code of the native engine (torch)."""
