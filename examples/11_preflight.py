"""Before training (``python examples/11_preflight.py``): what was understood, and which analyses can work.

Batches with lengths, a network that puts out probabilities, a stream without classes; a report once more as a dict.
"""

from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from common import parser
from data import load
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_dynamics import CKACallback, CurvatureCallback, VoGCallback, preflight


class Net(pl.LightningModule):
    """Says nowhere what its batches mean."""

    def __init__(self, net: nn.Module, loss: Callable[[Any, Any], Tensor]) -> None:
        super().__init__()
        self.net, self.loss = net, loss

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        if lengths is not None:  # the mean over as many rows as a sequence has
            x = (x * (torch.arange(x.shape[1]) < lengths[:, None])[..., None]).sum(1) / lengths[:, None]
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(self, batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Sine(IterableDataset[tuple[Tensor, Tensor]]):
    """Sixteen values and the next one; there is no index to choose examples by."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:  # noqa: D105
        for values in torch.sin(torch.arange(1017.0) / 5).unfold(0, 17, 1):
            yield values[:-1], values[-1]


images, labels = load(parser(__doc__).parse_args().data_file)[0].tensors
lengths = images[:, 0].any(2).cumsum(1).argmax(1) + 1  # the last row with ink
width, classes = images.shape[-1], int(labels.max()) + 1
softmax = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), classes), nn.Softmax(1))
for net, loss, data in (
    (nn.Linear(width, classes), lambda m, b: F.cross_entropy(m(b[0], b[1]), b[2]), (images[:, 0], lengths, labels)),
    (softmax, lambda m, b: F.nll_loss(m(b[0]).log(), b[1]), (images, labels)),
    (nn.Linear(16, 1), lambda m, b: F.mse_loss(m(b[0])[:, 0], b[1]), Sine()),
):
    loader = DataLoader(TensorDataset(*data) if isinstance(data, tuple) else data, 32)
    report = preflight(Net(net, loss), loader, [CKACallback(), VoGCallback(), CurvatureCallback()])
    print()
print(report.to_dict()["task"])
