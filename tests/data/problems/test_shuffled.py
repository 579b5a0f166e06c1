"""Shuffled labels and pixels: what moves, what stays, and what is refused."""

from __future__ import annotations

import pickle
import random
from collections import Counter, namedtuple

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from lightning_dynamics import ConfigurationError
from lightning_dynamics.data.problems import ShuffledLabels, ShuffledPixels

N = 60
IMAGES = torch.arange(N * 3 * 4 * 5, dtype=torch.float32).reshape(N, 3, 4, 5)
LABELS = torch.arange(N) % 7
DATA = TensorDataset(IMAGES, LABELS)
Pair = namedtuple("Pair", ["image", "label", "weight"])


class Listed(Dataset):
    """Any items; counts how often they are read, and draws a random number each time, as augmentation does."""

    def __init__(self, items, **attributes):
        self.items, self.reads = items, 0
        self.__dict__.update(attributes)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.reads += 1
        torch.rand(1), np.random.rand(), random.random()
        return self.items[index]


def pairs(kind=int):
    return [(IMAGES[i], kind(int(LABELS[i]))) for i in range(N)]


def labels_read(dataset):
    return [int(dataset[i][1]) for i in range(len(dataset))]


def test_permuted_labels_keep_the_classes_and_the_inputs():
    shuffled = ShuffledLabels(DATA, seed=3)
    assert len(shuffled) == N and shuffled.num_classes == 7
    new = labels_read(shuffled)
    assert new == shuffled.targets.tolist() and Counter(new) == Counter(LABELS.tolist()) and new != LABELS.tolist()
    assert all(torch.equal(shuffled[i][0], IMAGES[i]) for i in range(N))
    assert torch.equal(shuffled.original_targets, LABELS) and torch.equal(DATA.tensors[1], torch.arange(N) % 7)
    assert torch.equal(ShuffledLabels(DATA, seed=3).targets, shuffled.targets)
    assert not torch.equal(ShuffledLabels(DATA, seed=4).targets, shuffled.targets)


def test_permuted_labels_are_dealt_out_evenly():
    """Every place gets every label alike: over 2,000 seeds, by a χ² whose 99.99 % quantile for 9 degrees is 33.7."""
    small = TensorDataset(torch.zeros(4, 1), torch.arange(4))
    counts = torch.zeros(4, 4)
    for seed in range(2000):
        counts[torch.arange(4), ShuffledLabels(small, seed=seed).targets] += 1
    assert float(((counts - 500) ** 2 / 500).sum()) < 33.7


def test_random_labels_are_uniform_over_all_classes():
    dataset = TensorDataset(torch.zeros(20000, 1), torch.zeros(20000, dtype=torch.int64))
    counts = torch.bincount(ShuffledLabels(dataset, 5, labels="random").targets, minlength=5)
    assert len(counts) == 5 and float(((counts - 4000.0) ** 2 / 4000).sum()) < 23.5  # χ², 4 degrees, 99.99 %
    assert set(ShuffledLabels(DATA, labels="random").targets.tolist()) == set(range(7))


@pytest.mark.parametrize("labels", ["permuted", "random"])
def test_a_share_of_the_labels(labels):
    dataset = TensorDataset(torch.zeros(1000, 1), torch.arange(1000))
    shuffled = ShuffledLabels(dataset, share=0.25, labels=labels, seed=1)
    moved = int((shuffled.targets != shuffled.original_targets).sum())
    assert 240 <= moved <= 250  # each of 250 keeps its own with a chance of 1 in 1000 or 250
    if labels == "permuted":
        assert sorted(shuffled.targets.tolist()) == list(range(1000))
    assert torch.equal(ShuffledLabels(dataset, share=0.0, labels=labels).targets, torch.arange(1000))


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (int, int),
        (np.int64, np.int64),
        (np.uint8, np.uint8),
        (torch.tensor, torch.Tensor),
        (lambda it: torch.tensor([it], dtype=torch.int32), torch.Tensor),
        (lambda it: np.array([it], dtype=np.int16), np.ndarray),
    ],
    ids=["int", "int64", "uint8", "tensor", "tensor of one", "array of one"],
)
def test_labels_keep_their_type(make, kind):
    old = pairs(make)
    shuffled = ShuffledLabels(Listed(old), seed=3)
    assert shuffled.targets.tolist() == ShuffledLabels(DATA, seed=3).targets.tolist()
    for i in range(N):
        label = shuffled[i][1]
        assert type(label) is kind and np.asarray(label).item() == shuffled.targets[i]
        assert getattr(label, "dtype", None) == getattr(old[i][1], "dtype", None)
        assert getattr(label, "shape", None) == getattr(old[i][1], "shape", None)
    assert [np.asarray(label).item() for _, label in old] == LABELS.tolist()


def test_items_keep_all_the_rest():
    mapping = Listed([{"pixel_values": IMAGES[i], "labels": int(LABELS[i]), "id": i} for i in range(N)])
    item = ShuffledLabels(mapping, seed=3)[5]
    assert list(item) == ["pixel_values", "labels", "id"] and item["id"] == 5
    assert item["labels"] == ShuffledLabels(DATA, seed=3).targets[5] and mapping.items[5]["labels"] == 5
    named = ShuffledLabels(Listed([Pair(IMAGES[i], int(LABELS[i]), i) for i in range(N)]), seed=3)[5]
    assert isinstance(named, Pair) and named.weight == 5 and named.label == item["labels"]
    assert isinstance(ShuffledLabels(Listed([[1.0, 0], [2.0, 1]]))[0], list)


@pytest.mark.parametrize("name", ["targets", "labels"])
@pytest.mark.parametrize("make", [list, np.array, torch.tensor], ids=["list", "array", "tensor"])
def test_labels_kept_beside_the_images_spare_reading_them(name, make):
    dataset = Listed(pairs(), **{name: make(LABELS.tolist())})
    shuffled = ShuffledLabels(dataset, seed=3)
    assert dataset.reads <= 4 and torch.equal(shuffled.original_targets, LABELS)


def test_labels_are_found_behind_subsets_and_concatenations():
    dataset = Listed(pairs(), targets=LABELS.tolist())
    inner = Subset(ConcatDataset([dataset, DATA]), [70, 3, 61, 5, 5])
    assert ShuffledLabels(inner).original_targets.tolist() == [3, 3, 1, 5, 5]
    assert dataset.reads <= 4
    mixed = ConcatDataset([Listed(pairs()), DATA])  # one of them must be read
    assert torch.equal(ShuffledLabels(mixed).original_targets, torch.cat([LABELS, LABELS]))


def test_a_column_spares_reading_the_images():
    class Columns(Listed):
        column_names = ["image", "label"]

        def __getitem__(self, index):
            return LABELS.tolist() if index == "label" else super().__getitem__(index)

    dataset = Columns([{"image": IMAGES[i], "label": int(LABELS[i])} for i in range(N)])
    assert torch.equal(ShuffledLabels(dataset).original_targets, LABELS) and dataset.reads <= 4


def test_labels_that_the_examples_contradict_are_not_believed():
    """As where a target_transform renumbers what ``targets`` holds."""
    dataset = Listed(pairs(lambda it: 6 - it), targets=LABELS.tolist())
    assert torch.equal(ShuffledLabels(dataset).original_targets, 6 - LABELS)
    wrong_length = Listed(pairs(), targets=LABELS.tolist()[:-1])
    assert torch.equal(ShuffledLabels(wrong_length).original_targets, LABELS)


def test_reading_the_labels_moves_no_random_stream():
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    dataset = Listed(pairs())
    ShuffledLabels(dataset)
    assert dataset.reads >= N
    assert torch.equal(torch.get_rng_state(), before[0]) and np.random.get_state()[1].tolist() == before[1]
    assert random.getstate() == before[2]


def test_workers_and_copies_see_the_same():
    shuffled = ShuffledLabels(ShuffledPixels(DATA, seed=2), seed=3, share=0.5)
    copy = pickle.loads(pickle.dumps(shuffled))
    assert labels_read(copy) == labels_read(shuffled) and torch.equal(copy[7][0], shuffled[7][0])
    loader = DataLoader(shuffled, batch_size=16, num_workers=2, multiprocessing_context="fork")
    images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert torch.equal(labels, shuffled.targets)
    assert torch.equal(images, torch.stack([shuffled[i][0] for i in range(N)]))


@pytest.mark.parametrize("wrapper", [ShuffledLabels, ShuffledPixels])
def test_indices(wrapper):
    wrapped = wrapper(DATA)
    assert torch.equal(wrapped[-1][0], wrapped[N - 1][0]) and torch.equal(wrapped[torch.tensor(2)][0], wrapped[2][0])
    for index in (N, -N - 1):
        with pytest.raises(IndexError, match=f"index {index} is out of range for 60"):
            wrapped[index]
    assert len(list(wrapped)) == N


def test_pixels_move_alike_in_all_images_and_channels():
    shuffled = ShuffledPixels(DATA, seed=3)
    assert len(shuffled) == N and sorted(shuffled.permutation.tolist()) == list(range(20))
    for i in (0, 31):
        image, label = shuffled[i]
        assert label == LABELS[i] and image.shape == (3, 4, 5) and image.dtype == torch.float32
        for channel in range(3):
            assert torch.equal(image[channel].flatten(), IMAGES[i, channel].flatten()[shuffled.permutation])
    assert not torch.equal(shuffled[0][0], IMAGES[0]) and torch.equal(DATA[0][0], IMAGES[0])
    other = TensorDataset(IMAGES[:5, :1].double())  # another split, another number of channels: the same places
    assert torch.equal(ShuffledPixels(other, seed=3).permutation, shuffled.permutation)
    assert not torch.equal(ShuffledPixels(DATA, seed=4).permutation, shuffled.permutation)


def test_images_of_every_kind():
    grey, flat = IMAGES[:, 0], IMAGES[:, 0].reshape(N, 20)
    order = ShuffledPixels(DATA, seed=3).permutation
    assert torch.equal(ShuffledPixels(TensorDataset(grey), seed=3)[4][0].flatten(), flat[4][order])
    assert torch.equal(ShuffledPixels(Listed(list(flat)), seed=3)[4], flat[4][order])
    last = (IMAGES % 256).byte().movedim(1, -1).numpy()
    moved = ShuffledPixels(Listed([{"image": it} for it in last]), seed=3, channels_last=True)[4]["image"]
    assert moved.dtype == np.uint8 and moved.shape == (4, 5, 3)
    assert np.array_equal(moved.reshape(20, 3), last[4].reshape(20, 3)[order.numpy()])
    transposed = Listed([IMAGES[0, 0].T])  # not contiguous
    assert torch.equal(ShuffledPixels(transposed, seed=3)[0].flatten(), IMAGES[0, 0].T.flatten()[order])


class Stream(IterableDataset):
    def __iter__(self):
        return iter(DATA)


@pytest.mark.parametrize("wrapper", [ShuffledLabels, ShuffledPixels])
@pytest.mark.parametrize(
    ("dataset", "text"),
    [
        (Stream(), "`dataset` must be map-style.*Stream is not"),
        (iter([]), "`dataset` must be map-style"),
        (DataLoader(DATA), "`dataset` is a DataLoader: give its data set, `loader.dataset`"),
        (Subset(DATA, []), "`dataset` is empty"),
    ],
    ids=["stream", "iterator", "loader", "empty"],
)
def test_no_data_set_to_number(wrapper, dataset, text):
    with pytest.raises(ConfigurationError, match=text):
        wrapper(dataset)


@pytest.mark.parametrize(
    ("dataset", "options", "text"),
    [
        (DATA, {"share": 1.5}, "`share=1.5` must lie between 0 and 1"),
        (DATA, {"share": float("nan")}, "`share=nan`"),
        (DATA, {"labels": "shuffled"}, "`labels='shuffled'`: give one of 'permuted', 'random'"),
        (DATA, {"num_classes": 6}, "`num_classes=6`.*these are 0 to 6"),
        (TensorDataset(IMAGES, LABELS - 1), {}, "labels must be 0 to num_classes - 1, these are -1 to 5"),
        (TensorDataset(IMAGES), {}, "example 0 has no label.*label, labels, target"),
        (TensorDataset(IMAGES, LABELS.float()), {}, "the label of example 0 is Tensor of shape .*not a whole number"),
        (TensorDataset(IMAGES, torch.eye(N)), {}, r"label of example 0 is Tensor of shape \(60,\), not one class"),
        (Listed([(1.0, 3), (1.0, "cat")]), {}, "the label of example 1 is str 'cat', not a whole number"),
        (Listed([{"image": 1}]), {}, "example 0 has no label"),
    ],
    ids=["share", "nan", "labels", "few", "negative", "none", "float", "one-hot", "text", "mapping"],
)
def test_labels_that_cannot_be_shuffled(dataset, options, text):
    with pytest.raises(ConfigurationError, match=text):
        ShuffledLabels(dataset, **options)


@pytest.mark.parametrize(
    ("dataset", "options", "text"),
    [
        (Listed([("picture.png", 3)]), {}, "the input of example 0 is of type str, no tensor or array"),
        (Listed([{"picture": IMAGES[0]}]), {}, "the input of example 0 is of type NoneType.*pixel_values"),
        (Listed([np.zeros((32, 32, 3))]), {}, r"images \(32, 32, 3\) look like \(H, W, C\): pass `channels_last=True`"),
        (Listed([np.zeros((32, 32))]), {"channels_last": True}, r"needs images \(H, W, C\), these are \(32, 32\)"),
        (Listed([torch.tensor(1.0)]), {}, r"these are \(\)"),
    ],
    ids=["text", "key", "channels", "no channels", "number"],
)
def test_pixels_that_cannot_be_shuffled(dataset, options, text):
    with pytest.raises(ConfigurationError, match=text):
        ShuffledPixels(dataset, **options)


def test_images_of_several_sizes():
    shuffled = ShuffledPixels(Listed([(torch.zeros(1, 4, 5), 0), (torch.zeros(1, 5, 4), 0)]))
    with pytest.raises(ConfigurationError, match=r"image 1 is \(1, 5, 4\), the first one had 4 × 5 places"):
        shuffled[1]
