"""The counts behind the promises of docs/trust.md."""
