"""Discrete-event model of a service with a prefill and a decode pool: where autoscalers are tried before they act.

Pure: virtual time, seeded draws, no network, no tensors. `run.simulate` is the model, `policies/` holds what is tried,
`suite` says on what and how it is judged.
"""
