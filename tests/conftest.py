"""One thread: the tensors of the tests are tiny, and float32 sums are then the same bits in every process."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
