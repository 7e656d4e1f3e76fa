"""Who learns from whom, and the loss of it. Nothing here knows images, disks or the networks of `models`."""
