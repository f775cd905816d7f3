"""Prompt text of a wanted token count, without the server's tokenizer. Pure.

The text is common English words. How many tokens a word costs is measured at the endpoint with two probe requests
(`fit_density`); what a prompt really cost is then read from the server's usage numbers, never assumed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from proa_operator.bench.workload import PromptSpan, RequestPlan

# Short, frequent words: most byte-pair tokenizers spend one token on each.
_TEXT = (
    "the of and to in that was he it his is with as for had you not be her on at by which have or from this him but "
    "all she they were my are me one their so an said them we who would been will no when there if more out up into "
    "do any your what has man could other than our some very time upon about may its only now like little then can "
    "made should did us such great before must two these see know over much down after first good men own never most "
    "old day where way those make well long come came back hand take might place went life still every house found "
    "while world here being under work part head eyes last same thing night again look right think say let people"
)
WORDS = tuple(_TEXT.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenDensity:
    """Tokens that a prompt costs: `template_tokens + tokens_per_word * words`."""

    tokens_per_word: float
    template_tokens: float

    def num_words(self, num_tokens: float) -> int:
        return max(1, round(num_tokens / self.tokens_per_word))


def fit_density(short: tuple[int, int], long: tuple[int, int]) -> TokenDensity:
    """The line through two probes, each (words sent, prompt tokens reported).

    Raises ValueError when more words did not cost more tokens: the server's usage numbers are wrong.
    """
    words, tokens = long[0] - short[0], long[1] - short[1]
    if tokens <= 0:
        raise ValueError(f"{long[0]} words cost {long[1]} prompt tokens, {short[0]} words cost {short[1]}")
    slope = tokens / words
    return TokenDensity(tokens_per_word=slope, template_tokens=max(0.0, short[1] - slope * short[0]))


def words(num_words: int, seed: list[int]) -> str:
    """`num_words` words that depend on `seed` alone."""
    picks = np.random.default_rng(seed).integers(len(WORDS), size=num_words)
    return " ".join(WORDS[pick] for pick in picks)


def prompt_text(plan: RequestPlan, density: TokenDensity, seed: int) -> str:
    """The prompt of `plan`, about `plan.input_tokens` tokens long with the chat template included.

    The template's share is taken from the last span, so that shared spans in front stay equal between requests.
    """
    *front, last = plan.spans
    shortened = max(1.0, last.num_tokens - density.template_tokens)
    texts = [_span_text(span, density.num_words(span.num_tokens), seed) for span in front]
    return " ".join([*texts, _span_text(last, density.num_words(shortened), seed)])


def _span_text(span: PromptSpan, num_words: int, seed: int) -> str:
    return words(num_words, [seed, *span.key])
