"""Plans as files: written, read, validated and counted."""
