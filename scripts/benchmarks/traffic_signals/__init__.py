"""Tables and speed of traffic lights."""
