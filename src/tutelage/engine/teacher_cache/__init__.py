"""What frozen networks gave, kept on disk: how a row is stored, where, and how a run uses it."""
