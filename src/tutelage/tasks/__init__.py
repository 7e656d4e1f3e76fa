"""What a kind of work brings: its scores and checks."""
