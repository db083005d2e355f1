"""What server and hospitals must agree on."""
