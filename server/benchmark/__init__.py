"""Strategies x partitions x models x seeds under equal budgets, and what the results say."""
