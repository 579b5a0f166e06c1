"""How a module's outputs come about: which call makes them, seen while the loss is computed."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lightning_dynamics.core.batch_tree import Path
from lightning_dynamics.core.calls import Call, CallTemplate, first_tensor, recorded
from lightning_dynamics.core.experiments import Experiments, close, own_copy
from lightning_dynamics.core.forward_call import likely_templates
from lightning_dynamics.core.task import Way


def find_way(experiments: Experiments) -> tuple[Way | None, Tensor | None, list[Path]]:
    """How the outputs come about, the loss's gradient by them, and what several calls of `forward` are given."""
    if experiments.predict_fn is not None:
        return None, None, []
    batch, loss = own_copy(experiments.whole), None
    experiments.seeded()
    with recorded(experiments.module) as record, torch.enable_grad():
        try:
            loss = experiments.loss_now(batch)
        except Exception as error:
            experiments.notes.append(f"`training_step` failed: {type(error).__name__}: {error}")
    call = _only(record.own) if record.own else _last_of_chain(record.outer)
    if loss is not None and call is not None:
        way = Way(CallTemplate.of(call, batch), call.name, call.number, in_step=True)
        return *_checked(experiments, way, call, loss), []
    if record.own:
        experiments.notes.append(f"its `training_step` calls `forward` {len(record.own)} times")
        templates = [CallTemplate.of(one, batch) for one in record.own]
        given = [path for one in templates if one is not None for path in one.consumed(batch)]
        return None, None, given
    template = find_forward(experiments, None)
    if template is not None and loss is None:
        return Way(template), None, []
    if template is not None and not record.outer:  # the loss is computed beside it, by functions alone
        return Way(template), None, []
    return None, None, []


def _checked(experiments: Experiments, way: Way, call: Call, loss: Tensor) -> tuple[Way, Tensor | None]:
    """The way, without a template that gives something else; and the loss's gradient by the outputs."""
    output = first_tensor(call.output)
    gradient = None
    if output is not None and output.requires_grad and loss.requires_grad:
        try:
            (gradient,) = torch.autograd.grad(loss, output, allow_unused=True)
        except RuntimeError:
            gradient = None
    if way.template is not None:
        try:
            again = first_tensor(experiments.output(way, experiments.whole))
            if again is None or output is None or not close(again, output.detach()):
                same_after_copy = first_tensor(experiments.output(replace(way, template=None), experiments.whole))
                if again is not None and same_after_copy is not None and close(again, same_after_copy):
                    way = replace(way, copies=True)  # the loss changes the outputs in place
                else:
                    way = replace(way, template=None, copies=True)
        except Exception:
            way = replace(way, template=None, copies=True)
    return way, gradient


def _only(calls: list[Call]) -> Call | None:
    return calls[0] if len(calls) == 1 else None


def _last_of_chain(calls: list[Call]) -> Call | None:
    """The last of several calls, if the outputs of all others lead to the loss through it."""
    if not calls:
        return None
    last = first_tensor(calls[-1].output)
    earlier = [first_tensor(call.output) for call in calls[:-1]]
    if last is None or any(tensor is None for tensor in earlier):
        return None
    if earlier:
        if not last.requires_grad:
            return None
        leading = [tensor for tensor in earlier if tensor is not None and tensor.requires_grad]
        with torch.enable_grad():
            found = torch.autograd.grad(last.sum(), leading, retain_graph=True, allow_unused=True)
        if len(leading) < len(earlier) or any(gradient is None for gradient in found):
            return None
    return calls[-1]


def find_forward(experiments: Experiments, way: Way | None) -> CallTemplate | None:
    """How the module's own ``forward`` is called: as its loss calls it, else the first likely way that works."""
    if way is not None and way.template is not None and not way.name:
        return way.template
    for template in likely_templates(experiments.module, experiments.whole):
        try:
            tensor = first_tensor(experiments.output(Way(template), experiments.whole))
        except Exception:
            continue
        if tensor is not None and tensor.is_floating_point():
            return template
    return None
