"""A LLaMA decoder, plain or under masks, written to be fast in eager PyTorch.

Parameters have the names of transformers' LlamaForCausalLM without its prefix `model.`. Masked, it computes what
Sheared-LLaMA's masked model does with the embedding masked too: R = { j : h_j != 0 }, per layer

    v = (1/|R|) sum_{j in R} x_j^2        norm(x) = h w x (v + eps)^(-1/2)
    x = x + z_layer h (concat_i(z_head,i c_i) Wo^T)
    x = x + z_layer h ((silu(b Wg^T) (b Wu^T) z_int) Wd^T)

What makes the masks cheap:
- every gate beside a matrix is folded into the matrix or the norm weight, whose size does not grow with the tokens:
  rows and columns of Wo and Wd, and h w;
- embedding and residual writes carry h, so x is 0 outside R and the mean over R is the sum over all dimensions / |R|:
  no indexing, no `where`, and |R| is counted once per forward.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from masks import Gates


class Norm(nn.Module):
    def __init__(self, size, eps, device):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size, device=device))
        self.eps = eps

    def forward(self, x, hidden):
        """`x [.., D]`; statistics in fp32, result of x's type."""
        weight = self.weight if hidden is None else self.weight * hidden.gate
        weight = weight.to(x.dtype)
        count = weight.numel() if hidden is None else hidden.count
        if fused_norm(x):  # divides by D: changing w and eps turns that into a division by |R|
            ratio = count / weight.numel()
            return F.rms_norm(x, weight.shape, weight * ratio**0.5, self.eps * ratio)
        # Elsewhere that function is composed and slower; a vector norm reads x once and stores no squares.
        mean = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square() / count
        return x * torch.rsqrt(mean + self.eps).to(x.dtype) * weight


def fused_norm(x):
    """Eager CUDA has a fused norm; a compiled one is fused anyway."""
    return x.is_cuda and not torch.compiler.is_compiling()


class Hidden:
    """The hidden gates of one forward and |R|, counted once."""

    def __init__(self, gate):
        self.gate = gate
        self.count = torch.count_nonzero(gate.detach()).clamp(min=1)
        if fused_norm(gate):  # takes eps as a number: the only synchronisation of a forward
            self.count = self.count.item()


class Attention(nn.Module):
    def __init__(self, shape, device):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = shape.heads, shape.kv_heads, shape.head_dim
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden, queries, bias=False, device=device)
        self.k_proj = nn.Linear(shape.hidden, keys, bias=False, device=device)
        self.v_proj = nn.Linear(shape.hidden, keys, bias=False, device=device)
        self.o_proj = nn.Linear(queries, shape.hidden, bias=False, device=device)

    def forward(self, x, rope, gates):
        rows, tokens, _ = x.shape
        query = rotate(self.q_proj(x).view(rows, tokens, self.heads, self.head_dim), rope)
        key = rotate(self.k_proj(x).view(rows, tokens, self.kv_heads, self.head_dim), rope)
        value = self.v_proj(x).view(rows, tokens, self.kv_heads, self.head_dim)
        query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        grouped = self.heads != self.kv_heads
        heads = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=grouped)
        heads = heads.transpose(1, 2).reshape(rows, tokens, -1)
        columns = None if gates.head is None else gates.head.repeat_interleave(self.head_dim)
        return F.linear(heads, fold(self.o_proj.weight, gates.output, columns))


class Mlp(nn.Module):
    def __init__(self, shape, device):
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False, device=device)
        self.up_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False, device=device)
        self.down_proj = nn.Linear(shape.intermediate, shape.hidden, bias=False, device=device)

    def forward(self, x, gates):
        inner = F.silu(self.gate_proj(x)) * self.up_proj(x)
        return F.linear(inner, fold(self.down_proj.weight, gates.output, gates.intermediate))


def fold(weight, rows, columns):
    """`weight [M, N]` with its rows and columns multiplied by gates `[M]`, `[N]`, where they exist."""
    if rows is not None and columns is not None:
        return weight * torch.outer(rows, columns)
    if rows is not None:
        return weight * rows[:, None]
    return weight if columns is None else weight * columns


def rotate(x, rope):
    """Rotary embedding ("rotate half") of `x [B, T, H, E]`."""
    cos, sin = rope
    first, second = x.chunk(2, dim=-1)
    return torch.addcmul(x * cos, torch.cat((-second, first), dim=-1), sin)


class LayerGates:
    """Gates of one layer in the form its matrices need; all None without masks."""

    def __init__(self, gates, layer, shape):
        layer_gate = None if gates.layer is None else gates.layer[layer]
        outputs = [gate for gate in (gates.hidden, layer_gate) if gate is not None]
        self.output = torch.mul(*outputs) if len(outputs) == 2 else (outputs[0] if outputs else None)
        if self.output is not None and self.output.dim() == 0:
            self.output = self.output.expand(shape.hidden)
        self.head = head_gates(gates, layer, shape)
        self.intermediate = None if gates.intermediate is None else gates.intermediate[layer]


def head_gates(gates, layer, shape):
    """`[H]`: head k G + g has kv_head[k] query_head[g]; None without either."""
    if gates.kv_head is None and gates.query_head is None:
        return None
    groups = gates.kv_head[layer][:, None] if gates.kv_head is not None else 1.0
    places = gates.query_head[layer][None, :] if gates.query_head is not None else 1.0
    return (groups * places).expand(shape.kv_heads, shape.group).reshape(-1)


class Block(nn.Module):
    def __init__(self, shape, eps, device):
        super().__init__()
        self.input_layernorm = Norm(shape.hidden, eps, device)
        self.self_attn = Attention(shape, device)
        self.post_attention_layernorm = Norm(shape.hidden, eps, device)
        self.mlp = Mlp(shape, device)

    def forward(self, x, rope, hidden, gates):
        x = x + self.self_attn(self.input_layernorm(x, hidden), rope, gates)
        return x + self.mlp(self.post_attention_layernorm(x, hidden), gates)


class Decoder(nn.Module):
    """`forward(ids [B, T], gates)` gives logits `[B, T, V]`. Under autocast the residual stream is bf16 as well."""

    def __init__(self, shape, eps=1e-5, theta=10000.0, device="cpu"):
        super().__init__()
        self.shape = shape
        self.checkpointing = False
        self.embed_tokens = nn.Embedding(shape.vocab, shape.hidden, device=device)
        self.layers = nn.ModuleList(Block(shape, eps, device) for _ in range(shape.layers))
        self.norm = Norm(shape.hidden, eps, device)
        self.lm_head = nn.Linear(shape.hidden, shape.vocab, bias=False, device=device)
        self.theta = theta
        self.rope = {}
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0.0, 0.02)

    def rope_tables(self, tokens, dtype, device):
        """cos and sin `[T, 1, E]`: computed in fp32 once, then kept."""
        key = (tokens, dtype, device)
        if key not in self.rope:
            size = self.shape.head_dim
            frequencies = self.theta ** -(torch.arange(0, size, 2, dtype=torch.float32, device=device) / size)
            angles = torch.outer(torch.arange(tokens, dtype=torch.float32, device=device), frequencies)
            angles = torch.cat((angles, angles), dim=-1)[:, None, :]
            self.rope[key] = (angles.cos().to(dtype), angles.sin().to(dtype))
        return self.rope[key]

    def forward(self, ids, gates=None):
        gates = Gates() if gates is None else gates
        hidden = None if gates.hidden is None else Hidden(gates.hidden)
        x = self.embed_tokens(ids)
        if hidden is not None:
            x = x * hidden.gate
        if torch.is_autocast_enabled(ids.device.type):
            x = x.to(torch.get_autocast_dtype(ids.device.type))
        rope = self.rope_tables(ids.shape[1], x.dtype, ids.device)
        for index, layer in enumerate(self.layers):
            arguments = (x, rope, hidden, LayerGates(gates, index, self.shape))
            x = checkpoint(layer, *arguments, use_reentrant=False) if self.checkpointing else layer(*arguments)
        return self.lm_head(self.norm(x, hidden))


def next_token_loss(logits, ids):
    """Mean cross entropy of predicting token t+1 from position t, over full fp32 logits as transformers does it."""
    targets = F.pad(ids[:, 1:], (0, 1), value=-100)
    return F.cross_entropy(logits.float().view(-1, logits.shape[-1]), targets.reshape(-1), ignore_index=-100)
