"""Recommendation: users and the items that they take."""
