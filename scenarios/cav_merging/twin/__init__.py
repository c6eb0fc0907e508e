"""The batched twin: the rules of SUMO on tensors."""
