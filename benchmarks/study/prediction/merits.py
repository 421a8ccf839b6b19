"""How well a prediction foretells: correlation, slope and signs."""

import numpy as np
import torch


Pairs = list[tuple[float, float]]  # predicted and measured, one per batch


def pearson(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Correlation; NaN where either has no spread."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.corrcoef(predicted, measured)[0, 1])


def slope(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Of the line through the origin, measured on predicted, by least squares; NaN where all is predicted 0."""
    total = float(predicted @ predicted)
    return float(predicted @ measured) / total if total > 0 else float("nan")


def sign_agreement(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Share of equal signs where a change is predicted; NaN where none is."""
    where = predicted != 0
    return float(np.mean(np.sign(predicted[where]) == np.sign(measured[where]))) if where.any() else float("nan")


def merits(predicted: torch.Tensor | list[float], measured: torch.Tensor | list[float]) -> dict[str, float]:
    """All three of them, by name."""
    x, y = np.asarray(predicted, dtype=np.float64), np.asarray(measured, dtype=np.float64)
    return {"pearson": pearson(x, y), "slope": slope(x, y), "sign": sign_agreement(x, y)}


def merits_of(pairs: Pairs) -> dict[str, float]:
    """[`merits`] over batches."""
    return merits(*map(list, zip(*pairs, strict=True)))
