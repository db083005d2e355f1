"""What does a recipe teach a federation? Each is trained for the same number of steps or core-seconds, then judged.

Hospitals take turns in this one process: no Ray and no Flower, the same training steps, shares and averages as in a run
of ``dermafed simulate``. Judged on validation images (no test image is read, but with ``--part test``): KID by two
extractors, precision, recall, and what classifiers that saw nothing but generated images say of real ones. One line of
json is added for each look::

    python -m benchmarks.federated_recipes gamma-1 --root PATH/TO/ham10000 --set stylegan2.gamma=1 --steps 4566
    python -m benchmarks.federated_recipes centralised --root PATH --steps 2283 --set partition.hospitals=1

A name that stands in the file with this seed is not trained again. ``--outer-momentum`` (Nesterov's, on the averaged
update; DiLoCo, arXiv 2311.08105), which lost, and ``--average-moments`` (Adam's second moments), which may be worth its
bytes, are what only this file has (``docs/learning.md``).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_partitions.dataset import ImageDataset
from federation.allocation import keep_freed_memory
from federation.balance import WHOLE, balance_over
from federation.config import Layer, parse_assignments
from federation.models import GenerativeModel, build_model
from federation.models.drawing import Looks, drawer_of, looks_of
from federation.models.final import load_final, save_final
from federation.models.stylegan2.step import StyleGAN2
from federation.models.training import learning_rate_factor
from federation.seeding import torch_stream
from federation.sharing import trained_names
from federation.site import Site
from server.evaluation.judge import Judge
from server.evaluation.membership import nothing_attacked
from server.evaluation.run_extractor import extractor_of, second_extractor_of
from server.evaluation.supply import GeneratorSupply
from server.inputs import RunInputs, prepare_inputs
from strategies.configuration import resolve, with_values

_JUDGED = {
    "evaluation.utility-arms": "synthetic",
    "evaluation.utility-yardsticks": "",
    "evaluation.authenticity": False,
    "evaluation.threads": 1,
}


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the recipe, in the file of results")
    parser.add_argument("--root", default="", help="folder of HAM10000; left out: phantoms")
    parser.add_argument("--steps", type=int, required=True, help="of each hospital, one after the other")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="settings of the recipe")
    parser.add_argument("--looks", type=int, default=2, help="how often it is judged, the last time with classifiers")
    parser.add_argument("--classifiers-always", action="store_true", help="train classifiers at every look")
    parser.add_argument("--part", choices=("validation", "test"), default="validation", help="what it is judged on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--classifiers", type=int, default=2, help="seeds of classifiers (default 2)")
    parser.add_argument("--outer-momentum", type=float, default=0.0, metavar="M")
    parser.add_argument("--average-moments", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("federated-recipes.jsonl"), help="lines are added to it")
    parser.add_argument("--final", type=Path, help="folder for the generator")
    return parser.parse_args()


class Federation:
    """Hospitals with a model each, averaged after every round.

    Parameters
    ----------
    inputs
        Images, partition and settings.
    outer_momentum
        Of Nesterov's step along the averaged update; 0: the average itself.
    average_moments
        Whether Adam's second moments are averaged as weights are.
    """

    def __init__(self, inputs: RunInputs, *, outer_momentum: float, average_moments: bool) -> None:
        self.inputs, self.configuration = inputs, inputs.configuration
        self.momentum, self.average_moments = outer_momentum, average_moments
        names, training = inputs.partition.hospitals, self.configuration.training
        counts = inputs.partition.counts
        sites = [
            Site(name, number, int(sum(held)), tuple(held), number=number)
            for number, (name, held) in enumerate(zip(names, counts, strict=True))
        ]
        over = self.configuration.balanced_over
        balance = balance_over(sites) if over == "federation" else None
        self.shares = (
            [site.share / WHOLE for site in balance.sites]
            if balance
            else [site.num_images / sum(other.num_images for other in sites) for site in sites]
        )
        self.models = [self._model() for _ in names]
        self.looks = looks_of(sites, conditional=self.configuration.model.conditional)
        for site, model in zip(sites, self.models, strict=True):
            model.site = site.number
        self.datasets = []
        for name in names:
            rows = inputs.partition.rows_of(name)
            dataset = ImageDataset(
                inputs.images, inputs.index.labels, rows, flips=training.flips, balanced=over == "hospital"
            )
            if balance:
                dataset.balance(balance.totals)
            self.datasets.append(dataset)
        trained = trained_names(self.models[0].networks, self.models[0].anatomy)
        self._trained = [self._entries(model, trained) for model in self.models]
        self._followers = [self._entries(model, None) for model in self.models]
        self._before = [value.detach().clone() for value in self._trained[0]]
        self._velocity = [torch.zeros_like(value) for value in self._before]
        self.rounds = 0

    def _model(self) -> StyleGAN2:
        model = build_model(self.configuration)
        assert isinstance(model, StyleGAN2)
        return model

    @staticmethod
    def _entries(model: GenerativeModel, trained: set[str] | None) -> list[Tensor]:
        """Return the trained entries; or, without names, those of running averages and the mean of w."""
        if trained is not None:
            return [
                value
                for part in model.anatomy.trained
                for name, value in model.networks[part].named_parameters()
                if f"{part}.{name}" in trained
            ]
        averages = [value for part in model.anatomy.averages for value in model.networks[part].parameters()]
        buffers = [
            value
            for part in (*model.anatomy.trained, *model.anatomy.averages)
            for name, value in model.networks[part].named_buffers()
            if name.endswith("w_mean")
        ]
        return averages + buffers

    def play(self, steps: int, before: int, of: int) -> None:
        """Play a round of so many steps, of which `before` and all `of` the training."""
        self.rounds += 1
        training, names = self.configuration.training, self.inputs.partition.hospitals
        for name, model, dataset in zip(names, self.models, self.datasets, strict=True):
            stream = torch_stream(self.configuration.seed, "local training", server_round=self.rounds, site=name)
            for number in range(steps):
                model.learning_rate_factor = learning_rate_factor(training, (before + number) / of)
                model.train_step(dataset.sample_batch(stream, training.batch_size), stream)
        self._average()

    @torch.no_grad()
    def _mean(self, values: tuple[Tensor, ...]) -> Tensor:
        return torch.stack([share * value for share, value in zip(self.shares, values, strict=True)]).sum(dim=0)

    @torch.no_grad()
    def _average(self) -> None:
        for position, values in enumerate(zip(*self._trained, strict=True)):
            mean = self._mean(values)
            if self.momentum > 0:
                update = mean - self._before[position]
                velocity = self._velocity[position].mul_(self.momentum).add_(update)
                mean = self._before[position] + update + self.momentum * velocity
                self._before[position].copy_(mean)
            for value in values:
                value.copy_(mean)
        for values in zip(*self._followers, strict=True):
            mean = self._mean(values)
            for value in values:
                value.copy_(mean)
        if self.average_moments:
            self._average_second_moments()

    def _average_second_moments(self) -> None:
        for part in self.models[0].anatomy.trained:
            for parameters in zip(*(model.networks[part].parameters() for model in self.models), strict=True):
                moments = tuple(
                    model.optimizers[part].state[parameter]["exp_avg_sq"]
                    for model, parameter in zip(self.models, parameters, strict=True)
                )
                mean = self._mean(moments)
                for moment in moments:
                    moment.copy_(mean)


class Looker:
    """Judges generators on validation images."""

    def __init__(self, inputs: RunInputs, final: Path) -> None:
        self.inputs, self.final = inputs, final
        self.extractor, _ = extractor_of(inputs)
        self.second = second_extractor_of(inputs)

    def look(self, model: GenerativeModel, looks: Looks | None, *, with_classifiers: bool) -> dict[str, Any]:
        """Return what a model's running average is worth."""
        configuration = self.inputs.configuration
        save_final(self.final, drawer_of(model, looks), configuration)
        settings = with_values(configuration, {"evaluation.utility": with_classifiers})
        judge = Judge(
            dataclasses.replace(self.inputs, configuration=settings),
            self.extractor,
            device="cpu",
            progress=lambda what, done, of: None,
            second=self.second,
        )
        supply = GeneratorSupply(load_final(self.final), seed=configuration.seed, threads=1)
        attacked = nothing_attacked("recipes are compared")
        judged = judge.judge(supply, attacked=attacked, part=configuration.evaluation.part)
        scores = judged["test"]
        found = {key: _mean_of(scores[key]) for key in ("kid", "precision", "recall")}
        found["second_kid"] = _mean_of(scores["second"]["kid"])
        found["colours"], found["spectrum"] = scores["colours"]["ratio"], scores["spectrum"]["ratio"]
        if with_classifiers:
            arm = judged["utility"]["arms"]["synthetic"]
            found["balanced_accuracy"] = _mean_of(arm["balanced_accuracy"])
            found["macro_auroc"] = _mean_of(arm["macro_auroc"])
        return found


def _mean_of(value: Any) -> float:
    return float(value["mean"] if isinstance(value, dict) else value)


def main() -> None:
    """Train a recipe and judge it, unless the file has it."""
    arguments = read_arguments()
    done = arguments.out.read_text(encoding="utf-8").splitlines() if arguments.out.exists() else []
    key = (arguments.name, arguments.seed, arguments.steps)
    if any(tuple(json.loads(line)[part] for part in ("name", "seed", "steps")) == key for line in done):
        print(f"{arguments.name}, seed {arguments.seed}, {arguments.steps} steps: stands in {arguments.out} already")
        return
    torch.set_num_threads(1)
    keep_freed_memory()
    source: dict[str, Any] = {"data.source": "ham10000", "data.root": arguments.root} if arguments.root else {}
    configuration = resolve(
        [
            Layer("judgement", {**_JUDGED, **source, "evaluation.part": arguments.part, "seed": arguments.seed}),
            parse_assignments([f"evaluation.utility-seeds={arguments.classifiers}", *arguments.set]),
        ]
    )
    inputs = prepare_inputs(configuration)
    federation = Federation(inputs, outer_momentum=arguments.outer_momentum, average_moments=arguments.average_moments)
    shares = ", ".join(
        f"{name} {share:.3f}" for name, share in zip(inputs.partition.hospitals, federation.shares, strict=True)
    )
    print(f"{arguments.name}: {arguments.steps} steps at each hospital; {shares}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        looker = Looker(inputs, arguments.final or Path(scratch) / "final")
        train(federation, looker, arguments)


def train(federation: Federation, looker: Looker, arguments: argparse.Namespace) -> None:
    """Train, and look as often as asked; add a line for each look."""
    training = federation.configuration.training
    taken, seconds, looks = 0, 0.0, [arguments.steps * (n + 1) // arguments.looks for n in range(arguments.looks)]
    while taken < arguments.steps:
        steps, start = min(training.local_steps, arguments.steps - taken), time.process_time()
        federation.play(steps, taken, arguments.steps)
        seconds += time.process_time() - start
        taken += steps
        if taken < looks[0]:
            continue
        looks.pop(0)
        found = looker.look(
            federation.models[0], federation.looks, with_classifiers=arguments.classifiers_always or not looks
        )
        line = {
            "name": arguments.name,
            "seed": arguments.seed,
            "part": arguments.part,
            "steps": arguments.steps,
            "taken": taken,
            "images": taken * len(federation.models) * training.batch_size,
            "core_seconds": round(seconds, 1),
            "set": arguments.set,
            **found,
        }
        with arguments.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        words = ", ".join(f"{name} {value:.3f}" for name, value in found.items() if isinstance(value, float))
        print(f"after {taken} steps, {seconds:.0f} core-seconds: {words}", flush=True)


if __name__ == "__main__":
    main()
