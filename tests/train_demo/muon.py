"""Muon: momentum whose matrices are made orthogonal, for the weights inside of the blocks.

K. Jordan and others, 2024, https://kellerjordan.github.io/posts/muon/: coefficients and scale are theirs.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def orthogonal(g: Tensor, rounds: int = 5) -> Tensor:
    """Bring all singular values near one, by Newton-Schulz iteration in bfloat16."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(rounds):
        s = x @ x.T
        x = a * x + (b * s + c * (s @ s)) @ x
    return (x.T if tall else x).float()


class Muon(torch.optim.Optimizer):
    """Gradient descent with Nesterov momentum, each matrix's step made orthogonal."""

    def __init__(self, params: Iterable[Tensor], lr: float = 0.02, momentum: float = 0.95, decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p)
                m = state["momentum"]
                m.lerp_(p.grad, 1 - group["momentum"])
                matrix = p.grad.lerp(m, group["momentum"]).flatten(1)  # a convolution's kernels side by side
                p.mul_(1 - group["lr"] * group["decay"])
                scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
                p.add_(orthogonal(matrix).view_as(p), alpha=-group["lr"] * scale)
