"""Environments of other libraries, each kind as a PettingZoo ``ParallelEnv``. Free of torch, for worker processes."""
