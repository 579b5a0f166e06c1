from __future__ import annotations

import numpy as np
import pytest

from lightning_dynamics.panels import Download, Film, Picture, Table

RGB = np.zeros((4, 6, 3), np.uint8)


@pytest.mark.parametrize(
    "image",
    [
        RGB.astype(np.float32),
        RGB.astype(np.int64),
        RGB[..., 0],
        RGB[..., :1],
        np.zeros((4, 6, 4), np.uint8),
        RGB.transpose(2, 0, 1),
    ],
    ids=["float", "int64", "grey", "one channel", "alpha", "channels first"],
)
def test_images_are_rgb_bytes(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8"):
        Picture(image)
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8"):
        Film([RGB, image])


def test_a_film_has_frames_of_one_size() -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        Film([])
    with pytest.raises(ValueError, match="same size"):
        Film([RGB, RGB[:2]])


def test_a_table_has_no_ragged_rows() -> None:
    Table(["a", "b"], [])
    with pytest.raises(ValueError, match="needs 2 cells"):
        Table(["a", "b"], [[1, 2], [3]])


def test_downloads_have_plain_file_names() -> None:
    Download({"scores.csv": b"", "ünï ☃.npz": b"x", "a.tar.gz": b"", "x" * 200: b""})
    with pytest.raises(ValueError, match="at least one file"):
        Download({})
    with pytest.raises(ValueError, match="upper and lower case"):
        Download({"Scores.csv": b"", "scores.csv": b""})
    with pytest.raises(ValueError, match="must be bytes, got str"):
        Download({"scores.csv": "text"})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a/b",
        "/a",
        "../a",
        "a\\b",
        "c:a",
        "a\0b",
        "a\nb",
        "a?",
        ".hidden",
        "a.",
        "a ",
        " ",
        "x" * 201,
        "ü" * 101,
    ],
)
def test_what_is_no_plain_file_name(name: str) -> None:
    with pytest.raises(ValueError, match="not a plain file name"):
        Download({"fine.csv": b"", name: b""})
