"""Roads: automated and human cars on a highway on-ramp, in SUMO and in a batched twin of it."""
