"""Finding out what a batch means to a module, by running it on a few examples in isolation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lightning_dynamics.core import objective
from lightning_dynamics.core.batch_tree import (
    LIST,
    Axis,
    Path,
    at,
    example_axes,
    replaced,
    rows,
    tensors,
    walk,
)
from lightning_dynamics.core.batchnorm import batchnorms
from lightning_dynamics.core.calls import Call, CallTemplate, captured, first_tensor, recorded
from lightning_dynamics.core.collating import sizes_to_compare
from lightning_dynamics.core.forward_call import likely_templates
from lightning_dynamics.core.isolation import isolated
from lightning_dynamics.core.loss_terms import class_weights_of, counters, held_vectors, is_mean_over, is_sum
from lightning_dynamics.core.modes import Modes, compare_modes
from lightning_dynamics.core.module_state import plain_attributes, restores_of
from lightning_dynamics.core.objective import LossFn, PredictFn
from lightning_dynamics.core.outputs import Reading, read
from lightning_dynamics.core.probe import Probe
from lightning_dynamics.core.quiet import logging_disabled
from lightning_dynamics.core.random_state import seed_all
from lightning_dynamics.core.task import EXAMPLES, Counter, Task, Way, perturbed

FEW, MANY = 8, 64
"""Examples that experiments run on, and those that are read to choose them from."""


def understand(
    module: Any,
    probe: Probe,
    *,
    loss_fn: LossFn | None = None,
    predict_fn: PredictFn | None = None,
) -> Task:
    """The task of a module on a probe's examples. Costs some 30 passes over eight of them.

    Args:
        module: bare; left as it was.
        probe: whose first minibatch is tried.
        loss_fn: the user's; None for ``training_step``.
        predict_fn: the user's.
    """
    task = Task(type(module).__name__, predict_fn=predict_fn)
    # At parameters with nothing special about them: zeros in a last layer would hide what it does. Where the loss is
    # not finite there, at those that the module has.
    for moved in (True, False):
        with isolated(module, mode="eval", seed=probe.seed) as streams, logging_disabled(module):
            experiments = Experiments(module, probe, loss_fn, predict_fn, streams, moved=moved)
            task = experiments.task()
        if task.loss_known and not experiments.is_degenerate:
            break
    if task.loss_known:
        task = replace(task, keeps_state=_keeps_state(module, probe, experiments, loss_fn))
    return task


_tasks: WeakKeyDictionary[Any, dict[Any, Task]] = WeakKeyDictionary()


def task_for(
    trainer: Any, module: Any, probe: Probe, *, loss_fn: LossFn | None, predict_fn: PredictFn | None
) -> tuple[Task, bool]:
    """The task that callbacks of one Trainer share, and whether it is new: found out just now."""
    known = _tasks.setdefault(trainer, {})
    data = "recorded" if probe.recorded is not None else id(probe.dataset)  # all are the beginning of one stream
    key = (id(module), data, id(probe.collate), loss_fn, predict_fn)
    is_new = key not in known
    if is_new:
        known[key] = understand(module, probe, loss_fn=loss_fn, predict_fn=predict_fn)
    return known[key], is_new


def release_tasks(trainer: Any) -> None:
    """Forget what this Trainer's callbacks shared."""
    _tasks.pop(trainer, None)


def _keeps_state(module: Any, probe: Probe, experiments: Experiments, loss_fn: LossFn | None) -> bool:
    """Whether a second run, isolated like the first, differs from it."""
    seen = []
    for _ in range(2):
        with isolated(module, mode="eval", seed=probe.seed) as streams, logging_disabled(module):
            experiments.streams = streams
            experiments.modes.apply(module)
            seen.append(experiments.loss(experiments.whole))
    return seen[0] is not None and seen[1] is not None and seen[0] != seen[1] and seen[0] == seen[0]


class Experiments:
    """Runs of one module on a few examples; make and use them within ``isolated``.

    Args:
        module: isolated.
        probe: whose examples.
        loss_fn: the user's.
        predict_fn: the user's.
        streams: the module's generators.
        moved: perturb the parameters first.
    """

    def __init__(
        self,
        module: Any,
        probe: Probe,
        loss_fn: LossFn | None,
        predict_fn: PredictFn | None,
        streams: Sequence[Any],
        *,
        moved: bool,
    ) -> None:
        """Choose the examples, find their axes, and run the loss once."""
        self.module, self.probe, self.streams = module, probe, streams
        self.loss_fn, self.predict_fn = loss_fn, predict_fn
        self.notes: list[str] = []
        self._offset = 0
        self.carries_state = False
        self.given: list[Path] = []  # to several calls of `forward`
        self.collated, self.size = probe.few(MANY)
        self.axes, self.unplaced, self.places = self._axes()
        self.whole = self.batch_of(range(len(self.places)))
        self.modes = Modes()
        self.first_loss = self.loss(self.whole)
        if moved:
            perturbed(module, torch.Generator().manual_seed(probe.seed))
            self._calibrate()
        self.modes = compare_modes(module, lambda: self._loss(_own(self.whole)), self._output_now, self._reseed)
        self.modes.apply(module)
        self.carries_state = self._carries_state()
        self.base_loss = self.loss(self.whole)

    def _calibrate(self) -> None:
        """Give batch normalisation the statistics of this point: with others the signal may fade on its way."""
        layers = [layer for layer in batchnorms(self.module) if layer.running_mean is not None]
        if not layers:
            return
        held = [(layer, layer.training, layer.momentum) for layer in layers]
        for layer in layers:
            layer.training, layer.momentum = True, 1.0
        self.loss(self.whole)
        for layer, training, momentum in held:
            layer.training, layer.momentum = training, momentum

    # ---- batches -------------------------------------------------------------------------------------------

    def _axes(self) -> tuple[dict[Path, Axis], list[Path], list[int]]:
        """Axes of the examples, tensors without one, and the examples to experiment on."""
        if self.collated is None:
            return self._recorded_axes()
        count = min(self.size, FEW)
        sizes = sizes_to_compare(count)
        batches = [(self.collated(range(size)), size) for size in sizes]
        axes, unplaced = example_axes(batches)
        if self.size == 1:
            self.notes.append("there is one example alone, so nothing tells which axis is that of the examples")
        return axes, unplaced, self._varied(axes, count)

    def _varied(self, axes: Mapping[Path, Axis], count: int) -> list[int]:
        """Examples among which every item varies, as far as any do, and every class is there."""
        chosen = list(range(count))
        if self.size <= count or self.collated is None:
            return chosen
        everything = self.collated(range(self.size))
        for path, axis in axes.items():
            node = at(everything, path)
            if not isinstance(node, Tensor) or axis is LIST or node.ndim != 1:
                continue
            values = [value for value in node.tolist() if value == value]
            distinct = list(dict.fromkeys(values))
            limit = 64 if not node.is_floating_point() else 2
            if len(distinct) <= limit:
                present = {values[place] for place in chosen if place < len(values)}
                chosen += [values.index(value) for value in distinct if value not in present]
        return list(dict.fromkeys(chosen))

    def _recorded_axes(self) -> tuple[dict[Path, Axis], list[Path], list[int]]:
        """Of minibatches that were recorded: by two sizes if there are two, else by the one that fits."""
        recorded = [(batch, len(own)) for batch, own in zip(self.probe.recorded or (), self.probe.batches, strict=True)]
        by_size = {size: (batch, size) for batch, size in reversed(recorded)}
        if len(by_size) > 1:
            axes, unplaced = example_axes(list(by_size.values()))
        else:
            batch, size = recorded[0]
            axes, unplaced = {}, []
            for path, tensor in tensors(batch).items():
                fitting = [axis for axis, length in enumerate(tensor.shape) if length == size]
                if len(fitting) == 1 or (fitting and fitting[0] == 0):
                    axes[path] = fitting[0]
                else:
                    unplaced.append(path)
        return axes, unplaced, list(range(min(len(self.probe.batches[0]), FEW)))

    def batch_of(self, numbers: Sequence[int]) -> Any:
        """Some of the examples, as a new minibatch."""
        places = [self.places[number] for number in numbers]
        if self.collated is not None:
            return self.collated(places)
        batch = self.probe.batch(0).data
        return batch if self.unplaced else rows(batch, self.axes, places)

    def split(self, numbers: Sequence[int]) -> Any:
        """Some of the examples out of the whole minibatch: cut from it where every tensor has its axis."""
        if not self.unplaced and self.axes and all(self._is_cut(path) for path, _ in walk(self.whole)):
            return rows(self.whole, self.axes, numbers)
        return None if self.collated is None else self.batch_of(numbers)

    def _is_cut(self, path: Path) -> bool:
        """Whether a node lies in one that is cut, or holds some, or is a plain value."""
        node = at(self.whole, path)
        under = any(path[: len(own)] == own or own[: len(path)] == path for own in self.axes)
        return under or isinstance(node, str | int | float | bool | type(None))

    def _carries_state(self) -> bool:
        """Whether a run changes what the next one gives: then every run begins with the state of the first."""
        buffers = [(buffer, buffer.detach().clone()) for buffer in self.module.buffers()]
        self._start = restores_of(plain_attributes(self.module), (), self.module.buffers())
        values = [self.loss(self.whole) for _ in range(2)]
        changed = any(now.shape != before.shape or not torch.equal(now, before) for now, before in buffers)
        return changed or (values[0] is not None and values[0] != values[1])

    # ---- runs ----------------------------------------------------------------------------------------------

    def seeded(self) -> None:
        """Random streams, and the module's state, at their beginning: every run draws and finds the same."""
        if self.carries_state:
            for restore in reversed(self._start):
                restore()
        seed_all(self.probe.seed + self._offset, *self.streams)

    def _reseed(self, offset: int) -> None:
        """Draw others from now on."""
        self._offset = offset

    def loss(self, batch: Any, *, quiet: bool = True) -> float | None:
        """Of a batch; None where it cannot be computed."""
        try:
            return float(self._loss(_own(batch)))
        except Exception:
            if quiet:
                return None
            raise

    def _loss(self, batch: Any) -> Tensor:
        self.seeded()
        return self._loss_as_it_is(batch)

    def _loss_as_it_is(self, batch: Any) -> Tensor:
        return objective.loss(self.module, batch, self.loss_fn, manual=True)

    def output(self, way: Way, batch: Any) -> Any:
        """The outputs on a batch; raises what the module raises."""
        if self.predict_fn is not None:
            self.seeded()
            return self.predict_fn(self.module, _own(batch))[0]
        if way.template is not None:
            self.seeded()
            return way.template(self.module, _own(batch))
        self.seeded()  # before anything is put in the module's way
        with captured(self.module, way.name, way.number, copies=True) as found:
            self._loss_as_it_is(_own(batch))
        return found[0]

    def _output_now(self) -> Tensor | None:
        """Whatever the module's ``forward`` returns on the whole, to compare modes where there is no loss."""
        for template in likely_templates(self.module, self.whole):
            try:
                self.seeded()
                return first_tensor(template(self.module, _own(self.whole)))
            except Exception:
                continue
        return None

    # ---- what they tell ------------------------------------------------------------------------------------

    @property
    def is_degenerate(self) -> bool:
        """Whether this point tells nothing: the loss is not finite."""
        return self.base_loss is None or not isfinite(self.base_loss)

    def task(self) -> Task:
        """Everything."""
        way, gradient = self._way()
        task = Task(
            type(self.module).__name__,
            way=way,
            axes=self.axes,
            differing=self.modes.differing,
            eval_fails=self.modes.eval_fails,
            as_trained_only=self.modes.as_trained,
            random=self.modes.random,
            carries_state=self.carries_state,
            predict_fn=self.predict_fn,
            loss_known=self.base_loss is not None,
        )
        if self.base_loss is None:
            self.notes.append(
                "its loss could not be computed by `training_step`: give `loss_fn=lambda module, batch: …`"
            )
        inputs = self.given
        reading, target, mask = Reading(), None, None
        if way is not None or self.predict_fn is not None:
            inputs, candidates = self._roles(way or Way())
            reading, target, mask = self._reading(way or Way(), inputs, candidates, gradient)
        counter, sums = self._counter(reading, target, mask)
        if counter is None and reading.kind == "unknown" and self.base_loss is not None:
            reading = replace(reading, kind="pairs")
        if reading.kind == "pairs":
            reading = replace(reading, output="embeddings")
        elif reading.kind == "unknown" and way is not None:
            reading = replace(reading, output="values")
        known = tuple(inputs)
        return replace(
            task,
            reading=reading,
            inputs=known,
            targets=target,
            mask=mask,
            counter=counter,
            sums=sums,
            notes=tuple(self.notes),
        )

    def _way(self) -> tuple[Way | None, Tensor | None]:
        """How the outputs come about, and the loss's gradient by them."""
        if self.predict_fn is not None:
            return None, None
        batch, loss = _own(self.whole), None
        self.seeded()
        with recorded(self.module) as record, torch.enable_grad():
            try:
                loss = self._loss_as_it_is(batch)
            except Exception as error:
                self.notes.append(f"`training_step` failed: {type(error).__name__}: {error}")
        call = _only(record.own) if record.own else _last_of_chain(record.outer)
        if loss is not None and call is not None:
            return self._checked(Way(CallTemplate.of(call, batch), call.name, call.number, in_step=True), call, loss)
        if record.own:
            self.notes.append(f"its `training_step` calls `forward` {len(record.own)} times")
            templates = [CallTemplate.of(one, batch) for one in record.own]
            self.given = [path for one in templates if one is not None for path in one.consumed(batch)]
            return None, None
        for template in likely_templates(self.module, self.whole):
            way = Way(template)
            try:
                tensor = first_tensor(self.output(way, self.whole))
            except Exception:
                continue
            if tensor is not None and tensor.is_floating_point():
                return way, None
        return None, None

    def _checked(self, way: Way, call: Call, loss: Tensor) -> tuple[Way, Tensor | None]:
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
                again = first_tensor(self.output(way, self.whole))
                if again is None or output is None or not _close(again, output.detach()):
                    same_after_copy = first_tensor(self.output(replace(way, template=None), self.whole))
                    if again is not None and same_after_copy is not None and _close(again, same_after_copy):
                        way = replace(way, copies=True)  # the loss changes the outputs in place
                    else:
                        way = replace(way, template=None, copies=True)
            except Exception:
                way = replace(way, template=None, copies=True)
        return way, gradient

    def _roles(self, way: Way) -> tuple[list[Path], list[Path]]:
        """Tensors that the outputs depend on, and others that the loss (or the targets) depends on.

        Each is exchanged between the examples, while all others stay.
        """
        before = first_tensor(self.output(way, self.whole))
        again = first_tensor(self.output(way, self.whole))
        exact = before is not None and again is not None and torch.equal(before, again)
        same = torch.equal if exact else _close  # what an unused item goes into is computed bit for bit as before
        given = way.template.consumed(self.whole) if way.template is not None else []
        inputs, candidates = [], []
        for path, tensor in tensors(self.whole).items():
            axis = self.axes.get(path, 0)
            if tensor.ndim == 0 or not isinstance(axis, int) or tensor.shape[axis] < 2:
                continue
            exchanged = replaced(self.whole, {path: tensor.roll(1, axis)})
            if torch.equal(at(exchanged, path), tensor):
                if path in given and not _named_like_targets(path):
                    inputs.append(path)
                continue
            try:
                after = first_tensor(self.output(way, exchanged))
                differs = before is None or after is None or before.shape != after.shape or not same(before, after)
            except Exception:
                differs = True
            if differs:
                inputs.append(path)
            elif self._matters(exchanged):
                candidates.append(path)
        # Lists with one tensor per example are exchanged as wholes.
        for path, axis in self.axes.items():
            if axis is LIST:
                node = at(self.whole, path)
                exchanged = replaced(self.whole, {path: node[-1:] + node[:-1]})
                try:
                    after = first_tensor(self.output(way, exchanged))
                    if before is None or after is None or before.shape != after.shape or not same(before, after):
                        inputs.append(path)
                except Exception:
                    inputs.append(path)
        return inputs, candidates

    def _matters(self, batch: Any) -> bool:
        """Whether loss or targets are others on this batch."""
        if self.predict_fn is not None:
            own, other = (self.predict_fn(self.module, _own(b))[1] for b in (self.whole, batch))
            return not (isinstance(own, Tensor) and isinstance(other, Tensor) and _close(own, other))
        loss = self.loss(batch)
        if self.base_loss is None:
            return False
        exact = self.loss(self.whole) == self.base_loss
        return loss is None or abs(loss - self.base_loss) > (0 if exact else 1e-6 * abs(self.base_loss))

    def _reading(
        self, way: Way, inputs: list[Path], candidates: list[Path], gradient: Tensor | None
    ) -> tuple[Reading, Path | None, Path | None]:
        """How outputs and targets belong together; the targets' path; that of the mask."""
        output = first_tensor(self.output(way, self.whole))
        if output is None:
            return Reading(), None, None
        vectors = held_vectors(self.module)
        loss = None if self.base_loss is None or not isfinite(self.base_loss) else self.base_loss

        def reading_of(targets: Tensor, declared: bool = False) -> Reading:
            bounded = lambda: self._stays_bounded(way)  # noqa: E731
            found = read(output, targets, loss, gradient, bounded, vectors, declared=declared)
            if found.kind != "unknown" and not found.matched and gradient is not None:
                weights = class_weights_of(found, output, targets, gradient, loss)
                found = found if weights is None else replace(found, weights=weights, matched="cross_entropy")
            return found

        if self.predict_fn is not None:
            targets = self.predict_fn(self.module, _own(self.whole))[1]
            found = reading_of(targets, declared=True) if isinstance(targets, Tensor) else Reading()
            return found, candidates[0] if len(candidates) == 1 else None, None
        found_at: list[tuple[Reading, Path]] = []
        words = [path for path in inputs if not at(self.whole, path).is_floating_point()] if not candidates else []
        for path in [*candidates, *words]:
            targets = at(self.whole, path)
            if isinstance(targets, Tensor):
                found = reading_of(targets)
                if found.kind != "unknown" and (path in candidates or found.shift):
                    found_at.append((found, path))
        found_at.sort(key=lambda pair: not pair[0].matched)
        if not found_at:
            return Reading(), candidates[0] if len(candidates) == 1 else None, None
        reading, target = found_at[0]
        return reading, target, self._mask(candidates, target, gradient)

    def _mask(self, candidates: list[Path], target: Path, gradient: Tensor | None) -> Path | None:
        """Flags beside the targets that say where the loss has a gradient."""
        targets = at(self.whole, target)
        for path in candidates:
            flags = at(self.whole, path)
            if flags.dtype is torch.bool and flags.shape == targets.shape and gradient is not None:
                if gradient.shape[: flags.ndim] == flags.shape:
                    counted = (
                        (gradient != 0).flatten(flags.ndim).any(-1) if gradient.ndim > flags.ndim else gradient != 0
                    )
                    if torch.equal(counted, flags):
                        return path
        return None

    def _stays_bounded(self, way: Way) -> bool:
        """Whether outputs stay within [0, 1] when the parameters become large: those of a sigmoid or softmax do."""
        held = [(p, p.detach().clone()) for p in self.module.parameters() if p.is_floating_point()]
        try:
            for factor in (30.0, -30.0):
                for parameter, value in held:
                    parameter.data.copy_(value * factor)
                output = first_tensor(self.output(way, self.whole))
                if output is None or not bool(((output >= 0) & (output <= 1)).all()):
                    return False
            return True
        finally:
            for parameter, value in held:
                parameter.data.copy_(value)

    def _counter(self, reading: Reading, target: Path | None, mask: Path | None) -> tuple[Counter | None, bool]:
        """What the loss is a mean over, and whether it is a sum."""
        if self.base_loss is None or not isfinite(self.base_loss):
            return EXAMPLES, False
        parts = []
        count = len(self.places)
        halves = [list(range(count // 2)), list(range(0, count, 2)), [0], list(range(count - 1)), [0, count - 1]]
        for own in halves if count > 1 else []:
            others = [number for number in range(count) if number not in own]
            if not own or not others:
                continue
            batches = [self.split(own), self.split(others)]
            losses = [None if batch is None else self.loss(batch) for batch in batches]
            if None not in losses and all(isfinite(value) for value in losses if value is not None):
                parts.append(
                    [(batch, len(n), loss) for batch, n, loss in zip(batches, (own, others), losses, strict=True)]
                )
        if not parts:
            self.notes.append(
                "the minibatch could not be cut into smaller ones, so the loss is taken for a mean over examples; "
                "give `batch_size` as the training has it"
            )
            return EXAMPLES, False
        for counter in (EXAMPLES, *counters(self.whole, reading, target, mask)):
            if is_mean_over(counter.count, (self.whole, count, self.base_loss), parts):
                return counter, False
        if is_sum(self.base_loss, parts):
            return EXAMPLES, True
        return None, False


# ---- helpers -----------------------------------------------------------------------------------------------


def _own(batch: Any) -> Any:
    """A copy for one run, which may change it."""
    return replaced(batch, {path: tensor.clone() for path, tensor in tensors(batch).items()})


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    return torch.allclose(a.detach().float(), b.detach().float(), rtol=1e-5, atol=1e-7, equal_nan=True)


def _named_like_targets(path: Path) -> bool:
    return bool(path) and str(path[-1]) in objective.TARGET_KEYS


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
