"""CAP-GAN's split: layers of the generator that are general are shared, those that are personal stay.

Zhang et al. 2023, *CAP-GAN: Towards Collaborative and Personalized Generative Adversarial Networks*, IEEE
Transactions on Mobile Computing, 10.1109/tmc.2023.3278668. Only its abstract was read: a generator is divided into a
sharing and a personalising layer. The division is ours: synthesis is shared, and the mapping network stays, or the
layers that turn w into styles (``strategy.personal-part``). Its cloud, edge and device game is not here.

Hospitals have generators of their own; what is judged is their mixture. Costs what FedGAN costs, less what stays.
Reveals what FedGAN reveals of the rest; in simulations the private layers are handed over to be judged.
"""

from __future__ import annotations

from strategies.aggregation import WeightedAverage


class CapGAN(WeightedAverage):
    """FedGAN on what is shared."""
