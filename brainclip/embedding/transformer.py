"""SliceEmbedder: the embeddings as a scikit-learn transformer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from brainclip.embedding.embedded import geometry_of, open_model
from brainclip.embedding.samples import samples
from brainclip.encode import encode_images
from brainclip.errors import BrainclipError


class SliceEmbedder(TransformerMixin, BaseEstimator):
    """Slices -> (N, D) float32 embeddings of unit length, for a Pipeline.

    model: "mini", a model folder or a hub id. contrast, device: as in brainclip.embedding.embedded. X: what
    samples() takes, one slice each: arrays (H, W) or one of (N, H, W), PNG or NIfTI slices. Nothing is
    learned from them; fit opens the model, whose name and width are model_name_ and n_features_out_.
    """

    def __init__(self, model: str | Path = "mini", contrast: str | None = None, device: str | None = None):
        self.model = model
        self.contrast = contrast
        self.device = device

    def fit(self, X: Any = None, y: Any = None) -> SliceEmbedder:  # noqa: N803 scikit-learn's name
        """Open the model; BrainclipError where there is none such."""
        opened = open_model(self.model)
        self.model_name_ = opened.name
        self.n_features_out_ = opened.clip.embedding_width
        return self

    def transform(self, X: Any) -> np.ndarray:  # noqa: N803
        """(N, D) float32. BrainclipError for what is no slice, and for a volume, which is many."""
        check_is_fitted(self, "model_name_")
        opened = open_model(self.model)
        found = list(samples(X, geometry_of(opened), contrast=self.contrast))
        if any(one.prepared for one in found):
            raise BrainclipError("a volume is many slices, and a row of X is one; embed it with embed()")
        made = encode_images(opened.clip, (one.pixels for one in found), device=self.device)
        return made.numpy()

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """clip0, clip1 ..."""
        check_is_fitted(self, "model_name_")
        return np.array([f"clip{k}" for k in range(self.n_features_out_)], dtype=object)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_name_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = True
        tags.input_tags.string = True
        tags.input_tags.three_d_array = True
        return tags
