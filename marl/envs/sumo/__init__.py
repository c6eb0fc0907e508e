"""What scenarios on SUMO share: where it is installed, its compiled library, its files."""
