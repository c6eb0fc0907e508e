"""Figures of the documentation: each table is a module here, run by ``scripts/reproduce``."""
