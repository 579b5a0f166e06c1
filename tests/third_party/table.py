"""Writes ``docs/works_with.md``: trains every case with every analysis and tells what came of it.

``python -m tests.third_party.table``; the packages that are not installed keep the rows that the file has of them.
"""

from __future__ import annotations

import logging
import re
import tempfile
import warnings
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch

from tests.third_party.analyses import ANALYSES
from tests.third_party.case import Case
from tests.third_party.cases import BY_HAND, THIRD_PARTY
from tests.third_party.checks import examined

PAGE = Path(__file__).parents[2] / "docs" / "works_with.md"
GROUPS: dict[str, dict[str, Case]] = {**THIRD_PARTY, "Kinds of modules and data, written by hand": BY_HAND}
PACKAGES = ("torch", "lightning", "transformers", "peft", "torch_geometric", "pytorch-forecasting")

INTRODUCTION = """\
# What it works with

Small modules, trained for two epochs on the CPU with one analysis attached. It is told how much to compute, and
nothing about the module: no functions of the user's. `python -m tests.third_party.table` trains them all and writes
this page; the tests in `tests/third_party` hold the same for every cell.

- **works**: there is a result, and its loss is true: at the centre of a landscape, of the curvature's examples, where
  the search for critical points starts, first and last in loss contribution. It is compared with a computation in
  float64 over the whole data set at once: every token, pixel or weight counts once, whatever the minibatches. An
  accuracy, if there is one, is compared likewise; so is the CKA of two layers that hand on one row per example, for the
  modules where the tests name such layers (elsewhere, only that each layer is like itself). Two runs leave the same
  fingerprint. Eigenvalues, contributions of single layers and VoG scores are not compared here: the tests of each
  analysis do that.
- **works with `argument`**: without it the analysis rests, and its warning names the argument; with it, it works as
  above.
- **rests (`argument`)**: the analysis does nothing, and its warning names these arguments. Where nothing can be given
  because the question makes no sense (the accuracy of an autoencoder), it names what would be needed. With
  `module(batch)`, the module has to be run once before training.
- **fault**: none of these. No such cell is let into the repository.

In every cell but faults, weights, buffers, gradients, optimizer state, random number streams and logged metrics are the
same to the bit as without the analysis.
"""


def cell(case: Case, name: str) -> str:
    """One training, or two where an argument has to be given."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            outcome = examined(case, name, Path(folder))
        if outcome.word == "works":
            return "works"
        if name in case.given:
            with tempfile.TemporaryDirectory() as folder:
                if examined(case, name, Path(folder), **case.given[name]).word == "works":
                    return f"works with {_code(list(case.given[name]))}"
        return f"{outcome.word} ({_code(outcome.remedies)})"
    except AssertionError:
        return "fault"


def _code(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def rows(page: str) -> dict[str, str]:
    """The lines of its tables by the first cell."""
    found = (re.match(r"\| (.+?) \| ", line) for line in page.splitlines())
    return {match[1]: match.string for match in found if match and match[1] != "module"}


def write() -> None:
    """The page."""
    before = rows(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else {}
    heads = [name.removesuffix("Callback") for name in ANALYSES]
    lines = [INTRODUCTION]
    for group, cases in GROUPS.items():
        lines += [f"## {group}", "", f"| module | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
        for label, case in cases.items():
            if find_spec(case.package) is None:
                lines.append(before.get(label, f"| {label} |" + " not tried |" * len(heads)))
                continue
            cells = [cell(case, name) for name in ANALYSES]
            lines.append(f"| {label} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
        lines.append("")
    installed = [f"{name} {version(name)}" for name in PACKAGES if find_spec(name.replace("-", "_"))]
    lines.append(f"Tried with {', '.join(installed)}.\n")
    PAGE.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    write()
