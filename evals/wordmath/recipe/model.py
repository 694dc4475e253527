"""A small Qwen3.5-MoE text model; parameters carry the names of the Hugging Face checkpoint layout.

Shapes in the comments: B sequences, T tokens, H hidden size, E experts, I expert width; Hk and Hv
key and value heads of the linear attention, Dk and Dv their widths.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F


def normalized(x, eps):
    """x / rms(x) over the last dimension."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def l2_normalized(x):
    """x / |x| over the last dimension."""
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6)


class RMSNorm(nn.Module):
    """Root-mean-square norm whose weight is stored as its difference from one."""

    def __init__(self, dim, eps=1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(dim))

    def forward(self, x):
        return (normalized(x.float(), self.eps) * (1.0 + self.weight)).type_as(x)


class GatedNorm(nn.Module):
    """Root-mean-square norm gated by silu(z); its weight is stored as it is."""

    def __init__(self, dim, eps=1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x, z):
        return (self.weight * normalized(x.float(), self.eps) * F.silu(z.float())).type_as(z)


def delta_rule(q, k, v, g, beta, chunk=64):
    """The gated delta rule, a chunk of tokens at a time.

    Token by token it is S = exp(g) S, S += k beta (v - k S), out = q S with a state S [Dk, Dv] a
    head. Within a chunk the corrections solve a unit lower triangular system, inverted here by the
    product (I + N)(I + N^2)(I + N^4)…, which ends because N is nilpotent.

    q, k [B, T, Hk, Dk]; v [B, T, Hv, Dv]; g, beta [B, T, Hv]; all float32; T a multiple of `chunk`,
    which is 64. Returns [B, T, Hv, Dv].
    """
    B, T, Hk, Dk = k.shape
    Hv, Dv = v.shape[2:]
    q, k = (x.repeat_interleave(Hv // Hk, dim=2) for x in (l2_normalized(q), l2_normalized(k)))
    q = q * Dk**-0.5
    q, k, v = (x.transpose(1, 2).reshape(B, Hv, T // chunk, chunk, -1) for x in (q, k, v))
    g, beta = (x.transpose(1, 2).reshape(B, Hv, T // chunk, chunk) for x in (g, beta))

    cum = g.cumsum(-1)
    upper = torch.ones(chunk, chunk, dtype=torch.bool, device=q.device).triu(1)
    decay = (cum.unsqueeze(-1) - cum.unsqueeze(-2)).masked_fill(upper, float("-inf")).exp()
    k_beta = k * beta.unsqueeze(-1)
    v_beta = v * beta.unsqueeze(-1)
    power = -((k_beta @ k.transpose(-1, -2)) * decay).tril(-1)
    inverse = torch.eye(chunk, device=q.device) + power
    for _ in range(5):
        power = power @ power
        inverse = inverse + inverse @ power
    u = inverse @ v_beta
    w = inverse @ (k_beta * cum.exp().unsqueeze(-1))

    within = (q @ k.transpose(-1, -2)) * decay
    q = q * cum.exp().unsqueeze(-1)
    k = k * (cum[..., -1:] - cum).exp().unsqueeze(-1)
    last = cum[..., -1].exp()[..., None, None]
    state = q.new_zeros(B, Hv, Dk, Dv)
    out = []
    for i in range(T // chunk):
        v_new = u[:, :, i] - w[:, :, i] @ state
        out.append(q[:, :, i] @ state + within[:, :, i] @ v_new)
        state = state * last[:, :, i] + k[:, :, i].transpose(-1, -2) @ v_new
    return torch.stack(out, 2).reshape(B, Hv, T, Dv).transpose(1, 2)


class LinearAttn(nn.Module):
    """Gated delta net: short causal convolution, delta rule, gated norm."""

    def __init__(self, c):
        super().__init__()
        hidden = c["hidden_size"]
        self.Hk, self.Hv = c["linear_num_key_heads"], c["linear_num_value_heads"]
        self.Dk, self.Dv = c["linear_key_head_dim"], c["linear_value_head_dim"]
        self.key_dim, self.value_dim = self.Hk * self.Dk, self.Hv * self.Dv
        channels = 2 * self.key_dim + self.value_dim
        self.conv1d = nn.Conv1d(channels, channels, 4, groups=channels, padding=3, bias=False)
        self.dt_bias = nn.Parameter(torch.ones(self.Hv))
        self.A_log = nn.Parameter(torch.empty(self.Hv).uniform_(0.01, 16).log())
        self.norm = GatedNorm(self.Dv)
        self.in_proj_qkv = nn.Linear(hidden, channels, bias=False)
        self.in_proj_z = nn.Linear(hidden, self.value_dim, bias=False)
        self.in_proj_b = nn.Linear(hidden, self.Hv, bias=False)
        self.in_proj_a = nn.Linear(hidden, self.Hv, bias=False)
        self.out_proj = nn.Linear(self.value_dim, hidden, bias=False)

    def forward(self, x):
        B, T, _ = x.shape
        mixed = self.conv1d(self.in_proj_qkv(x).transpose(1, 2))[:, :, :T]
        qkv = F.silu(mixed).transpose(1, 2)
        z, b, a = self.in_proj_z(x), self.in_proj_b(x), self.in_proj_a(x)
        with torch.autocast("cuda", enabled=False):
            q, k, v = qkv.float().split([self.key_dim, self.key_dim, self.value_dim], -1)
            g = -self.A_log.float().exp() * F.softplus(a.float() + self.dt_bias.float())
            out = delta_rule(
                q.view(B, T, self.Hk, -1),
                k.view(B, T, self.Hk, -1),
                v.view(B, T, self.Hv, -1),
                g,
                b.float().sigmoid(),
            )
        out = self.norm(out.reshape(-1, self.Dv), z.reshape(-1, self.Dv)).reshape(B, T, -1)
        return self.out_proj(out)


class Attn(nn.Module):
    """Grouped-query attention with normed heads, a partial rotary embedding and an output gate."""

    def __init__(self, c):
        super().__init__()
        hidden = c["hidden_size"]
        self.heads, self.kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
        self.D = c["head_dim"]
        self.q_proj = nn.Linear(hidden, self.heads * self.D * 2, bias=False)  # query and gate
        self.k_proj = nn.Linear(hidden, self.kv_heads * self.D, bias=False)
        self.v_proj = nn.Linear(hidden, self.kv_heads * self.D, bias=False)
        self.o_proj = nn.Linear(self.heads * self.D, hidden, bias=False)
        self.q_norm, self.k_norm = RMSNorm(self.D), RMSNorm(self.D)
        rope = c["rope_parameters"]
        self.rotary = int(self.D * rope["partial_rotary_factor"])
        exponents = torch.arange(0, self.rotary, 2).float() / self.rotary
        self.register_buffer("inv", 1.0 / (rope["rope_theta"] ** exponents), persistent=False)

    def rope(self, x, cos, sin):
        turned, kept = x[..., : self.rotary], x[..., self.rotary :]
        a, b = turned.chunk(2, -1)
        return torch.cat([turned * cos + torch.cat([-b, a], -1) * sin, kept], -1)

    def forward(self, x):
        B, T, _ = x.shape
        q, gate = self.q_proj(x).view(B, T, self.heads, 2 * self.D).chunk(2, -1)
        q = self.q_norm(q).transpose(1, 2)
        k = self.k_norm(self.k_proj(x).view(B, T, self.kv_heads, self.D)).transpose(1, 2)
        v = self.v_proj(x).view(B, T, self.kv_heads, self.D).transpose(1, 2)
        angles = torch.arange(T, device=x.device).float()[:, None] * self.inv[None]
        angles = torch.cat([angles, angles], -1)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        q, k = self.rope(q, cos, sin).to(v.dtype), self.rope(k, cos, sin).to(v.dtype)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        out = out.transpose(1, 2).reshape(B, T, -1) * torch.sigmoid(gate.reshape(B, T, -1))
        return self.o_proj(out)


class Experts(nn.Module):
    """The routed experts, each a gated MLP; gate_up_proj [E, 2I, H], down_proj [E, H, I]."""

    def __init__(self, c):
        super().__init__()
        E, I, H = c["num_experts"], c["moe_intermediate_size"], c["hidden_size"]
        self.gate_up_proj = nn.Parameter(torch.empty(E, 2 * I, H))
        self.down_proj = nn.Parameter(torch.empty(E, H, I))

    def forward(self, x, weights):
        """Every expert on every token; weights [tokens, E] are zero for those not routed to."""
        E, I2, H = self.gate_up_proj.shape
        I = I2 // 2
        y = F.linear(x, self.gate_up_proj.reshape(E * I2, H)).view(-1, E, I2)
        h = F.silu(y[..., :I]) * y[..., I:] * weights.unsqueeze(-1).to(y.dtype)
        return F.linear(h.reshape(-1, E * I), self.down_proj.permute(1, 0, 2).reshape(H, E * I))


class Gate(nn.Module):
    """The router's weight [E, H]."""

    def __init__(self, c):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(c["num_experts"], c["hidden_size"]))


class MLP(nn.Module):
    """Gated MLP, the shared expert."""

    def __init__(self, hidden, width):
        super().__init__()
        self.gate_proj = nn.Linear(hidden, width, bias=False)
        self.up_proj = nn.Linear(hidden, width, bias=False)
        self.down_proj = nn.Linear(width, hidden, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class MoE(nn.Module):
    """Top-k routed experts beside a gated shared expert. Also returns the load-balancing loss."""

    def __init__(self, c):
        super().__init__()
        self.k = c["num_experts_per_tok"]
        self.gate = Gate(c)
        self.experts = Experts(c)
        self.shared_expert = MLP(c["hidden_size"], c["shared_expert_intermediate_size"])
        self.shared_expert_gate = nn.Linear(c["hidden_size"], 1, bias=False)

    def forward(self, x):
        B, T, H = x.shape
        x = x.reshape(-1, H)
        with torch.autocast("cuda", enabled=False):
            p = F.linear(x.float(), self.gate.weight.float()).softmax(-1)
        top, index = p.topk(self.k, -1)
        top = top / top.sum(-1, keepdim=True)
        weights = torch.zeros_like(p).scatter(-1, index, top)
        balance = p.shape[-1] * ((weights > 0).float().mean(0) / self.k * p.mean(0)).sum()
        shared = torch.sigmoid(self.shared_expert_gate(x)) * self.shared_expert(x)
        return (self.experts(x, weights) + shared).view(B, T, H), balance


class Layer(nn.Module):
    """One block: attention of the layer's type, then the MoE, each behind a norm."""

    def __init__(self, c, i):
        super().__init__()
        if c["layer_types"][i] == "linear_attention":
            self.linear_attn = LinearAttn(c)
        else:
            self.self_attn = Attn(c)
        self.mlp = MoE(c)
        self.input_layernorm = RMSNorm(c["hidden_size"])
        self.post_attention_layernorm = RMSNorm(c["hidden_size"])

    def forward(self, x):
        h = self.input_layernorm(x)
        x = x + (self.linear_attn(h) if hasattr(self, "linear_attn") else self.self_attn(h))
        y, balance = self.mlp(self.post_attention_layernorm(x))
        return x + y, balance


class Body(nn.Module):
    """Embedding, blocks and final norm."""

    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Layer(c, i) for i in range(c["num_hidden_layers"]))
        self.norm = RMSNorm(c["hidden_size"])

    def forward(self, ids):
        x = self.embed_tokens(ids)
        balance = 0.0
        for layer in self.layers:
            x, layer_balance = layer(x)
            balance = balance + layer_balance
        return self.norm(x), balance / len(self.layers)


class LM(nn.Module):
    """ids [B, T] → logits [B, T, vocabulary], load-balancing loss."""

    def __init__(self, c):
        super().__init__()
        self.model = Body(c)
        self.lm_head = nn.Linear(c["hidden_size"], c["vocab_size"], bias=False)
        onto_residual = ("o_proj.weight", "out_proj.weight", "down_proj.weight", "down_proj")
        for name, parameter in self.named_parameters():
            if parameter.dim() >= 2 and "conv1d" not in name:
                std = 0.02
                if name.endswith(onto_residual):
                    std = 0.02 / math.sqrt(2 * c["num_hidden_layers"])
                nn.init.normal_(parameter, std=std)

    def forward(self, ids):
        h, balance = self.model(ids)
        return self.lm_head(h), balance
