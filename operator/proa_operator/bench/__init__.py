"""Load generation against OpenAI endpoints, and the latency metrics that come out of it."""
