"""The hospital: its ClientApp, what stays there between rounds, and its local training."""
