"""How the hospitals' updates are combined: each strategy a file, its server's and its hospital's half together.

Symbols of the rules, in all files: w are trained weights, of either network, w_t as a round finds them and w_i as
hospital i leaves them; F_i is the loss of hospital i and g its gradient at w; x is any entry that is shared, be it a
weight, a buffer or of a running average; n_i are the images of hospital i, N those of all, and p_i = n_i / N. G and D
are the generator and the discriminator themselves, never numbers. What else a rule needs, its file says.
"""
