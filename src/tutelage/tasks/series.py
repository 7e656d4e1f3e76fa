"""Series: a sample is a sequence of numbers in channels, of one class; a network gives its logits [B, C].

It is classification of another kind of input: the edges are the same, and so are calibration, certainty and the checks
of teachers. Classes of a few series each are common, so that balanced accuracy and macro F1 stand beside accuracy.
"""

from dataclasses import replace

from tutelage.tasks.classification.task import CLASSIFICATION

SERIES = replace(CLASSIFICATION, name="series")
