"""Scripts that make what is shipped: maps, networks, policies, recordings."""
