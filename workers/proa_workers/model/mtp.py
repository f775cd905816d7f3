"""Multi-token prediction module of DeepSeek-V3 (arXiv:2412.19437, section 2.2): one more layer that drafts a token.

Legend: T tokens, M hidden, V vocabulary. The module's layer writes KV of its own, at layer index num_layers + depth.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from proa_workers.model.arms import Arms
from proa_workers.model.batch import Batch
from proa_workers.model.decoder import Decoder, DecoderLayer
from proa_workers.model.norm import RmsNorm
from proa_workers.model.paged import PagedKv
from proa_workers.model.source import WeightSource


@dataclass(frozen=True, slots=True, kw_only=True)
class MtpModule:
    embed_VM: torch.Tensor
    token_norm: RmsNorm
    hidden_norm: RmsNorm
    join: torch.Tensor
    layer: DecoderLayer
    norm: RmsNorm
    head_VM: torch.Tensor

    @classmethod
    def load(cls, decoder: Decoder, source: WeightSource, depth: int) -> MtpModule:
        """Module `depth` (0 = first); embeddings and head are the decoder's own where the file repeats them."""
        config = decoder.config
        index = config.num_layers + depth
        prefix, hidden, eps = f"model.layers.{index}", config.hidden_size, config.rms_norm_eps
        return cls(
            embed_VM=_own_or_shared(source, f"{prefix}.embed_tokens.weight", decoder.embed_VM),
            token_norm=RmsNorm.load(source, f"{prefix}.enorm", hidden, eps),
            hidden_norm=RmsNorm.load(source, f"{prefix}.hnorm", hidden, eps),
            join=source.take(f"{prefix}.eh_proj.weight", (hidden, 2 * hidden)),
            layer=DecoderLayer.load(config, source, index),
            norm=RmsNorm.load(source, f"{prefix}.shared_head.norm", hidden, eps),
            head_VM=_own_or_shared(source, f"{prefix}.shared_head.head.weight", decoder.head_VM),
        )

    def forward(
        self, hidden_TM: torch.Tensor, rotation: torch.Tensor, batch: Batch, kv: PagedKv, arms: Arms
    ) -> torch.Tensor:
        """Normed hidden states [T, M] whose `logits` predict the token after `batch.token_ids_T`.

        Row t joins `hidden_TM[t]`, the decoder's normed output at position p, with the embedding of the token at p + 1
        (`batch.token_ids_T[t]`), and sits at position p.
        """
        tokens_TM = self.token_norm.forward(self.embed_VM.index_select(0, batch.token_ids_T), arms)
        joined_TM = F.linear(torch.cat([tokens_TM, self.hidden_norm.forward(hidden_TM, arms)], 1), self.join)
        x_TM, delta_TM = self.layer.forward(joined_TM, None, rotation, batch, kv, arms)
        return self.norm.add(x_TM, delta_TM, arms)[0]

    def logits(self, hidden_TM: torch.Tensor) -> torch.Tensor:
        """float32 [T, V]."""
        return F.linear(hidden_TM, self.head_VM).float()


def _own_or_shared(source: WeightSource, name: str, shared_VM: torch.Tensor) -> torch.Tensor:
    if not source.has(name):
        return shared_VM
    own_VM = source.take(name, tuple(shared_VM.shape))
    return shared_VM if torch.equal(own_VM, shared_VM) else own_VM
