"""Detectors that say where: maps of how unlike healthy slices each place of a slice is.

X: see brainclip.anomaly. Features are grey slices (N, H * W), or tokens of patches (N, G * G * D) on a grid
of G x G. maps(X) is (N, H, W), or (N, G, G); higher is less normal. The score of a slice is minus the mean of
the largest TOP of its map.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage
from sklearn.covariance import ledoit_wolf

from brainclip.anomaly.normative import Detector
from brainclip.errors import BrainclipError

TOP = 0.005  # share of a map; of 128 x 128 pixels of 1.5 mm: 184 mm2
BRAIN = 0.02  # grey levels above this are brain
FLOOR = 1e-3  # of the mean variance is added to each, so that places that are always empty do not explode


class LocalDetector(Detector):
    """What detectors with maps share."""

    def maps(self, X: np.ndarray) -> np.ndarray:
        """(N, H, W) or (N, G, G) float32, higher is less normal."""
        raise NotImplementedError

    def score_samples(self, X: np.ndarray) -> np.ndarray:
        return -top_mean(self.maps(X))


class Intensity(LocalDetector):
    """The grey level itself: bright, or dark within the brain. The plainest baseline; it learns nothing."""

    def __init__(self, bright: bool = True) -> None:
        self.bright = bright

    def fit(self, X: np.ndarray, y: Any = None) -> Intensity:
        """Remember the size of a slice."""
        _, features = self._apart(X, fitting=True)
        self.side_ = side_of(features.shape[1])
        self._set_offset(self.score_samples(X))
        return self

    def maps(self, X: np.ndarray) -> np.ndarray:
        _, features = self._apart(X)
        shown = features if self.bright else np.where(features > BRAIN, 1 - features, 0)
        return shown.reshape(-1, self.side_, self.side_).astype(np.float32)


class CohortZ(LocalDetector):
    """How many standard deviations a pixel is from healthy people's at its place; either sign counts.

    every_mm: between the places at which means and deviations are taken, over slices within `within_mm`.
    least: of the deviation, in grey levels. smooth: standard deviation of a Gaussian in pixels, of slices
    before they are compared. share: of healthy people with brain at a place, below which it is not judged: a
    mask that is a little wider than theirs would be the most abnormal of all.
    """

    def __init__(
        self,
        every_mm: float = 3.0,
        within_mm: float = 3.0,
        least: float = 0.05,
        smooth: float = 1.0,
        share: float = 0.5,
    ) -> None:
        self.every_mm = every_mm
        self.within_mm = within_mm
        self.least = least
        self.smooth = smooth
        self.share = share

    def fit(self, X: np.ndarray, y: Any = None) -> CohortZ:
        """Measure mean and deviation of healthy slices, place by place."""
        known, features = self._apart(X, fitting=True)
        self.side_ = side_of(features.shape[1])
        positions = known[:, 0]
        places = np.arange(positions.min(), positions.max() + self.every_mm, self.every_mm)
        means, deviations, brain, kept = [], [], [], []
        for place in places:
            near = np.abs(positions - place) <= self.within_mm
            if near.sum() < 2:
                continue
            slices = self._smoothed(features[near])
            kept.append(place)
            means.append(slices.mean(0))
            deviations.append(slices.std(0))
            brain.append((features[near] > BRAIN).mean(0).reshape(slices.shape[1:]))
        if not kept:
            raise BrainclipError("no place has two healthy slices; give more people or a larger within_mm")
        self.places_ = np.array(kept, dtype=np.float32)
        self.mean_, self.deviation_ = np.stack(means), np.stack(deviations)
        self.brain_ = np.stack(brain).astype(np.float32)
        few = np.linspace(0, len(features) - 1, min(len(features), 500)).astype(int)
        self._set_offset(self.score_samples(np.asarray(X)[few]))
        return self

    def maps(self, X: np.ndarray) -> np.ndarray:
        known, features = self._apart(X)
        row = np.abs(known[:, :1] - self.places_).argmin(1)
        slices = features.reshape(-1, self.side_, self.side_)
        away = np.abs(self._smoothed(features) - self.mean_[row]) / (self.deviation_[row] + self.least)
        judged = (slices > BRAIN) & (self.brain_[row] >= self.share)
        return np.where(judged, away, 0).astype(np.float32)

    def _smoothed(self, features: np.ndarray) -> np.ndarray:
        slices = features.reshape(-1, self.side_, self.side_)
        return np.asarray(ndimage.gaussian_filter(slices, (0, self.smooth, self.smooth)), dtype=np.float32)


class Reconstruction(LocalDetector):
    """How far slices are from what a model makes of them, edges counting less.

    remake: takes slices (N, H, W) and covariates (N, 3) and gives (N, H, W). smooth: standard deviation in
    pixels. edges: the residual is divided by 1 + edges * the gradient of the remade slice, in grey levels a
    pixel, because edges that are a little off stand out most.
    """

    def __init__(self, remake: Any, smooth: float = 1.5, edges: float = 5.0) -> None:
        self.remake = remake
        self.smooth = smooth
        self.edges = edges

    def fit(self, X: np.ndarray, y: Any = None) -> Reconstruction:
        """Remember the size of a slice, and the scores of at most 100 of these."""
        _, features = self._apart(X, fitting=True)
        self.side_ = side_of(features.shape[1])
        few = np.linspace(0, len(features) - 1, min(len(features), 100)).astype(int)
        self._set_offset(self.score_samples(np.asarray(X)[few]))
        return self

    def maps(self, X: np.ndarray) -> np.ndarray:
        known, features = self._apart(X)
        slices = features.reshape(-1, self.side_, self.side_)
        return residual(slices, self.remake(slices, known), smooth=self.smooth, edges=self.edges)


def residual(slices: np.ndarray, remade: np.ndarray, *, smooth: float, edges: float) -> np.ndarray:
    """(N, H, W) float32: absolute differences within the brain, smoothed, edges of the remade suppressed."""
    gradient = np.stack([ndimage.gaussian_gradient_magnitude(one, 1.0) for one in remade])
    away = np.where(slices > BRAIN, np.abs(slices - remade), 0) / (1 + edges * gradient)
    return np.asarray(ndimage.gaussian_filter(away, (0, smooth, smooth)), dtype=np.float32)


class PatchGaussian(LocalDetector):
    """Mahalanobis distance of each patch's token from those at its place, as in PaDiM (Defard et al. 2021).

    Means by place of the grid and bin along the plane's normal, one shrunk covariance a place of the grid.
    """

    def __init__(self, grid: int, bin_mm: float = 6.0) -> None:
        self.grid = grid
        self.bin_mm = bin_mm

    def fit(self, X: np.ndarray, y: Any = None) -> PatchGaussian:
        """Measure means and covariances of healthy tokens."""
        known, features = self._apart(X, fitting=True)
        tokens = features.reshape(len(features), self.grid**2, -1)
        bins = np.round(known[:, 0] / self.bin_mm)
        self.bins_ = np.unique(bins)
        self.means_ = np.stack([tokens[bins == one].mean(0) for one in self.bins_])
        away = tokens - self.means_[self._bin_of(known)]
        added = FLOOR * float(away.var()) * np.eye(tokens.shape[2])
        found = [ledoit_wolf(away[:, place], assume_centered=True)[0] for place in range(self.grid**2)]
        self.precision_ = np.linalg.inv(np.stack(found) + added).astype(np.float32)
        few = np.linspace(0, len(features) - 1, min(len(features), 500)).astype(int)
        self._set_offset(self.score_samples(np.asarray(X)[few]))
        return self

    def maps(self, X: np.ndarray) -> np.ndarray:
        known, features = self._apart(X)
        away = features.reshape(len(features), self.grid**2, -1) - self.means_[self._bin_of(known)]
        squares = np.einsum("npd,pde,npe->np", away, self.precision_, away, optimize=True)
        return np.sqrt(np.maximum(squares, 0)).reshape(-1, self.grid, self.grid).astype(np.float32)

    def _bin_of(self, known: np.ndarray) -> np.ndarray:
        return np.abs(known[:, :1] / self.bin_mm - self.bins_).argmin(1)


class PatchMemory(LocalDetector):
    """Distance of each patch's token to the nearest healthy one, as in PatchCore (Roth et al. 2022).

    The memory is of slices within `within_mm` along the plane's normal, and of the places of the grid next to
    the patch's own: registered brains have the same things at the same places.
    """

    def __init__(self, grid: int, within_mm: float = 5.0, near: int = 1, most: int = 300) -> None:
        self.grid = grid
        self.within_mm = within_mm
        self.near = near
        self.most = most

    def fit(self, X: np.ndarray, y: Any = None) -> PatchMemory:
        """Remember healthy tokens."""
        known, features = self._apart(X, fitting=True)
        self.positions_ = known[:, 0].copy()
        self.tokens_ = features.reshape(len(features), self.grid, self.grid, -1).astype(np.float16)
        few = np.linspace(0, len(features) - 1, min(len(features), 50)).astype(int)
        self._set_offset(-top_mean(self._maps(np.asarray(X)[few], itself=True)))
        return self

    def maps(self, X: np.ndarray) -> np.ndarray:
        return self._maps(X)

    def _maps(self, X: np.ndarray, *, itself: bool = False) -> np.ndarray:
        """itself: the slices are among those remembered, and are not compared with themselves."""
        known, features = self._apart(X)
        tokens = features.reshape(len(features), self.grid, self.grid, -1)
        found = np.full(tokens.shape[:3], np.inf, dtype=np.float32)
        steps = range(-self.near, self.near + 1)
        for row, position in enumerate(known[:, 0]):
            away = np.abs(self.positions_ - position)
            order = np.argsort(away, kind="stable")[: self.most]
            chosen = order[away[order] <= max(self.within_mm, away[order[0]])]
            memory = self.tokens_[chosen].astype(np.float32)
            if itself:
                memory = memory[np.abs(memory - tokens[row]).max((1, 2, 3)) > 1e-2]
            padded = np.pad(memory, ((0, 0), *[(self.near, self.near)] * 2, (0, 0)), constant_values=np.nan)
            for down in steps:
                for right in steps:
                    i, j = self.near + down, self.near + right
                    shifted = padded[:, i : i + self.grid, j : j + self.grid]
                    distance = np.sqrt(((shifted - tokens[row]) ** 2).sum(-1))  # (M, G, G), NaN outside
                    nearest = np.where(np.isnan(distance), np.inf, distance).min(0, initial=np.inf)
                    found[row] = np.minimum(found[row], nearest)
        return np.where(np.isfinite(found), found, 0)


def side_of(pixels: int) -> int:
    """The side of a square slice of so many pixels. BrainclipError where it is none."""
    side = round(pixels**0.5)
    if side**2 != pixels:
        raise BrainclipError(f"{pixels} features are no square slice")
    return side


def top_mean(maps: np.ndarray) -> np.ndarray:
    """(N,) the mean of the largest TOP of each map."""
    flat = maps.reshape(len(maps), -1)
    most = max(1, round(TOP * flat.shape[1]))
    return np.partition(flat, flat.shape[1] - most, 1)[:, -most:].mean(1)


def to_pixels(maps: np.ndarray, slices: np.ndarray) -> np.ndarray:
    """Maps (N, G, G) on the pixels of slices (N, H, W), linear; 0 outside the brain."""
    if maps.shape[1:] != slices.shape[1:]:
        ratio = slices.shape[1] / maps.shape[1]
        where = (np.arange(slices.shape[1]) + 0.5) / ratio - 0.5
        rows, columns = np.meshgrid(where, where, indexing="ij")
        maps = np.stack(
            [ndimage.map_coordinates(one, [rows, columns], order=1, mode="nearest") for one in maps]
        )
    return np.where(slices > BRAIN, maps, 0).astype(np.float32)
