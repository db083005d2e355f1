"""``python -m dermafed`` is ``dermafed``."""

from dermafed.command_line import main

if __name__ == "__main__":
    main()
