"""What a learned policy sees of its surroundings."""
