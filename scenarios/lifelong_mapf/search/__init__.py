"""Anytime search over a rolling window."""
