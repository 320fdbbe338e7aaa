"""GPTBigCode in plain PyTorch: learned absolute positions, multi-query attention, tied output.

The same graph as the engine's (cpp/model), for whole sequences one behind another. `tensors` gives
the weights under the names of ggml `starcoder` files.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Config:
    """The model's sizes; n_inner is 4 · n_embd."""

    n_vocab: int = 2560
    n_ctx: int = 2048
    n_embd: int = 256
    n_head: int = 4
    n_layer: int = 6

    @property
    def head_dim(self) -> int:
        """Return the width of one head."""
        return self.n_embd // self.n_head


_N_QUERIES = 256


class Block(nn.Module):
    """One layer: attention with a single key and value head, then the feed-forward part."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        n_embd = config.n_embd
        self.n_head = config.n_head
        self.head_dim = config.head_dim
        self.ln_1 = nn.LayerNorm(n_embd, eps=1e-5)
        self.c_attn = nn.Linear(n_embd, n_embd + 2 * config.head_dim)
        self.c_proj = nn.Linear(n_embd, n_embd)
        self.ln_2 = nn.LayerNorm(n_embd, eps=1e-5)
        self.c_fc = nn.Linear(n_embd, 4 * n_embd)
        self.mlp_proj = nn.Linear(4 * n_embd, n_embd)

    def forward(self, x: Tensor, lengths: Sequence[int]) -> Tensor:
        """Return x (n_tokens, n_embd), sequences of these lengths, after this layer."""
        n_embd = x.shape[1]
        q, k, v = self.c_attn(self.ln_1(x)).split((n_embd, self.head_dim, self.head_dim), dim=1)
        parts = zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True)
        mixed = [part for qkv in parts for part in _attention(*qkv)]
        x = x + self.c_proj(torch.cat(mixed))
        inner = functional.gelu(self.c_fc(self.ln_2(x)), approximate="tanh")
        out: Tensor = x + self.mlp_proj(inner)
        return out


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Iterator[Tensor]:
    """Yield causal attention of q (n_tokens, n_embd) to the one k and v, some queries at a time."""
    n_tokens, head_dim = k.shape
    for start in range(0, n_tokens, _N_QUERIES):  # the keys after a part's last query are left out
        some = q[start : start + _N_QUERIES]
        n_keys = start + len(some)
        # All heads share k, so one matrix product serves them all: much faster on a CPU.
        rows = some.reshape(-1, head_dim)
        mask = _mask(len(some), n_keys, len(rows) // len(some), q.dtype, q.device)
        scores = torch.addmm(mask, rows, k[:n_keys].T, alpha=head_dim**-0.5)
        yield (torch.softmax(scores, -1) @ v[:n_keys]).view(some.shape)


@functools.lru_cache(maxsize=32)
def _mask(
    n_tokens: int, n_keys: int, n_head: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    future = torch.full((n_tokens, n_keys), float("-inf"), dtype=dtype, device=device)
    return future.triu(1 + n_keys - n_tokens).repeat_interleave(n_head, 0)


class GPTBigCode(nn.Module):
    """The whole model; its output matrix is the token embedding."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.n_vocab, config.n_embd)
        self.wpe = nn.Embedding(config.n_ctx, config.n_embd)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=1e-5)
        for name, parameter in self.named_parameters():
            if name.endswith("bias") or "proj" in name or "wpe" in name:
                nn.init.zeros_(parameter)
            elif "ln_" not in name:
                nn.init.normal_(parameter, std=0.02)
        _begin_with_induction(self)

    def forward(self, ids: Tensor, positions: Tensor, lengths: Sequence[int]) -> Tensor:
        """Return hidden states (n_tokens, n_embd) of sequences of these lengths, in a row."""
        x = self.wte(ids) + self.wpe(positions)
        for block in self.h:
            x = block(x, lengths)
        hidden: Tensor = self.ln_f(x)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Return (…, n_vocab) logits of hidden states."""
        return functional.linear(hidden, self.wte.weight)

    def tensors(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return the weights under a file's names, with one K and one V head."""
        names = {
            "wte.weight": "wte",
            "wpe.weight": "wpe",
            "ln_f.weight": "ln_f/g",
            "ln_f.bias": "ln_f/b",
        }
        parts = {"c_attn": "attn/c_attn", "c_proj": "attn/c_proj", "c_fc": "mlp/c_fc"}
        parts |= {"mlp_proj": "mlp/c_proj", "ln_1": "ln_1", "ln_2": "ln_2"}
        for i in range(self.config.n_layer):
            for part, place in parts.items():
                weight = "g" if part.startswith("ln") else "w"
                names[f"h.{i}.{part}.weight"] = f"h{i}/{place}/{weight}"
                names[f"h.{i}.{part}.bias"] = f"h{i}/{place}/b"
        state = self.state_dict()
        return {f"model/{name}": state[key].float().numpy() for key, name in names.items()}


@torch.no_grad()
def _begin_with_induction(model: GPTBigCode) -> None:
    """Let the first two layers copy from the start: to find that out takes long on a CPU.

    The first head_dim channels hold the position, as waves of random rates. Heads of layer 0 look
    one, two and three tokens back: a query is a key turned by that many steps. Layer 1 looks for
    places that followed the same two tokens, or the same one (an induction head: Olsson et al.
    2022), and adds what stands there. From here everything is learned.
    """
    config, dim = model.config, model.config.head_dim
    generator = torch.Generator().manual_seed(0)
    rates = torch.rand(dim // 2, generator=generator) * torch.pi
    angles = torch.arange(config.n_ctx).unsqueeze(1) * rates
    model.wpe.weight[:, :dim] = 0.02 * 2**0.5 * torch.cat([angles.sin(), angles.cos()], 1)
    model.wte.weight[:, :dim] *= 0.1
    first = cast(Block, model.h[0])
    code = torch.randn(dim, config.n_embd, generator=generator) * (config.n_embd - dim) ** -0.5
    code[:, :dim] = 0.0
    directions = torch.linalg.qr(torch.randn(config.n_embd, 3 * dim, generator=generator))[0]
    k, v = slice(config.n_embd, config.n_embd + dim), slice(config.n_embd + dim, None)
    first.c_attn.weight[k, :dim] = 1.3 * torch.eye(dim)
    first.c_attn.weight[v] = code
    for head in range(3):
        turn, q = rates * -(head + 1), slice(head * dim, (head + 1) * dim)
        sin, cos = torch.diag(turn.sin()), torch.diag(turn.cos())
        first.c_attn.weight[q] = 0.0
        first.c_attn.weight[q, :dim] = 1.3 * torch.cat(
            [torch.cat([cos, sin], 1), torch.cat([-sin, cos], 1)]
        )
        first.c_proj.weight[:, q] = 0.03 * directions[:, q]
    if config.n_layer < 2:
        return
    second = cast(Block, model.h[1])
    half = dim // 2  # of a key: the codes of the token before, and of the one before that
    one_back, two_back = directions[:, :half].T, directions[:, dim : dim + half].T
    second.c_attn.weight[k] = torch.cat([one_back, two_back])
    same = torch.cat([code[:half] * 3, one_back * 2])
    second.c_attn.weight[:dim] = same
    second.c_attn.weight[dim : 2 * dim] = torch.cat(
        [code[:half] * 6, torch.zeros(half, config.n_embd)]
    )
    second.c_attn.weight[v] = code
    for q in (slice(0, dim), slice(dim, 2 * dim)):
        second.c_proj.weight[:, q] = 0.05 * code.T
