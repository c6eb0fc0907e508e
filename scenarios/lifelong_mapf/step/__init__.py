"""The rules of the world: instances, moves, goals, in numba and in plain torch."""
