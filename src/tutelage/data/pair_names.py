"""What the folders of registered pairs may be called. No torch here, for an exported network needs none."""

INFRARED = ("infrared", "ir", "inf", "thermal", "lwir")
VISIBLE = ("visible", "vi", "vis", "rgb")
"""In any case."""
