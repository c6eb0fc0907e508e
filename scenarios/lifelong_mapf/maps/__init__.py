"""Where maps, starts and goals come from."""
