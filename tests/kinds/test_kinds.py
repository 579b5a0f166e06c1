"""Each kind trains, and what is said to be true of it is: its ``training_step`` agrees with the loss written out."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_dynamics.core.batch_tree import at, replaced
from tests.house.training import trainer
from tests.kinds.kind import batches, doubled
from tests.kinds.modules import KINDS, WITH_LOSS

each = pytest.mark.parametrize("name", KINDS)


@each
def test_trains(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    module, loader = kind.make_module(), kind.make_loader()
    before, start = copy.deepcopy(module.state_dict()), kind.true_loss(module, loader)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice about workers and the like
        trainer(tmp_path, [], max_epochs=3).fit(module, loader)
    assert any(not torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert kind.true_loss(module, loader) < start
    accuracy = kind.true_accuracy(module, loader)
    assert (accuracy is None) == (kind.correct is None)
    assert accuracy is None or 0 <= accuracy <= 1


@pytest.mark.parametrize("name", WITH_LOSS)
def test_the_loss_written_out_is_that_of_training_step(name: str) -> None:
    kind = KINDS[name]
    module: Any = kind.make_module().double().train()
    for batch in map(doubled, batches(kind.make_loader())):
        total, weight = kind.loss_terms(module, batch)
        expected = total if kind.expected.loss_unit == "sum" else total / weight
        torch.testing.assert_close(module.train().training_step(batch, 0), expected, rtol=1e-9, atol=1e-12)


@each
def test_the_loss_depends_on_the_items_that_are_named(name: str) -> None:
    """Each input and the targets change the loss, if every example gets those of the first."""
    kind = KINDS[name]
    module: Any = kind.make_module().double()
    batch = doubled(next(batches(kind.make_loader())))
    loss = kind.loss_terms(module, batch)[0]
    targets = [] if kind.expected.targets is None else [kind.expected.targets]
    for item in [*kind.expected.inputs, *targets]:
        assert not torch.isclose(kind.loss_terms(module, with_one_value(batch, item))[0], loss), item


def with_one_value(batch: Any, item: Any) -> Any:
    """A copy in which every example has the first one's item."""
    path = item if isinstance(item, tuple) else (item,)
    value = at(batch, path)
    return replaced(batch, {path: value[:1].expand_as(value)})
