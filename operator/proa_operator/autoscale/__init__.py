"""The autoscaler's decisions. Pure: no clock, no I/O; the same inputs give the same decision, bit for bit."""
