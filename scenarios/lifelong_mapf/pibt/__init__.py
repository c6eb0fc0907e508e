"""Priority inheritance with backtracking, on whole fields and on near ones."""
