"""A name -> a network that carries its own normalisation.

`architecture` says what a recipe knows of a network, `build` makes it, `wrappers` adds a cut or draws, `saved` writes
and rebuilds it. `sources` knows timm, torchvision, `cifar`, `series` and plugins; `stem` fits ImageNet networks to
32 px; `classifier` finds the head, `class_names` and `weights` see to it that it means the classes of the data; `cost`
says what a network costs. `graph.taps` reads from inside one.
"""
