"""Tiny worlds, each made for what one kind of claim is about; minutes of training tell."""
