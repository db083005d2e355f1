"""Every strategy by its name in ``strategy.name``: the one list that a new one is added to."""

from __future__ import annotations

from strategies.bulyan import Bulyan
from strategies.cap_gan import CapGAN
from strategies.dp_fedavg_gan import DPFedAvgGAN
from strategies.effgan import EFFGAN
from strategies.fed_tgan import FedTGAN
from strategies.fedadagrad import FedAdagrad
from strategies.fedadam import FedAdam
from strategies.fedavgm import FedAvgM
from strategies.fedbn import FedBN
from strategies.fedcar import FedCAR
from strategies.feddyn import FedDyn
from strategies.fedgan import FedGAN
from strategies.fedmedian import FedMedian
from strategies.fednova import FedNova
from strategies.fedprox import FedProx
from strategies.fedtrimmedavg import FedTrimmedAvg
from strategies.fedyogi import FedYogi
from strategies.fegan import FeGAN
from strategies.geometric_median import GeometricMedian
from strategies.ifl_gan import IFLGAN
from strategies.krum import Krum
from strategies.label_aware import LabelAware
from strategies.md_gan import MDGAN
from strategies.multikrum import MultiKrum
from strategies.partial_sync import PartialSync
from strategies.qfedavg import QFedAvg
from strategies.references import Alone, Centralised
from strategies.scaffold import Scaffold
from strategies.strategy import Strategy
from strategies.ua_gan import UAGAN

STRATEGIES: dict[str, type[Strategy]] = {
    "fedgan": FedGAN,
    "fedavg": FedGAN,
    "fedavgm": FedAvgM,
    "fedprox": FedProx,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "fedadagrad": FedAdagrad,
    "fedmedian": FedMedian,
    "fedtrimmedavg": FedTrimmedAvg,
    "krum": Krum,
    "multikrum": MultiKrum,
    "bulyan": Bulyan,
    "geometric-median": GeometricMedian,
    "qfedavg": QFedAvg,
    "scaffold": Scaffold,
    "fednova": FedNova,
    "feddyn": FedDyn,
    "fedbn": FedBN,
    "partial-sync": PartialSync,
    "fegan": FeGAN,
    "fed-tgan": FedTGAN,
    "ifl-gan": IFLGAN,
    "fedcar": FedCAR,
    "label-aware": LabelAware,
    "cap-gan": CapGAN,
    "effgan": EFFGAN,
    "dp-fedavg-gan": DPFedAvgGAN,
    "ua-gan": UAGAN,
    "md-gan": MDGAN,
    "centralised": Centralised,
    "alone": Alone,
}
