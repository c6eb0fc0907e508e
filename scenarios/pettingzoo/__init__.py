"""Somebody's environments by name: PettingZoo, Gymnasium and marlenv ones, without a line of code."""
