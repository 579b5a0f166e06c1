"""Finding out what a batch means to a module."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lightning_dynamics.core.batch_tree import LIST, Path, at, replaced, tensors
from lightning_dynamics.core.calls import first_tensor
from lightning_dynamics.core.experiments import Experiments, close, own_copy
from lightning_dynamics.core.isolation import Mode, isolated
from lightning_dynamics.core.loss_terms import Part, class_weights_of, counters, held_vectors, is_mean_over, is_sum
from lightning_dynamics.core.objective import LossFn, PredictFn
from lightning_dynamics.core.outputs import Reading, read
from lightning_dynamics.core.probe import Probe
from lightning_dynamics.core.quiet import logging_disabled
from lightning_dynamics.core.task import EXAMPLES, Counter, Task, Way
from lightning_dynamics.core.ways import find_forward, find_way


def understand(
    module: Any,
    probe: Probe,
    *,
    loss_fn: LossFn | None = None,
    predict_fn: PredictFn | None = None,
    mode: Mode = "eval",
) -> Task:
    """The task of a module on a probe's examples. Costs some 30 passes over eight of them.

    Args:
        module: bare; left as it was.
        probe: whose first minibatch is tried.
        loss_fn: the user's; None for ``training_step``.
        predict_fn: the user's.
        mode: in which it is to be analysed: where eval mode is another function, inputs, targets and outputs may be
            others, too.
    """
    task = Task(type(module).__name__, predict_fn=predict_fn)
    # At parameters with nothing special about them: zeros in a last layer would hide what it does. Where the loss is
    # not finite there, at those that the module has.
    for moved in (True, False):
        with isolated(module, mode="eval", seed=probe.seed) as streams, logging_disabled(module):
            experiments = Experiments(module, probe, loss_fn, predict_fn, streams, mode=mode, moved=moved)
            task = task_of(experiments)
        if task.loss_known and not experiments.is_degenerate:
            break
    else:
        if task.loss_known:
            said = f"its loss is {experiments.base_loss}, which tells nothing of what it depends on"
            task = replace(task, notes=(*task.notes, said))
    if task.loss_known:
        task = replace(task, keeps_state=_keeps_state(module, probe, experiments, loss_fn))
    return task


_tasks: WeakKeyDictionary[Any, dict[Any, Task]] = WeakKeyDictionary()


def task_for(
    trainer: Any,
    module: Any,
    probe: Probe,
    *,
    loss_fn: LossFn | None,
    predict_fn: PredictFn | None,
    mode: Mode = "eval",
) -> tuple[Task, bool]:
    """The task that callbacks of one Trainer share, and whether it says something new."""
    known = _tasks.setdefault(trainer, {})
    data = "recorded" if probe.recorded is not None else id(probe.dataset)  # all are the beginning of one stream
    key = (id(module), data, id(probe.collate), loss_fn, predict_fn)
    is_new = False
    if (key, mode) not in known:
        task = understand(module, probe, loss_fn=loss_fn, predict_fn=predict_fn, mode=mode)
        is_new = all(str(task) != str(other) for other in known.values())
        for own in (mode,) if task.as_trained_only else ("eval", "train"):  # the same for both, but for few modules
            known[key, own] = task
    return known[key, mode], is_new


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


def task_of(experiments: Experiments) -> Task:
    """Everything."""
    way, gradient, given = find_way(experiments)
    task = Task(
        type(experiments.module).__name__,
        way=way,
        forward=find_forward(experiments, way),
        axes=experiments.sample.axes,
        differing=experiments.modes.differing,
        eval_fails=experiments.modes.eval_fails,
        as_trained_only=experiments.as_trained_only,
        random=experiments.modes.random,
        carries_state=experiments.carries_state,
        predict_fn=experiments.predict_fn,
        loss_known=experiments.base_loss is not None,
    )
    if experiments.base_loss is None:
        experiments.notes.append(
            "its loss could not be computed by `training_step`: give `loss_fn=lambda module, batch: …`"
        )
    inputs = given
    reading, target, mask = Reading(), None, None
    if way is not None or experiments.predict_fn is not None:
        try:
            inputs, candidates = _roles(experiments, way or Way())
            reading, target, mask = _reading(experiments, way or Way(), inputs, candidates, gradient)
        except Exception as error:
            if experiments.predict_fn is not None:  # the user's own function, which will be called again
                raise
            experiments.notes.append(f"the experiments on its outputs broke off: {type(error).__name__}: {error}")
    counter, sums = _counter(experiments, reading, target, mask)
    if counter is None and reading.kind == "unknown" and experiments.base_loss is not None:
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
        notes=tuple(experiments.notes),
    )


def _roles(experiments: Experiments, way: Way) -> tuple[list[Path], list[Path]]:
    """Tensors that the outputs depend on, and others that the loss (or the targets) depends on.

    Each is exchanged between the examples, while all others stay.
    """
    before = first_tensor(experiments.output(way, experiments.whole))
    again = first_tensor(experiments.output(way, experiments.whole))
    exact = before is not None and again is not None and torch.equal(before, again)
    same = torch.equal if exact else close  # what an unused item goes into is computed bit for bit as before
    inputs, candidates = [], []
    for path, tensor in tensors(experiments.whole).items():
        axis = experiments.sample.axes.get(path, 0)
        if any(experiments.sample.axes.get(path[:length]) is LIST for length in range(len(path))):
            continue  # one example's own
        if tensor.ndim == 0 or not isinstance(axis, int) or tensor.shape[axis] < 2:
            continue
        exchanged = replaced(experiments.whole, {path: tensor.roll(1, axis)})
        if torch.equal(at(exchanged, path), tensor):  # the same for all examples: nothing tells what it is
            continue
        try:
            after = first_tensor(experiments.output(way, exchanged))
            differs = before is None or after is None or before.shape != after.shape or not same(before, after)
        except Exception:
            differs = True
        if differs:
            inputs.append(path)
        elif _matters(experiments, exchanged):
            candidates.append(path)
    # Lists with one tensor per example are exchanged as wholes.
    for path, axis in experiments.sample.axes.items():
        if axis is LIST:
            node = at(experiments.whole, path)
            exchanged = replaced(experiments.whole, {path: node[-1:] + node[:-1]})
            try:
                after = first_tensor(experiments.output(way, exchanged))
                if before is None or after is None or before.shape != after.shape or not same(before, after):
                    inputs.append(path)
            except Exception:
                inputs.append(path)
    return inputs, candidates


def _matters(experiments: Experiments, batch: Any) -> bool:
    """Whether loss or targets are others on this batch."""
    if experiments.predict_fn is not None:
        own, other = (experiments.predict_fn(experiments.module, own_copy(b))[1] for b in (experiments.whole, batch))
        return not (isinstance(own, Tensor) and isinstance(other, Tensor) and close(own, other))
    loss = experiments.loss(batch)
    if experiments.base_loss is None:
        return False
    exact = experiments.loss(experiments.whole) == experiments.base_loss
    return loss is None or abs(loss - experiments.base_loss) > (0 if exact else 1e-6 * abs(experiments.base_loss))


def _reading(
    experiments: Experiments, way: Way, inputs: list[Path], candidates: list[Path], gradient: Tensor | None
) -> tuple[Reading, Path | None, Path | None]:
    """How outputs and targets belong together; the targets' path; that of the mask."""
    output = first_tensor(experiments.output(way, experiments.whole))
    if output is None:
        return Reading(), None, None
    vectors = held_vectors(experiments.module)
    loss = None if experiments.base_loss is None or not isfinite(experiments.base_loss) else experiments.base_loss

    def reading_of(targets: Tensor, declared: bool = False) -> Reading:
        bounded = lambda: experiments.stays_bounded(way)  # noqa: E731
        found = read(output, targets, loss, gradient, bounded, vectors, declared=declared)
        if found.kind != "unknown" and not found.matched and gradient is not None:
            weights = class_weights_of(found, output, targets, gradient, loss)
            found = found if weights is None else replace(found, weights=weights, matched="cross_entropy")
        return found

    if experiments.predict_fn is not None:
        targets = experiments.predict_fn(experiments.module, own_copy(experiments.whole))[1]
        found = reading_of(targets, declared=True) if isinstance(targets, Tensor) else Reading()
        return found, candidates[0] if len(candidates) == 1 else None, None
    found_at: list[tuple[Reading, Path]] = []
    # Words may be inputs and, moved by one, targets too; so may labels that a decoder is given.
    words = [path for path in inputs if not candidates and _is_whole(at(experiments.whole, path))]
    for path in [*candidates, *words]:
        targets = at(experiments.whole, path)
        if isinstance(targets, Tensor):
            found = reading_of(targets)
            if found.kind != "unknown" and (path in candidates or found.matched):
                found_at.append((found, path))
    found_at.sort(key=lambda pair: not pair[0].matched)
    if not found_at:
        return Reading(), candidates[0] if len(candidates) == 1 else None, None
    reading, target = found_at[0]
    mask = _mask(experiments, candidates, target, gradient)
    return replace(reading, masked=mask is not None), target, mask


def _is_whole(node: Any) -> bool:
    return isinstance(node, Tensor) and not (node.is_floating_point() or node.is_complex())


def _mask(experiments: Experiments, candidates: list[Path], target: Path, gradient: Tensor | None) -> Path | None:
    """Flags beside the targets that say where the loss has a gradient."""
    targets = at(experiments.whole, target)
    for path in candidates:
        flags = at(experiments.whole, path)
        if flags.dtype is torch.bool and flags.shape == targets.shape and gradient is not None:
            if gradient.shape[: flags.ndim] == flags.shape:
                counted = (gradient != 0).flatten(flags.ndim).any(-1) if gradient.ndim > flags.ndim else gradient != 0
                if torch.equal(counted, flags):
                    return path
    return None


def _counter(
    experiments: Experiments, reading: Reading, target: Path | None, mask: Path | None
) -> tuple[Counter | None, bool]:
    """What the loss is a mean over, and whether it is a sum."""
    if experiments.base_loss is None or not isfinite(experiments.base_loss):
        return EXAMPLES, False
    count = len(experiments.sample)
    parts = _parts(experiments, count)
    if not parts:
        experiments.notes.append(
            "the minibatch could not be cut into smaller ones, so the loss is taken for a mean over examples; "
            "give `batch_size` as the training has it"
        )
        return EXAMPLES, False
    for counter in (EXAMPLES, *counters(experiments.whole, reading, target, mask)):
        if is_mean_over(counter.count, (experiments.whole, count, experiments.base_loss), parts):
            return counter, False
    if is_sum(experiments.base_loss, parts):
        return EXAMPLES, True
    if experiments.is_random():
        experiments.notes.append(
            "the loss draws random numbers in eval mode too, so parts of a minibatch do not add up to it; it is taken "
            "for a mean over examples"
        )
        return EXAMPLES, False
    return None, False


def _parts(experiments: Experiments, count: int) -> list[list[Part]]:
    """Divisions of the minibatch in two, with the losses of both."""
    divisions = [list(range(count // 2)), list(range(0, count, 2)), [0], list(range(count - 1)), [0, count - 1]]
    parts: list[list[Part]] = []
    for own in divisions if count > 1 else []:
        others = [number for number in range(count) if number not in own]
        found: list[Part] = []
        for numbers in (own, others) if own and others else ():
            batch = experiments.sample.split(numbers)
            loss = None if batch is None else experiments.loss(batch)
            if loss is not None and isfinite(loss):
                found.append((batch, len(numbers), loss))
        if len(found) == 2:
            parts.append(found)
    return parts
