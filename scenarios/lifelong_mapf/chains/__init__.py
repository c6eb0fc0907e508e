"""Plans by push chains: multi-step operations, priority inheritance over them, and search on top, for crowds."""
