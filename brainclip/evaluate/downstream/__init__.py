"""Downstream: are generated slices of use for training a classifier? Tested on other people alone."""
