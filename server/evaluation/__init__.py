"""The central judge."""
