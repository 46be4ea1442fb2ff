"""What speaks for a mask of the built-in network: the features that its score is read from.

Knows nothing of prompts or frames. Shapes: ``n`` objects of ``k`` masks each, ``c`` channels.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def seen_under(logits: torch.Tensor, src: torch.Tensor) -> torch.Tensor:
    """Gather what speaks for a mask: features under and just beside it, its size, its sharpness.

    Parameters
    ----------
    logits : (n, k, H/2, W/2)
    src : (n, c, H/8, W/8)

    Returns
    -------
    (n, k, 2 c + 3)
    """
    soft = torch.sigmoid(F.avg_pool2d(logits, 4))  # (n, k, H/8, W/8)
    beside = F.max_pool2d(soft, 3, stride=1, padding=1) - soft
    means = [
        torch.einsum("nkhw,nchw->nkc", weight, src) / (weight.sum(dim=(2, 3)).unsqueeze(-1) + 1.0)
        for weight in (soft, beside)
    ]
    area = soft.mean(dim=(2, 3)).clamp_min(1e-4).log()
    sharpness = (2 * soft - 1).abs().mean(dim=(2, 3))
    strongest = torch.tanh(logits.amax(dim=(2, 3)) / 4)
    facts = torch.stack([area, sharpness, strongest], dim=-1)
    return torch.cat([*means, facts], dim=-1)
