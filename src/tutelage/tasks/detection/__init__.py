"""Objects are found: what a row is, what a place of a grid is to say, predictions, scores."""
