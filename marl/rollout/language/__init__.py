"""Turn-based episodes, played side by side."""
