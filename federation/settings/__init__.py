"""The tables of the configuration; what makes no sense in a table stands beside it."""
