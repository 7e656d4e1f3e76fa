"""Images are classified: scores, calibration, the teacher's certainty, attacks."""
