"""EFFGAN: FedGAN, then every hospital fine-tunes; images come from the mixture of their generators.

Ekblom, Zec and Mogren 2022, *EFFGAN: Ensembles of fine-tuned federated GANs*, arXiv 2206.11682. How long hospitals
fine-tune, and the weights of the mixture, were not read: here it is the last ``strategy.fine-tune-rounds`` rounds, and
of each class each generator gives as many images as its hospital's share of that class; of an unconditional
federation, of all images. Both networks are fine-tuned.

Costs what FedGAN costs until then. The server goes on sending the global networks, and hospitals send nothing but
the generators that are judged. Reveals what FedGAN reveals, and every hospital's own generator.
"""

from __future__ import annotations

from strategies.aggregation import WeightedAverage


class EFFGAN(WeightedAverage):
    """FedGAN while hospitals share."""
