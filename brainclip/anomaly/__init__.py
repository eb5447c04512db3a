"""What is not as in healthy people: normative models of embeddings, maps of slices, p-values, one scan.

Detectors follow scikit-learn: fit(X), score_samples(X) (higher: more normal), predict(X) (1 normal, -1 not),
learned attributes end in _. X is (N, 3 + F): position, age and sex, then the features; see covariates. One
detector is for slices of one plane and contrast.
"""
