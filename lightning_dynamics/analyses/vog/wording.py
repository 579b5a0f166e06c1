"""What pictures of a VoGResult say beside what they draw."""

from __future__ import annotations

from lightning_dynamics.analyses.vog.result import VoGResult
from lightning_dynamics.analyses.vog.windows import ALL


def moment(result: VoGResult) -> str:
    """When it was measured, for a title."""
    return f"epoch {result.epoch}, step {result.step}"


def basis(result: VoGResult) -> str:
    """What the scores rest on, for a footer."""
    settings = result.settings
    parts = [f"{result.num_examples} examples of {result.data}"]
    if settings["target"] != "label":
        parts.append(f"gradient of {settings['target'].replace('_', ' ')}")
    if settings["with_respect_to"] != "input":
        parts.append(f"by the output of {settings['with_respect_to']}")
    if settings["attribution"] != "gradient":
        parts.append(settings["attribution"].replace("_", " "))
    if settings["variant"] != "vog" or settings["channel"] != "mean" or settings["ddof"]:
        parts.append(f"variant {settings['variant']}, channel {settings['channel']}, ddof {settings['ddof']}")
    if result.undefined:
        which = "gradient that was not finite is" if result.undefined == 1 else "gradients that were not finite are"
        parts.append(f"{result.undefined} {which} left out")
    if count := result.undefined_classes:
        which, are = ("class", "is") if count == 1 else ("classes", "are")
        parts.append(f"{count} {which} of one example, or without spread, {are} not normalised")
    return "; ".join(parts)


def span(result: VoGResult, window: str) -> str:
    """The events of a window: ``"late: 5 events, steps 600 to 1000"``."""
    told = result.windows[window]
    name = "all" if window == ALL else f"{window}:"
    return f"{name} {told['events']} events, steps {told['first_step']} to {told['last_step']}"


def by_class(result: VoGResult) -> str:
    """What examples are grouped by, for a footer: nothing is said where there are no classes."""
    if bool((result.labels >= 0).any()):
        return "by class; "
    return "by the class predicted now; " if bool((result.predictions >= 0).any()) else ""


def caption(result: VoGResult, what: str) -> str:
    """What a picture shows, for loggers that show a caption beside it."""
    return f"{what}, {moment(result)}; {basis(result)}"


def class_name(result: VoGResult, label: int) -> str:
    """A label as people know it."""
    if 0 <= label < len(result.class_names):
        return result.class_names[label]
    return str(label) if label >= 0 else "?"
