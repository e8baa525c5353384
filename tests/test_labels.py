"""Tests of `qkspace.app.labels`: names do not lie over each other, stay while one zooms in, and become more."""

from __future__ import annotations

import numpy as np
import pytest

from qkspace.app import labels
from qkspace.app.raster import Extent

FRAME = (800, 600)


@pytest.fixture
def cloud() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    place = random.normal(size=(5_000, 2))
    return place, np.arange(5_000), random.integers(1, 12, size=5_000)


def chosen(
    cloud: tuple[np.ndarray, ...], view: Extent, wanted: np.ndarray | None = None, name: np.ndarray | None = None
) -> np.ndarray:
    place, rows, length = cloud
    wanted = np.ones(len(rows), dtype=bool) if wanted is None else wanted
    return labels.choose(place, rows, length, rows if name is None else name, view, FRAME, wanted)


@pytest.mark.parametrize("half", [4.0, 1.0, 0.2])
def test_no_name_lies_over_another(cloud: tuple[np.ndarray, ...], half: float) -> None:
    place, _, length = cloud
    view = Extent(-half, half, -half * 0.75, half * 0.75)
    found = chosen(cloud, view)
    pixel = 2 * half / FRAME[0]
    boxes = [(*place[i], (labels.CHARACTER * length[i] + 8) * pixel) for i in found]
    assert len(boxes) > 5
    for i, (x, y, width) in enumerate(boxes):
        assert view.x0 < x < view.x1 and view.y0 < y < view.y1
        for other_x, other_y, other_width in boxes[:i]:
            apart = (
                x >= other_x + other_width or other_x >= x + width or abs(y - other_y) >= labels.HEIGHT * pixel * 0.999
            )
            assert apart


def test_more_are_named_the_nearer_one_looks_and_those_named_before_stay_first(cloud: tuple[np.ndarray, ...]) -> None:
    far, near = Extent(-4, 4, -3, 3), Extent(-0.4, 0.4, -0.3, 0.3)
    assert len(chosen(cloud, far)) == labels.FEW < len(chosen(cloud, near)) <= labels.MANY
    ranks = labels.rank(chosen(cloud, near))
    assert (np.diff(ranks.astype(np.float64)) > 0).all()


def test_only_what_is_wanted_is_named(cloud: tuple[np.ndarray, ...]) -> None:
    wanted = np.zeros(5_000, dtype=bool)
    wanted[[7, 8]] = True
    assert set(chosen(cloud, Extent(-9, 9, -9, 9), wanted)) <= {7, 8}
    assert not len(chosen(cloud, Extent(-9, 9, -9, 9), np.zeros(5_000, dtype=bool)))


def test_a_crowd_says_each_name_once(cloud: tuple[np.ndarray, ...]) -> None:
    name = np.arange(5_000) % 3
    found = chosen(cloud, Extent(-4, 4, -3, 3), name=name)
    assert sorted(name[found]) == sorted(set(name[found]))
