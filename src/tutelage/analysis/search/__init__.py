"""Which student fits a teacher, found without training."""
