"""Commands of the repository: setting up, testing, the demo, and every figure of the documentation."""
