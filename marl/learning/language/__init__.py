"""What learns from rows of tokens."""
