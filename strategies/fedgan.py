"""FedGAN: every hospital takes K local steps of generator and discriminator, the server averages both.

Rasouli, Sun and Rajagopal 2020, *FedGAN: Federated Generative Adversarial Networks for Distributed
Data*, arXiv 2006.07228, Algorithm 1: w ← Σ_i p_i w_i with p_i = n_i / N, of the discriminator and of the generator (θ
there) alike. It is FedAvg (McMahan et al. 2017, arXiv 1602.05629, Algorithm 1) of both networks, and ``fedavg`` names
the same rule.

Deviation: the running average of the generator is averaged by the same rule, since it is what is judged.
Optimiser moments are never sent: they stay at the hospital.

Costs, per hospital and round, the three networks once down and once up; at the server memory for one
sum in float64, however many hospitals there are.
"""

from __future__ import annotations

from strategies.aggregation import WeightedAverage


class FedGAN(WeightedAverage):
    """The average by number of images, summed in float64 as replies come."""
