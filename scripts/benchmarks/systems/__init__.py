"""What the systems claim, in miniature."""
