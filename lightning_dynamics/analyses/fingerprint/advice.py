"""What a divergence usually means, in words."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_dynamics.analyses.fingerprint.onset import STATE, Kind, Onset

_NOUNS = {
    "rng": ("random state", "random states"),
    "settings": ("setting", "settings"),
    "batch": ("", "the batch"),
    "loss": ("", "the loss"),
    "gradients": ("gradient of", "gradients"),
    "parameters": ("parameter", "parameters"),
    "buffers": ("buffer", "buffers"),
    "optimizer": ("optimizer state", "the optimizer's state"),
}


def describe(
    kind: Kind, step: int, onsets: Sequence[Onset], lengths: tuple[int, int], notes: Sequence[str] = ()
) -> str:
    """A divergence in a few lines: what differs, what it means, what follows, what else differs.

    Args:
        kind: see :class:`~lightning_dynamics.fingerprint.Divergence`, as for the rest.
        step: likewise.
        onsets: likewise.
        lengths: likewise.
        notes: likewise.
    """
    if kind in ("processes", "model"):
        lines = ["These runs cannot be compared step by step."]
    elif kind == "length":
        shorter = "a" if lengths[0] < lengths[1] else "b"
        lines = [
            f"Equal up to step {step}, the last that both have; {shorter} ends there "
            f"(a at step {lengths[0]}, b at step {lengths[1]})."
        ]
    else:
        first = onsets[0]
        lines = [_headline(first), *_gap(first), f"Usually: {_meaning(first)}"]
        if first.kind == "loss" and None not in first.loss:
            lines.append(f"Loss: {first.loss[0]} in a, {first.loss[1]} in b.")
        later = [
            f"{_NOUNS[onset.kind][1]} {'after' if onset.kind in STATE else 'from'} step {onset.step}"
            for onset in onsets[1:]
        ]
        lines.append(f"Then differ: {', '.join(later)}." if later else _alone(first))
    return "\n".join([*lines, *(f"Note: {note}." for note in notes)])


def _headline(onset: Onset) -> str:
    if onset.kind in STATE:
        where = "Before the first step" if onset.step == 0 else f"After step {onset.step}"
    else:
        where = f"Step {onset.step}"
    if onset.place is not None:
        where += f" (epoch {onset.place[0]}, batch {onset.place[1]})"
    if onset.rank:
        where += f", process {onset.rank}"
    name = " ".join(part for part in (_NOUNS[onset.kind][0], onset.names[0]) if part)
    more = f" and {len(onset.names) - 1} more differ" if len(onset.names) > 1 else " differs"
    return f"{where}: {name}{more}{_still(onset)}."


def _still(onset: Onset) -> str:
    """What came before it and is equal, where both fingerprints have it."""
    if onset.equal_until is None and onset.kind not in ("loss", "gradients") or _gap(onset):
        return ""
    causes = [kind for kind in _NOUNS if kind in onset.compared and _before(kind, onset.kind)]
    if onset.kind == "loss" or onset.kind == "gradients":
        causes = [*(kind for kind in ("parameters", "buffers") if kind in onset.compared), *causes]
    nouns = [_NOUNS[kind][1] for kind in causes]
    if not nouns:
        return ""
    verb = "is" if len(nouns) == 1 and nouns[0].startswith("the ") else "are"
    return f"; {_listed(nouns)} {verb} still equal"


def _before(kind: str, other: str) -> bool:
    order = list(_NOUNS)
    return order.index(kind) < order.index(other)


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _gap(onset: Onset) -> list[str]:
    """That the cause may lie further back: not for losses and gradients, whose causes are in the same record."""
    first = onset.step if onset.kind in STATE else onset.step - 1
    if onset.kind in ("loss", "gradients") or (onset.equal_until or 0) == first:
        return []
    if onset.equal_until is None:
        return ["Both fingerprints have nothing earlier: the cause may lie anywhere before."]
    return [
        f"Step {onset.equal_until} is the last before it that both fingerprints have: the cause may lie anywhere in "
        "between, and `every_n_train_steps=1` finds it."
    ]


def _alone(onset: Onset) -> str:
    if onset.kind == "rng":
        return (
            "Nothing else differs: no step has used these random numbers. `ignore=('rng',)` leaves them out, "
            "as after a resume, where Lightning does not restore them."
        )
    return "Nothing else differs in what was compared."


def _meaning(onset: Onset) -> str:
    if onset.step == 0 or onset.step == 1 and onset.kind in ("rng", "settings"):
        return _AT_FIRST[onset.kind]
    if onset.kind == "batch":
        return _batch(onset)
    if onset.kind == "parameters":
        return _AFTER_GRADIENTS if "gradients" in onset.compared else _WITHOUT_GRADIENTS
    if onset.kind == "rng":
        return f"something drew numbers from {_listed(list(onset.names))} in one run only, {_MEANINGS['rng']}"
    return _MEANINGS[onset.kind]


def _batch(onset: Onset) -> str:
    if onset.sizes[0] != onset.sizes[1]:
        return (
            f"the batches have {onset.sizes[0]} and {onset.sizes[1]} examples: another `batch_size`, number of "
            "processes, or length of the data set."
        )
    if onset.same_examples:
        return (
            "the same examples in another order: a sampler or `shuffle=True` that draws from another seed, or workers "
            "that deliver as they finish (`in_order=False`)."
        )
    if onset.equal_names:
        return (
            f"{_listed(list(onset.equal_names))} equal, {_listed(list(onset.names))} not: the same examples, "
            "changed in another way. An augmentation that draws from a generator of its own, from the clock, "
            "or in workers that `seed_everything(workers=True)` has not seeded."
        )
    return (
        "other examples, or all of them changed: a sampler with a generator of its own, files listed in "
        "another order, a set or hash (`PYTHONHASHSEED`) that decides on an order, an unseeded augmentation; "
        "after a resume in mid-epoch, the loader began again."
    )


_AT_FIRST = {
    "rng": "the runs were seeded differently, or something drew random numbers before training in one run only: call "
    "`seed_everything(seed, workers=True)` first of all.",
    "parameters": "the networks began with other weights: call `seed_everything` before the module is made, or load "
    "the same checkpoint.",
    "settings": "the optimizers were configured differently.",
    "buffers": "the networks began with other buffers: other initial values, or another checkpoint.",
    "optimizer": "the optimizers began with another state, as of another checkpoint.",
}

_MEANINGS = {
    "rng": "since the step before began: in the main process, while data were loaded, in validation, in a callback "
    "or in a logger.",
    "settings": "another learning rate, from a schedule that has another length or was resumed at another point.",
    "loss": "the forward pass is not deterministic, or reads what is no part of the batch, the parameters or the "
    "global random states: atomic additions on a GPU, `cudnn.benchmark`, another number of threads, a "
    "generator of the module's own, the clock. `Trainer(deterministic=True)` names the operation.",
    "gradients": "the backward pass is not deterministic: atomic additions on a GPU (index, scatter, interpolation, "
    "embedding), another number of threads, sums over processes in another order. `Trainer(deterministic=True)` names "
    "the operation.",
    "buffers": "running statistics or a counter is updated by an operation that is not deterministic, or by something "
    "else than the training step.",
    "optimizer": "the optimizer remembers what is not in the gradients; or the gradient differed too little to move a "
    "parameter.",
}

_WITHOUT_GRADIENTS = (
    "the backward pass or the optimizer is not deterministic, or something else writes into the parameters (a"
    " callback, an average of weights). `gradients=True` tells which; `Trainer(deterministic=True)` names an "
    "operation that has no deterministic form."
)
_AFTER_GRADIENTS = (
    "the optimizer does not do the same with the same gradients (its state or implementation), or something "
    "else writes into the parameters: a callback, an average of weights."
)
