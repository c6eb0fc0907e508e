"""The longer words of the ``marl`` command, one file each; ``marl.cli`` puts them together."""
