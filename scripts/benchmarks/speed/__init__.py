"""Ours beside established packages."""
