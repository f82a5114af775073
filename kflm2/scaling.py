"""Layers without learnt weights that are fitted to the training rows; without graphs, since stage 1 needs none."""

import torch
from torch import nn


class Standardize(nn.Module):
    """Subtract the mean and divide by the standard deviation of the training rows, column by column."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    def fit(self, rows: torch.Tensor) -> None:
        """Compute mean and std from (n, width) rows of the training part; a constant column is only centred."""
        std, mean = torch.std_mean(rows, dim=0, correction=0)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 1e-6 * (1 + mean.abs()), std, 1.0))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        # LLM states have a few columns with rare huge values; clipping at 5 sigma keeps enough information
        return ((rows - self.mean) / self.std).clamp(-5, 5)


class PrincipalComponents(nn.Module):
    """The leading principal components of rows, all divided by one number, so that their mean variance is 1."""

    directions: torch.Tensor
    """(D, C)"""
    variance: float
    """Share of the variance of the fitted rows that the components keep."""

    def __init__(self, width: int, components: int) -> None:
        super().__init__()
        self.register_buffer("directions", torch.zeros(width, components))

    def fit(self, rows: torch.Tensor) -> None:
        """Find the components of (n, D) rows."""
        count = self.directions.shape[1]
        values, vectors = torch.linalg.eigh(torch.cov(rows.T, correction=0).double())  # ascending
        kept = values[-count:].sum()
        self.directions.copy_(vectors[:, -count:].flip(1) / (kept / count).sqrt().clamp(min=1e-12))
        self.variance = (kept / values.sum()).item() if values.sum() > 0 else 1.0

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows @ self.directions
