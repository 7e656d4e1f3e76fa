"""A name -> a network that carries its own normalisation.

`architecture` says what a recipe knows of a network, `build` makes it, `wrappers` adds a cut or draws, `taps` reads
from inside it, `saved` writes and rebuilds it. `sources` knows timm, torchvision, `cifar` and plugins; `stem` fits
ImageNet networks to 32 px; `class_names` and `weights` see to it that a head means the classes of the data.
"""
