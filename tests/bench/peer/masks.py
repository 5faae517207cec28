"""Learned masks of Sheared-LLaMA (arXiv 2310.06694): hard-concrete gates and the Lagrangian that drives their sizes.

    s = sigmoid((ln u - ln(1-u) + a) / beta)      z = clamp(s (zeta - gamma) + gamma, 0, 1)
    score(a) = P(z != 0)                          sparsity of a row = 1 - mean score
    L = sum_M mean_rows[ l1_M (s_row - t_M) + l2_M (s_row - t_M)^2 ]

All fp32. With G = H/K a query head is gated by its group (`kv_head`) times its place in the group (`query_head`).
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

GAMMA, ZETA, BETA = -0.1, 1.1, 2.0 / 3.0
EPSILON = 1e-6
LOW, HIGH = math.log(0.01), math.log(100.0)
# beta * logit of the point that stretches to 0: P(z = 0) = sigmoid(ZERO_LOG_ODDS - a).
ZERO_LOG_ODDS = BETA * math.log(-GAMMA / ZETA)


def hard_concrete(log_alpha, uniform):
    """Gates for given noise, differentiable in `log_alpha`."""
    stretched = torch.sigmoid((torch.logit(uniform) + log_alpha) / BETA) * (ZETA - GAMMA) + GAMMA
    return stretched.clamp(0.0, 1.0)


def score(log_alpha):
    """P(z != 0)."""
    return 1.0 - torch.sigmoid(ZERO_LOG_ODDS - log_alpha).clamp(EPSILON, 1.0 - EPSILON)


@dataclass
class Gates:
    """Gates of one forward; None where a dimension is not pruned."""

    layer: torch.Tensor | None = None  # [L]
    kv_head: torch.Tensor | None = None  # [L, K]
    query_head: torch.Tensor | None = None  # [L, G]
    intermediate: torch.Tensor | None = None  # [L, F]
    hidden: torch.Tensor | None = None  # [D]


class Masks(nn.Module):
    """Log-odds per unit and two multipliers per kind of unit."""

    def __init__(self, source, target, warmup_steps=640, device="cpu"):
        super().__init__()
        layers = source.layers
        sizes = {  # name: (shape, target of a row)
            "layer": ((layers,), target.layers),
            "kv_head": ((layers, source.kv_heads), target.kv_heads),
            "query_head": ((layers, source.group), target.group),
            "intermediate": ((layers, source.intermediate), target.intermediate),
            "hidden": ((source.hidden,), target.hidden),
        }
        pruned = {name: (shape, keep) for name, (shape, keep) in sizes.items() if keep < shape[-1]}
        self.warmup_steps = warmup_steps
        self.target_sparsity = {name: 1.0 - keep / shape[-1] for name, (shape, keep) in pruned.items()}

        def parameters(make):
            return nn.ParameterDict({name: nn.Parameter(make(shape)) for name, (shape, _) in pruned.items()})

        self.log_alpha = parameters(lambda shape: torch.normal(5.0, 0.01, shape, device=device).clamp(LOW, HIGH))
        self.lambda_1 = parameters(lambda _: torch.zeros((), device=device))
        self.lambda_2 = parameters(lambda _: torch.zeros((), device=device))

    def sample(self):
        """Gates of one forward, with fresh noise."""
        noise = {name: torch.rand_like(a).clamp(EPSILON, 1.0 - EPSILON) for name, a in self.log_alpha.items()}
        return Gates(**{name: hard_concrete(a, noise[name]) for name, a in self.log_alpha.items()})

    def lagrangian(self, step):
        """The constraint at an optimiser step, a scalar."""
        warm = min(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0
        terms = []
        for name, log_alpha in self.log_alpha.items():
            gap = 1.0 - score(log_alpha).mean(-1) - warm * self.target_sparsity[name]
            terms.append((self.lambda_1[name] * gap + self.lambda_2[name] * gap.square()).mean())
        return torch.stack(terms).sum()

    def multipliers(self):
        return [*self.lambda_1.values(), *self.lambda_2.values()]

    @torch.no_grad()
    def clamp_(self):
        """Brings the log-odds back into their range; after each optimiser step."""
        torch._foreach_clamp_min_(list(self.log_alpha.values()), LOW)
        torch._foreach_clamp_max_(list(self.log_alpha.values()), HIGH)
