"""What pictures of a VoGResult say beside what they draw."""

from __future__ import annotations

from lightning_dynamics.vog.result import VoGResult
from lightning_dynamics.vog.windows import ALL


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
        parts.append(f"{result.undefined} gradients that were not finite are left out")
    if result.undefined_classes:
        parts.append(f"{result.undefined_classes} classes of one example, or without spread, are not normalised")
    return "; ".join(parts)


def span(result: VoGResult, window: str) -> str:
    """The events of a window: ``"late: 5 events, steps 600 to 1000"``."""
    told = result.windows[window]
    name = "all events" if window == ALL else window
    return f"{name}: {told['events']} events, steps {told['first_step']} to {told['last_step']}"


def caption(result: VoGResult, what: str) -> str:
    """What a picture shows, for loggers that show a caption beside it."""
    return f"{what}, {moment(result)}; {basis(result)}"


def class_name(result: VoGResult, label: int) -> str:
    """A label as people know it."""
    if 0 <= label < len(result.class_names):
        return result.class_names[label]
    return str(label) if label >= 0 else "?"
