"""The coordinator: its ServerApp and the round loop."""
