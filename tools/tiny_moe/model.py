"""DeepSeek-V3 for training: the same function as `transformers` computes, arranged for throughput.

Shapes: B sequences, S positions, T = B*S tokens, D hidden, H heads, N nope, R rope, V value head, E experts, F expert
width.
Every expert runs on every token as one wide matrix product and the gate's zeros drop the unchosen ones: at this size
that is faster than gathering tokens. Per-token parts (`project`, `combine`) see only (T, D), so `torch.compile` of them
fits every sequence length. Sources: DeepSeek-V3 report sections 2.1 (MLA, gate, bias) and 2.2 (MTP), YaRN section 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tools.tiny_moe.shape import Shape


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps) * self.weight).to(x.dtype)


def linear(inputs: int, outputs: int, gain: float = 1.0) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=gain * inputs**-0.5)
    return layer


def yarn_frequencies(shape: Shape) -> Tensor:
    """(R/2,) float32 angles per position: slow pairs divided by the factor, fast ones kept, a linear ramp between."""

    def correction(rotations: float) -> float:
        ratio = shape.original_max_length / (rotations * 2 * math.pi)
        return shape.qk_rope_head_dim * math.log(ratio) / (2 * math.log(shape.rope_theta))

    low, high = (
        max(math.floor(correction(shape.beta_fast)), 0),
        min(math.ceil(correction(shape.beta_slow)), shape.qk_rope_head_dim - 1),
    )
    pairs = torch.arange(shape.qk_rope_head_dim // 2, dtype=torch.float32)
    plain = shape.rope_theta ** (-2 * pairs / shape.qk_rope_head_dim)
    ramp = ((pairs - low) / max(high - low, 0.001)).clamp(0, 1)
    return plain / shape.rope_factor * ramp + plain * (1 - ramp)


def rotate(x: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
    """Rotate interleaved pairs of (T, heads, R); the result's even parts come first, as in `transformers`."""
    even, odd = x[..., 0::2].float(), x[..., 1::2].float()
    cos, sin = cos_TR[:, None], sin_TR[:, None]
    return torch.cat((even * cos - odd * sin, odd * cos + even * sin), dim=-1).to(x.dtype)


class Attention(nn.Module):
    """Multi-head latent attention."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        heads = shape.num_heads
        self.q_a_proj = linear(shape.hidden_size, shape.q_lora_rank)
        self.q_a_layernorm = RMSNorm(shape.q_lora_rank, shape.norm_eps)
        self.q_b_proj = linear(shape.q_lora_rank, heads * shape.qk_head_dim)
        self.kv_a_proj_with_mqa = linear(shape.hidden_size, shape.kv_lora_rank + shape.qk_rope_head_dim)
        self.kv_a_layernorm = RMSNorm(shape.kv_lora_rank, shape.norm_eps)
        self.kv_b_proj = linear(shape.kv_lora_rank, heads * (shape.qk_nope_head_dim + shape.v_head_dim))
        self.o_proj = linear(heads * shape.v_head_dim, shape.hidden_size, gain=(2 * shape.num_layers) ** -0.5)

    def project(self, x_TD: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys (T, H, N+R), values (T, H, V)."""
        shape, tokens = self.shape, x_TD.shape[0]
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x_TD))).view(tokens, shape.num_heads, -1)
        q_nope, q_rope = q.split((shape.qk_nope_head_dim, shape.qk_rope_head_dim), dim=-1)
        latent, k_rope = self.kv_a_proj_with_mqa(x_TD).split((shape.kv_lora_rank, shape.qk_rope_head_dim), dim=-1)
        kv = self.kv_b_proj(self.kv_a_layernorm(latent)).view(tokens, shape.num_heads, -1)
        k_nope, v = kv.split((shape.qk_nope_head_dim, shape.v_head_dim), dim=-1)
        k_rope = rotate(k_rope[:, None], cos_TR, sin_TR).expand(-1, shape.num_heads, -1)
        q = torch.cat((q_nope, rotate(q_rope, cos_TR, sin_TR)), dim=-1)
        return q, torch.cat((k_nope, k_rope), dim=-1), v.contiguous()


def attend(q: Tensor, k: Tensor, v: Tensor, batch: int, scale: float) -> Tensor:
    """Causal attention within each of `batch` equal sequences; (T, H, *) in, (T, H*V) out."""
    q, k, v = (x.view(batch, -1, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    return mixed.transpose(1, 2).reshape(-1, mixed.shape[1] * mixed.shape[3])


class DenseMlp(nn.Module):
    def __init__(self, shape: Shape, width: int) -> None:
        super().__init__()
        self.gate_proj = linear(shape.hidden_size, width)
        self.up_proj = linear(shape.hidden_size, width)
        self.down_proj = linear(width, shape.hidden_size, gain=(2 * shape.num_layers) ** -0.5)

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor | None]:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x_TD)) * self.up_proj(x_TD))
        return out, None


class MoeMlp(nn.Module):
    """Routed experts plus one shared expert; the experts' matrices lie one after the other along E*F."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        wide = shape.num_experts * shape.moe_intermediate_size
        self.router = nn.Parameter(torch.randn(shape.num_experts, shape.hidden_size) * shape.hidden_size**-0.5)
        self.bias = nn.Buffer(torch.zeros(shape.num_experts))
        self.gate_proj = linear(shape.hidden_size, wide)
        self.up_proj = linear(shape.hidden_size, wide)
        self.down_proj = linear(wide, shape.hidden_size, gain=(shape.num_experts / (2 * shape.num_layers)) ** 0.5)
        self.shared = DenseMlp(shape, shape.moe_intermediate_size)

    def route(self, x_TD: Tensor) -> Tensor:
        """(T, E) float32 weights, zero for unchosen experts. The bias chooses but does not weigh."""
        shape = self.shape
        with torch.autocast(x_TD.device.type, enabled=False):
            scores = F.linear(x_TD.float(), self.router.float()).sigmoid()
        choice = scores.detach() + self.bias
        grouped = choice.view(-1, shape.num_groups, shape.num_experts // shape.num_groups)
        best_groups = grouped.topk(2, dim=-1)[0].sum(-1).topk(shape.top_groups, dim=-1)[1]
        allowed = torch.zeros_like(grouped[..., 0]).scatter(1, best_groups, 1.0)[..., None].expand_as(grouped)
        chosen = choice.masked_fill(allowed.reshape_as(choice) == 0, -math.inf).topk(shape.top_k, dim=-1)[1]
        picked = scores.gather(1, chosen)
        weights = picked / (picked.sum(-1, keepdim=True) + 1e-20) * shape.routed_scaling_factor
        return torch.zeros_like(scores).scatter(1, chosen, weights)

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor | None]:
        """The layer's output (T, D) and how many tokens chose each expert (E,)."""
        weights_TE = self.route(x_TD)
        hidden = F.silu(self.gate_proj(x_TD)) * self.up_proj(x_TD)
        hidden = hidden.view(-1, self.shape.num_experts, self.shape.moe_intermediate_size) * weights_TE[..., None].to(
            hidden.dtype
        )
        return self.down_proj(hidden.flatten(1)) + self.shared(x_TD)[0], (weights_TE.detach() > 0).sum(0)


class DecoderLayer(nn.Module):
    def __init__(self, shape: Shape, *, is_dense: bool) -> None:
        super().__init__()
        self.scale = shape.softmax_scale
        self.input_layernorm = RMSNorm(shape.hidden_size, shape.norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RMSNorm(shape.hidden_size, shape.norm_eps)
        self.mlp: nn.Module = DenseMlp(shape, shape.intermediate_size) if is_dense else MoeMlp(shape)

    def project(self, x_TD: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.self_attn.project(self.input_layernorm(x_TD), cos, sin)

    def combine(self, x_TD: Tensor, mixed: Tensor) -> tuple[Tensor, Tensor | None]:
        x_TD = x_TD + self.self_attn.o_proj(mixed)
        out, load = self.mlp(self.post_attention_layernorm(x_TD))
        return x_TD + out, load

    def forward(self, x_TD: Tensor, cos: Tensor, sin: Tensor, batch: int) -> tuple[Tensor, Tensor | None]:
        return self.combine(x_TD, attend(*self.project(x_TD, cos, sin), batch, self.scale))


class MtpLayer(nn.Module):
    """Predicts the token after the next from the trunk's normed output and the next token's embedding."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.enorm = RMSNorm(shape.hidden_size, shape.norm_eps)
        self.hnorm = RMSNorm(shape.hidden_size, shape.norm_eps)
        self.eh_proj = linear(2 * shape.hidden_size, shape.hidden_size)
        self.layer = DecoderLayer(shape, is_dense=False)
        self.norm = RMSNorm(shape.hidden_size, shape.norm_eps)

    def merge(self, next_embedding_TD: Tensor, trunk_TD: Tensor) -> Tensor:
        return self.eh_proj(torch.cat((self.enorm(next_embedding_TD), self.hnorm(trunk_TD)), dim=-1))  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Final normed states (T, D) of the trunk and of the MTP layer, and the token counts (E,) of each MoE layer."""

    trunk: Tensor
    mtp: Tensor
    loads: list[Tensor]


class TinyMoe(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        nn.init.normal_(self.embed_tokens.weight, std=0.2)
        self.layers = nn.ModuleList(
            DecoderLayer(shape, is_dense=i < shape.num_dense_layers) for i in range(shape.num_layers)
        )
        self.norm = RMSNorm(shape.hidden_size, shape.norm_eps)
        self.mtp = MtpLayer(shape)
        self.lm_head = linear(shape.hidden_size, shape.vocab_size, gain=0.3)
        angles = torch.outer(torch.arange(shape.max_length, dtype=torch.float32), yarn_frequencies(shape))
        self.cos = nn.Buffer(angles.cos(), persistent=False)
        self.sin = nn.Buffer(angles.sin(), persistent=False)

    def moe_layers(self) -> list[MoeMlp]:
        """Trunk first, the MTP layer last; the order of `Output.loads`."""
        layers: list[nn.Module] = [*self.layers, self.mtp.layer]
        return [layer.mlp for layer in layers if isinstance(layer.mlp, MoeMlp)]

    def forward(self, ids_BS: Tensor) -> Output:
        """`Output` of token ids [B, S]; T is B * S, sequence by sequence."""
        batch, positions = ids_BS.shape
        cos, sin = self.cos[:positions].repeat(batch, 1), self.sin[:positions].repeat(batch, 1)
        embedded = self.embed_tokens(ids_BS)
        x, loads = embedded.flatten(0, 1), []
        for layer in self.layers:
            x, load = layer(x, cos, sin, batch)
            loads += [load] if load is not None else []
        trunk = self.norm(x)
        # The last position has no next token: it repeats the first, and its prediction is never used.
        following = embedded.roll(-1, dims=1).flatten(0, 1)
        draft, load = self.mtp.layer(self.mtp.merge(following, trunk), cos, sin, batch)
        return Output(trunk=trunk, mtp=self.mtp.norm(draft), loads=[*loads, load])
