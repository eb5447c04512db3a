"""Normative models of embeddings: how far a slice's lies from those of healthy people at its place.

X: see brainclip.anomaly; features are embeddings (N, D).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.interpolate import BSpline
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import Ridge
from sklearn.utils.validation import check_is_fitted

from brainclip.anomaly.covariates import apart
from brainclip.errors import BrainclipError

CONTAMINATION = 0.05  # share of the healthy slices fitted on that predict() calls abnormal
DEGREE = 3  # of the splines


class Detector(OutlierMixin, BaseEstimator):
    """What all detectors share: predict and decision_function over score_samples.

    offset_: the score below which a slice is called abnormal, by CONTAMINATION of those fitted on, which are
    nearer to the model than other people are; calibration gives the p-values.
    """

    offset_: float
    n_features_in_: int

    def score_samples(self, X: np.ndarray) -> np.ndarray:
        """(N,) higher is more normal."""
        raise NotImplementedError

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """(N,) score_samples minus offset_: below 0 is abnormal."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: np.ndarray) -> np.ndarray:
        """(N,) 1 normal, -1 abnormal."""
        return np.where(self.decision_function(X) >= 0, 1, -1)

    def _apart(self, X: np.ndarray, *, fitting: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Covariates and features; remembers, or checks, how many columns there are."""
        known, features = apart(X)
        if fitting:
            self.n_features_in_ = int(np.shape(X)[1])
        else:
            check_is_fitted(self)
            if np.shape(X)[1] != self.n_features_in_:
                raise BrainclipError(
                    f"X has {np.shape(X)[1]} columns, this detector was fitted on {self.n_features_in_}"
                )
        return known, features

    def _set_offset(self, scores: np.ndarray) -> None:
        self.offset_ = float(np.quantile(scores, CONTAMINATION))


class NearestNeighbours(Detector):
    """Minus the mean distance to the k nearest embeddings within `within_mm` along the plane's normal."""

    def __init__(self, k: int = 5, within_mm: float = 6.0) -> None:
        self.k = k
        self.within_mm = within_mm

    def fit(self, X: np.ndarray, y: Any = None) -> NearestNeighbours:
        """Remember healthy slices. BrainclipError for fewer than k + 1 of them."""
        known, self.embeddings_ = self._apart(X, fitting=True)
        self.positions_ = known[:, 0]
        if len(self.positions_) <= self.k:
            raise BrainclipError(f"{len(self.positions_)} slices; {self.k} neighbours need more")
        self._set_offset(-self._distances(X, itself=True))
        return self

    def score_samples(self, X: np.ndarray) -> np.ndarray:
        return -self._distances(X)

    def _distances(self, X: np.ndarray, *, itself: bool = False) -> np.ndarray:
        known, features = self._apart(X)
        k, found = self.k + itself, np.zeros(len(features))
        for row, position in enumerate(known[:, 0]):
            away = np.abs(self.positions_ - position)
            near = away <= self.within_mm
            if near.sum() < k:  # beyond the ends
                near = away <= np.partition(away, k - 1)[k - 1]
            distance = np.sqrt(((self.embeddings_[near] - features[row]) ** 2).sum(1))
            found[row] = np.partition(distance, k - 1)[:k].sum() / self.k  # its own distance is 0
        return found


class Mahalanobis(Detector):
    """Minus half the squared Mahalanobis distance from the mean within bins along the plane's normal.

    One covariance for all bins, shrunk (Ledoit and Wolf 2004).
    """

    def __init__(self, bin_mm: float = 9.0) -> None:
        self.bin_mm = bin_mm

    def fit(self, X: np.ndarray, y: Any = None) -> Mahalanobis:
        """Measure means and covariance of healthy slices."""
        known, features = self._apart(X, fitting=True)
        bins = np.round(known[:, 0] / self.bin_mm)
        self.bins_ = np.unique(bins)
        self.means_ = np.stack([features[bins == one].mean(0) for one in self.bins_])
        rows = self._bin_of(known)
        self.precision_ = LedoitWolf(assume_centered=True).fit(features - self.means_[rows]).precision_
        self._set_offset(self.score_samples(X))
        return self

    def score_samples(self, X: np.ndarray) -> np.ndarray:
        known, features = self._apart(X)
        return -0.5 * squared(features - self.means_[self._bin_of(known)], self.precision_)

    def _bin_of(self, known: np.ndarray) -> np.ndarray:
        """(N,) row of means_ of the nearest bin."""
        return np.abs(known[:, :1] / self.bin_mm - self.bins_).argmin(1)


class ConditionalGaussian(Detector):
    """Log-density of the embedding given position, age and sex: a linear mean and a shrunk covariance.

    The mean has a spline along the position and age, age squared and sex, the age's also changing with the
    position. What is not known of a person is set to the mean of those fitted on.
    """

    def __init__(self, knots: int = 12, alpha: float = 1.0) -> None:
        self.knots = knots
        self.alpha = alpha

    def fit(self, X: np.ndarray, y: Any = None) -> ConditionalGaussian:
        """Fit mean and covariance to healthy slices."""
        known, features = self._apart(X, fitting=True)
        spread = known[:, 0].std(), np.nanstd(known[:, 1]) if np.isfinite(known[:, 1]).any() else 0.0
        centre = [0.0 if np.isnan(column).all() else float(np.nanmean(column)) for column in known.T]
        self.centre_ = np.array(centre)
        self.scale_ = np.array([max(1e-6, spread[0]), max(1e-6, spread[1]) if spread[1] else 1.0, 1.0])
        low, high = float(known[:, 0].min()), float(known[:, 0].max())
        inner = np.linspace(low, max(high, low + 1e-3), self.knots)
        step = inner[1] - inner[0]
        outer = step * np.arange(1, DEGREE + 1)
        self.knots_ = np.concatenate([low - outer[::-1], inner, inner[-1] + outer])
        mean = Ridge(self.alpha).fit(self._design(known), features)
        self.coef_, self.intercept_ = mean.coef_, mean.intercept_
        covariance = LedoitWolf(assume_centered=True).fit(features - self._mean(known))
        self.precision_ = covariance.precision_
        sign, size = np.linalg.slogdet(covariance.covariance_)
        self.log_scale_ = float(-0.5 * (size + features.shape[1] * np.log(2 * np.pi))) if sign > 0 else 0.0
        self._set_offset(self.score_samples(X))
        return self

    def score_samples(self, X: np.ndarray) -> np.ndarray:
        known, features = self._apart(X)
        away = features - self._mean(known)
        return self.log_scale_ - 0.5 * squared(away, self.precision_)

    def _mean(self, known: np.ndarray) -> np.ndarray:
        return np.asarray(self._design(known) @ self.coef_.T + self.intercept_)

    def _design(self, known: np.ndarray) -> np.ndarray:
        """(N, P) what the mean is linear in."""
        filled = np.where(np.isfinite(known), known, self.centre_)
        place, age, sex = ((filled - self.centre_) / self.scale_).T
        inside = np.clip(filled[:, 0].astype(float), self.knots_[DEGREE], self.knots_[-DEGREE - 1])
        spline = BSpline.design_matrix(inside, self.knots_, DEGREE).toarray()
        terms = (age, age**2, sex, age * place, age * place**2, sex * place)
        return np.column_stack([spline, *terms])


def squared(away: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """(N,) squared Mahalanobis lengths of differences (N, D)."""
    return np.asarray(np.einsum("nd,de,ne->n", away, precision, away, optimize=True))


NORMATIVE = {
    "nearest neighbours": NearestNeighbours,
    "Mahalanobis": Mahalanobis,
    "conditional Gaussian": ConditionalGaussian,
}
