"""`proa up`: a DisaggregatedService as processes on this machine, without Kubernetes."""
