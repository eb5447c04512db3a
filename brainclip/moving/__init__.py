"""Moving in the space: one person at other ages, variations, edits, markers and stacks, all synthetic.

points.py      what a picture is drawn from; points of prompts and of pictures, and pictures of points
sphere.py      the way between two embeddings
changes.py     trajectory, vary, interpolate, edit: the embedding is moved, the noise is kept
redraw.py      redraw, inpaint: the picture itself is where the drawing begins
markers.py     mark: simulated lesions in healthy slices, with their masks
stacks.py      stack: consecutive slices of one synthetic person, and how consistent they are
strips.py      several pictures side by side, as one PNG or GIF
"""
