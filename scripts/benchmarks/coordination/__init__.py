"""What guidance, intent and safety bring and cost in all worlds."""
