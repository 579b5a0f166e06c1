"""The data the examples run on: scikit-learn's digits, or any ``.npz`` file of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import TensorDataset


def load(data_file: Path | None = None) -> tuple[TensorDataset, TensorDataset]:
    """Training and validation images ``(N, C, H, W)`` float32 in [0, 1], with labels ``(N,)``.

    Args:
        data_file: an ``.npz`` file with ``train_images``, ``train_labels``, ``test_images`` and ``test_labels``;
            images ``(N, H, W)`` or ``(N, H, W, C)`` uint8. None for the 1,797 digits that scikit-learn ships.
    """
    if data_file is not None:
        arrays = np.load(data_file)
        return (
            _dataset(arrays["train_images"] / np.float32(255), arrays["train_labels"]),
            _dataset(arrays["test_images"] / np.float32(255), arrays["test_labels"]),
        )
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8).astype(np.float32) / 16
    order = np.random.default_rng(0).permutation(len(images))
    train, validation = order[:1437], order[1437:]
    return _dataset(images[train], labels[train]), _dataset(images[validation], labels[validation])


def shape_and_classes(data: TensorDataset) -> tuple[torch.Size, int]:
    """``(C, H, W)`` of its images, and the number of classes."""
    images, labels = data.tensors
    return images.shape[1:], int(labels.max()) + 1


def _dataset(images: np.ndarray, labels: np.ndarray) -> TensorDataset:
    pixels = torch.from_numpy(images)
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.movedim(-1, 1).contiguous()
    return TensorDataset(pixels, torch.from_numpy(labels).long())
