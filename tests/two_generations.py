"""A recipe of two runs, one after another."""

RECIPE = """
[data]
name = "digits"
image_size = 8

[models.net]
arch = "resnet8"

[method]
name = "self_distill"
student = "net"
generations = 2

[train]
lr = 0.05
"""
