"""What can be said of networks and targets without training a student."""
