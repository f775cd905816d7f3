"""From logits to tokens: sampler, grammars, stop strings."""
