"""Errors that a user can make, and can mend."""

from __future__ import annotations


class UserError(Exception):
    """One sentence that names the place and the mend. The command line prints it and exits with code 2."""
