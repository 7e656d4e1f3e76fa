"""The machine: files, ranks and devices, random numbers."""
