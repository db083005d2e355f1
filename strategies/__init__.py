"""How the hospitals' updates are combined: each strategy a file, its server's and its hospital's half together."""
