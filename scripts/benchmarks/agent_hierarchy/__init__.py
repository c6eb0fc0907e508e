"""Tables and speed of language hierarchies."""
