"""What agents are told about where to go: prices, fields and sub-goals."""
