"""Tables and speed of lifelong path finding."""
