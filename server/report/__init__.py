"""The report of a run: one page for a person, made of the run directory and nothing else."""

from server.report.page import write_report

__all__ = ["write_report"]
