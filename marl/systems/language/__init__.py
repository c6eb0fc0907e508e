"""What the recipes of language hierarchies share."""
