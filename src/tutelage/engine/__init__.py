"""Takes the steps: the loop, how networks compute, and the cache of the teachers' outputs."""
