"""Numbers with their spread: forecasts of the next steps, and regression; rows, scores, judge."""
