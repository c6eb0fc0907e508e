"""Mutation testing on a sample: does a test fail where the code is made wrong? ``scripts/test --mutants``."""
