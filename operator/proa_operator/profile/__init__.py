"""`proa profile`: from a measured worker to a PerformanceProfile."""
