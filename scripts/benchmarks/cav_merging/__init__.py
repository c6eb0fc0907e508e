"""Tables and speed of highway on-ramps, and the twin beside SUMO."""
