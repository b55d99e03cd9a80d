"""The checks, one group of features a file."""
