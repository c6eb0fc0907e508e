"""Judging policies: paired instances, intervals, tables and reports."""
