"""Which images there are, and which hospital holds them."""
