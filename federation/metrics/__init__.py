"""How good generated images are: pure functions on images and on features of them."""
