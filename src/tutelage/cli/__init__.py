"""The command `tutelage`: words, calls, text."""
