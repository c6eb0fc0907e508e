"""SUMO itself: networks, routes, simulations in worker processes."""
