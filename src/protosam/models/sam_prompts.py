"""What goes into a SAM's prompt encoder and what comes out of its decoder, as values.

Owns SAM's own frame on the way in: (x, y) in pixels of the padded square, where x runs along
columns. Knows nothing of networks, images or files.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from protosam.models.shift import pointed_by_clicks


@dataclass(frozen=True, eq=False)
class SamPrompts:
    """Prompts in SAM's own frame, as its prompt encoder takes them.

    Attributes
    ----------
    points_xy : (1, n, 2) float32 tensor or None
        Clicks in pixels of the square.
    labels : (1, n) int32 tensor or None
        1 on the object, 0 off it.
    box_xyxy : (1, 4) float32 tensor or None
        Left, top, right, bottom.
    mask_input : (1, 1, side / 4, side / 4) float32 tensor or None
        Logits of a mask believed so far.
    """

    points_xy: torch.Tensor | None
    labels: torch.Tensor | None
    box_xyxy: torch.Tensor | None
    mask_input: torch.Tensor | None

    @property
    def clicks(self) -> int:
        """Number of clicks of either sign."""
        return 0 if self.labels is None else int(self.labels.shape[1])

    def pointed(self, grid: tuple[int, int], side: int) -> torch.Tensor:
        """Cells of the embedding that the prompts point at; see `shift.pointed_by_clicks`.

        Clicks on the object count alone where there are any, else the middle of the box.

        Parameters
        ----------
        grid : (int, int)
            Rows and columns of the embedding.
        side : int
            Of the square, in pixels.
        """
        points = torch.zeros((0, 2))
        if self.points_xy is not None and self.labels is not None:
            points = self.points_xy[0][self.labels[0] == 1]
        if len(points) == 0 and self.box_xyxy is not None:
            points = self.box_xyxy.reshape(2, 2).mean(dim=0, keepdim=True)
        return pointed_by_clicks(points, grid, side / grid[0])


@dataclass(frozen=True, eq=False)
class SamMasks:
    """All masks of one answer.

    Attributes
    ----------
    logits : (m, H, W) float32 tensor
        On the image's own grid.
    scores : (m,) float32 tensor
        The network's own estimate of the IoU, not clipped.
    low_res_logits : (m, side / 4, side / 4) float32 tensor
        As the decoder gave them; can be a `mask_input`.
    """

    logits: torch.Tensor
    scores: torch.Tensor
    low_res_logits: torch.Tensor
