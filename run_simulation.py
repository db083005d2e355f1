"""Simulate hospitals that train a generative model together: ``python run_simulation.py --help``."""

from dermafed.command_line import run_simulation

if __name__ == "__main__":
    run_simulation()
