"""The CIFAR networks of the distillation literature (CRD, mdistiller), one family a page.

Each network is a function `(num_classes, channels=3) -> nn.Module` that takes normalised images [B, channels, H, W]
and gives logits [B, num_classes]. They are drawn for 32 px and run on any size from 8 px up, since all of
them end in a global average. The stages are called `layer1`, `layer2` ... in every family, so that the same tap
names serve all of them; each family says how large its maps are.
"""
