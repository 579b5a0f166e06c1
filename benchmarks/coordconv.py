"""What the coordinates cost: a convolution, ours, and the plain way of appending channels, side by side.

Run ``python benchmarks/coordconv.py``. A step is a forward and a backward pass on one thread, to weights and input.
Times are process CPU seconds, interleaved, medians, relative to ``nn.Conv2d`` of the same arguments. Kept: what a
forward pass keeps for the backward pass, in MiB, each storage once, weights left out.
"""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor, nn

from lightning_dynamics.nn import AddCoordinates, CoordConv2d

SHAPES = [(16, 3, 64, 64, 7), (16, 16, 64, 32, 3), (16, 64, 32, 64, 3), (16, 64, 32, 64, 1), (64, 128, 8, 128, 3)]
ROUNDS = 15


def layers(channels: int, out: int, kernel: int) -> dict[str, nn.Module]:
    padding = kernel // 2
    return {
        "nn.Conv2d": nn.Conv2d(channels, out, kernel, padding=padding),
        "CoordConv2d": CoordConv2d(channels, out, kernel, padding=padding),
        "CoordConv2d, radius": CoordConv2d(channels, out, kernel, padding=padding, radius=True),
        "AddCoordinates, nn.Conv2d": nn.Sequential(
            AddCoordinates(), nn.Conv2d(channels + 2, out, kernel, padding=padding)
        ),
    }


def kept(layer: nn.Module, x: Tensor) -> float:
    storages: dict[int, int] = {parameter.untyped_storage().data_ptr(): 0 for parameter in layer.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storages.setdefault(tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    return sum(storages.values()) / 2**20


def main() -> None:
    torch.set_num_threads(1)
    for batch, channels, side, out, kernel in SHAPES:
        torch.manual_seed(0)
        x = torch.randn(batch, channels, side, side, requires_grad=True)
        ways = layers(channels, out, kernel)
        times: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(ROUNDS + 2):
            for name, layer in ways.items():
                start = time.process_time()
                layer(x).sum().backward()
                if turn >= 2:
                    times[name].append(time.process_time() - start)
        base = statistics.median(times["nn.Conv2d"])
        print(f"{batch} x {channels} x {side} x {side} -> {out}, kernel {kernel}")
        for name, layer in ways.items():
            median = statistics.median(times[name])
            print(f"  {name:28s}{1e3 * median:8.2f} ms   x {median / base:.2f}   kept {kept(layer, x):6.2f} MiB")


if __name__ == "__main__":
    main()
