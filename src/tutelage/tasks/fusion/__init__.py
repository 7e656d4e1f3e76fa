"""Fusion: one image of several registered ones; rows, scores, judge and pictures."""
