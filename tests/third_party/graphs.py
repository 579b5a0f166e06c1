"""Models of PyTorch Geometric: a batch is an object, its first axis counts nodes, and layers take edges."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import lightning.pytorch as lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_dynamics.core.random_state import seed_all
from tests.kinds.kind import BATCH, CLASSES, FEATURES, SIZE, Expected, Kind, class_terms, count, integers, labelled
from tests.third_party.case import Case


def geometric(module: str) -> Any:
    """A part of the package, when it is wanted."""
    return import_module(f"torch_geometric.{module}")


def graphs(targets: Callable[[Tensor, Tensor], Tensor]) -> list[Any]:
    """Rings of 3 to 6 nodes, with a target each."""
    x, classes = labelled(6 * SIZE)
    x = x.reshape(SIZE, 6, FEATURES)
    sizes, made = 3 + integers(4, SIZE), []
    for i, n in enumerate(sizes.tolist()):
        ring = torch.stack([torch.arange(n), torch.arange(n).roll(-1)])
        edges = torch.cat([ring, ring.flip(0)], 1)
        made.append(geometric("data").Data(x=x[i, :n], edge_index=edges, y=targets(x[i, :n], classes[6 * i])[None]))
    return made


def network(nodes: int = 20) -> Any:
    """One graph, in which half of the nodes are for training."""
    x, y = labelled(nodes)
    edges = integers(nodes, 2, 3 * nodes)
    return geometric("data").Data(x=x, edge_index=edges, y=y, train_mask=torch.arange(nodes) % 2 == 0)


def loader(data: list[Any]) -> Any:
    return geometric("loader").DataLoader(data, BATCH, shuffle=True)


class Module(lightning.LightningModule):
    """Layers by name."""

    conv: Any
    conv1: Any
    conv2: Any
    head: Any

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class GraphClassifier(Module):
    """As in PyG's own introduction: ``forward`` takes the batch's parts."""

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        x = self.conv1(x, edge_index).relu()
        x = self.conv2(x, edge_index)
        return self.head(F.dropout(geometric("nn").global_mean_pool(x, batch), 0.2, self.training))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch.x, batch.edge_index, batch.batch), batch.y)
        self.log("train_loss", loss, batch_size=batch.num_graphs)
        return loss


class GraphRegressor(Module):
    """``forward`` takes the batch itself."""

    def forward(self, data: Any) -> Tensor:
        return self.head(geometric("nn").global_add_pool(self.conv(data.x, data.edge_index), data.batch)).squeeze(1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.l1_loss(self(batch), batch.y)


class NodeClassifier(Module):
    """The whole graph is one example; a mask says which nodes count."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.conv2(self.conv1(x, edge_index).relu(), edge_index)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        out = self(batch.x, batch.edge_index)
        return F.cross_entropy(out[batch.train_mask], batch.y[batch.train_mask])


def _gcn(inputs: int = FEATURES) -> GraphClassifier:
    seed_all(0)
    return GraphClassifier(
        conv1=geometric("nn").GCNConv(inputs, 8), conv2=geometric("nn").GCNConv(8, 8), head=nn.Linear(8, CLASSES)
    )


def _gin() -> GraphRegressor:
    seed_all(0)
    layers = nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8))
    return GraphRegressor(conv=geometric("nn").GINConv(layers, train_eps=True), head=nn.Linear(8, 1))


def _nodes() -> NodeClassifier:
    seed_all(0)
    return NodeClassifier(conv1=geometric("nn").GCNConv(FEATURES, 8), conv2=geometric("nn").GATConv(8, CLASSES))


def _graph_logits(module: Any, batch: Any) -> Tensor:
    """Of one graph after the other: no batch, no pooling by index."""
    rows = []
    for graph in batch.to_data_list():
        x = module.conv2(module.conv1(graph.x, graph.edge_index).relu(), graph.edge_index)
        rows.append(module.head(x.mean(0)))
    return torch.stack(rows)


def _absolute_errors(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
    values = [module.head(module.conv(g.x, g.edge_index).sum(0)) for g in batch.to_data_list()]
    return (torch.cat(values) - batch.y).abs().sum(), count(batch.y)


_GRAPH_CLASSES = class_terms(_graph_logits, lambda batch: batch.y)
_NODE_CLASSES = class_terms(
    lambda module, batch: module(batch.x, batch.edge_index)[batch.train_mask], lambda batch: batch.y[batch.train_mask]
)


def _graph_kind(inputs: int) -> Kind:
    expected = Expected("multiclass", "logits", inputs=("x", "edge_index", "batch"), targets="y")
    return Kind("GCN", lambda: _gcn(inputs), lambda: loader(graphs(lambda x, y: y)), expected, *_GRAPH_CLASSES)


CASES = {
    "GCN, a class per graph": Case("torch_geometric", lambda: _graph_kind(FEATURES), "head.*"),
    "GCN with lazy layers": Case("torch_geometric", lambda: _graph_kind(-1), "head.*", is_lazy=True),
    "GIN, a number per graph": Case(
        "torch_geometric",
        lambda: Kind(
            "GIN",
            _gin,
            lambda: loader(graphs(lambda x, y: x.sin().sum())),
            Expected("regression", "values", inputs=(), targets="y"),
            _absolute_errors,
        ),
        "head.*",
        settings={
            "LandscapeCallback": {"batchnorm": "frozen"},
            "LossContributionCallback": {"batchnorm": "attributed"},
        },
    ),
    "GCN and GAT, a class per node": Case(
        "torch_geometric",
        lambda: Kind(
            "nodes",
            _nodes,
            lambda: loader([network()]),
            Expected("multiclass", "logits", "tokens", inputs=("x", "edge_index"), targets="y"),
            *_NODE_CLASSES,
        ),
        "conv2.bias",
    ),
}
