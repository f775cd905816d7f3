"""What Proa needs of a cluster and of a machine, checked; every finding says how to fix it."""
