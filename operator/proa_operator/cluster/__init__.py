"""The shell around the pure planner: watch streams, cache, queue, writes, election, workers."""
