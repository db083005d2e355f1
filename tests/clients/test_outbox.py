"""What leaves a real site: nothing outside its own policy, whatever a server asks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from PIL import Image

from clients.app import app
from clients.outbox import Answer, Outbox, scrubbed
from clients.policy import Policy, load_policy
from federation.config import Configuration, parse_assignments
from federation.engine.in_process import InProcessGrid
from federation.errors import ConfigurationError, DataError, NotFiniteError, WireError
from federation.exchange import (
    ARRAYS,
    CHECKPOINT_ROUNDS,
    CLASS_TOTALS,
    CONFIG,
    DESCRIBE,
    LAST_ROUND,
    METRICS,
    PREFLIGHT,
    REFUSED,
    SEND_OWN_GENERATOR,
    SERVER_ROUND,
    SITE_FAILED,
    SITE_NUMBER,
    TRAIN,
    pack_arrays,
)
from federation.models import build_model
from federation.sharing import named_tensors, shared_tensors
from strategies.building import build_local_rule
from strategies.configuration import resolve
from strategies.sharing import sharing_policy

PATIENT = "patient-4711"
CLASSES = ("mel", "nv")
FAMILIES = {
    "stylegan2": ("stylegan2.channel-max=8", "stylegan2.channel-base=32", "stylegan2.latent-size=8"),
    "vae": ("model.name=vae", "vae.channel-max=8", "vae.channel-base=32", "vae.latent-size=4"),
}
TRAINED = {"stylegan2": ("generator", "discriminator"), "vae": ("encoder", "decoder")}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site's folder: a csv with patients' names, and forty small images that bear them."""
    folder = tmp_path_factory.mktemp("secret-ward")
    stream = np.random.default_rng(0)
    rows = []
    for number in range(40):
        name = f"{PATIENT}-{number:02d}"
        Image.fromarray(stream.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{name}.png")
        rows.append({"image": f"{name}.png", "label": CLASSES[number % 2]})
    pd.DataFrame(rows).to_csv(folder / "labels.csv", index=False)
    return folder


def settings(family: str, images: Path, tmp_path: Path, *assignments: str) -> Configuration:
    return resolve(
        [
            parse_assignments(
                [
                    "data.source=folder",
                    "data.root=/where/the/server/thinks",
                    f"data.cache-dir={tmp_path / 'cache-of-the-server'}",
                    f"data.classes={','.join(CLASSES)}",
                    f"run-dir={tmp_path / 'run'}",
                    "partition.hospitals=3",
                    "partition.min-images=1",
                    "training.local-steps=2",
                    "training.batch-size=2",
                    *FAMILIES[family],
                    *assignments,
                ]
            )
        ]
    )


def ask(
    kind: str, configuration: Configuration, node: dict[str, object], arrays: bool = False, **more: object
) -> Message:
    """Send one message to a node, as any server could, and return what leaves it."""
    grid = InProcessGrid(app, {7: {"partition-id": 0, "num-partitions": 3}})
    content = RecordDict({CONFIG: ConfigRecord({**configuration.to_flat(), **more})})  # type: ignore[arg-type]
    if arrays:
        model = build_model(configuration)
        shared = shared_tensors(model.networks, sharing_policy(configuration, 0))
        content[ARRAYS] = pack_arrays(build_local_rule(configuration).down(shared, model.networks))
    message = grid.create_message(content, kind, 7, "1")
    context = Context(run_id=1, node_id=7, node_config=node, state=RecordDict(), run_config={})  # type: ignore[arg-type]
    return app(message, context)


def site_node(images: Path, tmp_path: Path, policy: str | None = None) -> dict[str, object]:
    node: dict[str, object] = {
        "partition-id": 0,
        "num-partitions": 3,
        "site": "clinic",
        "data-dir": str(images),
        "state-dir": str(tmp_path / "state"),
    }
    if policy is not None:
        file = tmp_path / "policy.toml"
        file.write_text(policy)
        file.chmod(0o600)
        node["policy"] = str(file)
    return node


def train(configuration: Configuration, node: dict[str, object], **more: object) -> Message:
    everything = {SERVER_ROUND: 1, LAST_ROUND: 0, CHECKPOINT_ROUNDS: [0], SEND_OWN_GENERATOR: True, SITE_NUMBER: 0}
    return ask(TRAIN, configuration, node, arrays=True, **(everything | more))


def names_that_left(reply: Message) -> set[str]:
    return set() if reply.has_error() else set(reply.content[ARRAYS])  # type: ignore[arg-type]


def everything_that_left(reply: Message) -> str:
    """All words of a message."""
    if reply.has_error():
        return str(reply.error.reason)
    return " ".join(
        f"{name} {list(record)} {list(record.values()) if name != ARRAYS else ''}"
        for name, record in reply.content.items()
    )


# ---------------------------------------------------------------- a server that asks for everything

PRIVATE = {
    "stylegan2": ("", "generator", "discriminator", "generator,discriminator", "generator.mapping", "*.mapping"),
    "vae": ("", "encoder", "decoder", "encoder,decoder", "decoder.mapping", "*.norm*"),
}
POLICIES = {
    None: lambda part: True,
    'parts = "{first}, {first}_ema"': lambda part: part in ("generator", "generator_ema", "encoder", "encoder_ema"),
    'parts = "nothing-of-this-name"': lambda part: False,
}


@pytest.mark.parametrize("policy", POLICIES, ids=["none", "one network", "no network"])
@pytest.mark.parametrize(
    ("family", "private"), [(family, private) for family, found in PRIVATE.items() for private in found]
)
def test_nothing_outside_the_policy_leaves(
    family: str, private: str, policy: str | None, images: Path, tmp_path: Path, one_thread: None
) -> None:
    """Whatever ``strategy.private`` says of any family, and though the server asks for what is the hospital's own."""
    configuration = settings(family, images, tmp_path, f"strategy.private={private}")
    text = policy and policy.format(first=TRAINED[family][0])
    node = site_node(images, tmp_path, text)
    allowed = POLICIES[policy]
    wanted = {
        name
        for name, value in named_tensors(build_model(configuration).networks).items()
        if sharing_policy(configuration, 0).is_shared(name, value)
    }
    described = ask(DESCRIBE, configuration, node)
    reply = train(configuration, node)
    left = names_that_left(reply)

    # Of what is private, nothing, though it is asked for; whatever our own notion of what is shared says.
    hidden = [pattern for name in private.split(",") if name for pattern in (name, f"{name}.*")]
    for name in left:
        part, _, rest = name.removeprefix("own.").partition(".")
        plain = f"{part.removesuffix('_ema')}.{rest}"
        assert not any(fnmatchcase(plain, pattern) for pattern in hidden), name
        assert not name.startswith("own.")
    if all(allowed(name.split(".")[0]) for name in wanted) and not needs_own(configuration):
        assert left == wanted
        record = described.content[CONFIG]
        assert set(record) == {"site", "num-examples", "deployed"}
        assert set(reply.content[METRICS]) == {"num-examples", "num-steps", "num-images", "num-evaluations"}
    else:
        assert described.error.code == reply.error.code == REFUSED
        assert "PolicyError" in described.error.reason
    for message in (described, reply):
        words = everything_that_left(message)
        assert PATIENT not in words
        assert str(images) not in words
        assert str(tmp_path) not in words


def needs_own(configuration: Configuration) -> bool:
    return sharing_policy(configuration, 0).keeps_drawing()


def test_what_is_private_takes_its_running_average_with_it(images: Path, tmp_path: Path, one_thread: None) -> None:
    """Before, ``strategy.private`` = a network that is not called generator left its running average public."""
    configuration = settings("vae", images, tmp_path, "strategy.private=encoder")
    left = names_that_left(train(configuration, site_node(images, tmp_path), **{SEND_OWN_GENERATOR: False}))
    assert {name.split(".")[0] for name in left} == {"decoder", "decoder_ema"}


@pytest.mark.parametrize(
    ("assignments", "words"),
    [
        (("strategy.name=label-aware",), "class counts: the strategy needs the number of images of each class"),
        (("strategy.name=ifl-gan",), "mmd: the strategy needs these numbers of each hospital"),
        (("strategy.name=scaffold",), "may not leave (control.generator."),
        (("strategy.name=fedbn",), "may not leave (own.generator_ema."),
        (
            ("stylegan2.augmentation.name=ada", "strategy.averaged-state=ada-p"),
            "training: the run would have 1 entries sent that may not leave (training.ada_p)",
        ),
    ],
)
def test_a_run_that_needs_more_is_refused_before_it_begins(
    assignments: Sequence[str], words: str, images: Path, tmp_path: Path, one_thread: None
) -> None:
    reply = ask(DESCRIBE, settings("stylegan2", images, tmp_path, *assignments), site_node(images, tmp_path))
    assert reply.error.code == REFUSED
    assert words in reply.error.reason


def test_a_policy_that_allows_more_lets_it_go(images: Path, tmp_path: Path, one_thread: None) -> None:
    policy = 'parts = "*, control.*"\ncounts = "images, classes"\nnumbers = "loss-*, seconds"'
    node = site_node(images, tmp_path, policy)
    configuration = settings("stylegan2", images, tmp_path, "strategy.name=scaffold")
    reply = train(configuration, node, **{SEND_OWN_GENERATOR: False})
    assert {name.split(".")[0] for name in names_that_left(reply)} == {
        "generator",
        "discriminator",
        "generator_ema",
        "control",
    }
    assert set(reply.content[METRICS]) == {
        "num-examples",
        "num-steps",
        "num-images",
        "num-evaluations",
        "seconds",
        "loss-generator",
        "loss-discriminator",
    }
    counted = ask(DESCRIBE, settings("stylegan2", images, tmp_path, "strategy.name=label-aware"), node)
    assert sum(counted.content[CONFIG]["class-counts"]) == counted.content[CONFIG]["num-examples"]  # type: ignore[arg-type]


def test_a_site_that_tells_no_classes_takes_part_and_is_balanced_by_itself(
    images: Path, tmp_path: Path, one_thread: None
) -> None:
    configuration = settings("stylegan2", images, tmp_path, "training.balanced-classes=federation")
    strict = site_node(images, tmp_path)
    told = ask(DESCRIBE, configuration, strict).content[CONFIG]
    assert set(told) == {"site", "num-examples", "deployed"}
    assert not train(configuration, strict, **{SEND_OWN_GENERATOR: False}).has_error()
    open_to_counts = site_node(images, tmp_path, 'counts = "images, classes"')
    assert ask(DESCRIBE, configuration, open_to_counts).content[CONFIG]["class-counts"] == [10, 10]
    # What a server says of the federation is checked against what lies here.
    reply = train(configuration, open_to_counts, **{SEND_OWN_GENERATOR: False, CLASS_TOTALS: [9, 400]})
    assert "fewer than the [10, 10] here" in reply.error.reason
    assert not train(configuration, open_to_counts, **{SEND_OWN_GENERATOR: False, CLASS_TOTALS: [10, 400]}).has_error()


@pytest.mark.parametrize("number", [-1, 3, "0", True])
def test_a_number_that_no_hospital_has_is_refused(
    number: object, images: Path, tmp_path: Path, one_thread: None
) -> None:
    reply = train(settings("stylegan2", images, tmp_path), site_node(images, tmp_path), **{SITE_NUMBER: number})
    assert names_that_left(reply) == set()
    assert "number" in reply.error.reason


@pytest.mark.parametrize("counts", ["", "classes"])
def test_a_number_of_images_that_may_not_be_told_is_not_told(
    counts: str, images: Path, tmp_path: Path, one_thread: None
) -> None:
    node = site_node(images, tmp_path, f'counts = "{counts}"')
    configuration = settings("stylegan2", images, tmp_path)
    for reply in (ask(DESCRIBE, configuration, node), train(configuration, node, **{SEND_OWN_GENERATOR: False})):
        assert reply.error.code == REFUSED
        assert "number of images: every strategy weighs by it" in reply.error.reason


# ---------------------------------------------------------------- questions and errors


@pytest.mark.parametrize("kind", ["evaluate", "query", "query.everything", "train.secretly", PREFLIGHT])
def test_a_question_that_is_not_answered_is_refused_by_name(kind: str, images: Path, tmp_path: Path) -> None:
    reply = ask(kind, settings("stylegan2", images, tmp_path), site_node(images, tmp_path))
    assert reply.error.code == REFUSED
    word = "preflight" if kind == PREFLIGHT else kind
    assert f"{word!r}" in reply.error.reason
    assert "lets it answer: describe, train" in reply.error.reason


def test_a_site_may_answer_fewer_questions(images: Path, tmp_path: Path) -> None:
    node = site_node(images, tmp_path, 'questions = "describe"')
    configuration = settings("stylegan2", images, tmp_path)
    assert not ask(DESCRIBE, configuration, node).has_error()
    assert "'train' is not answered here" in train(configuration, node).error.reason


def test_an_error_at_a_site_names_no_file_and_no_patient(images: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(images, broken)
    table = pd.read_csv(broken / "labels.csv")
    table.loc[0, "label"] = PATIENT  # a class that nobody has named: the message quotes it
    table.to_csv(broken / "labels.csv", index=False)
    reply = ask(DESCRIBE, settings("stylegan2", images, tmp_path), site_node(broken, tmp_path))
    assert reply.error.code == SITE_FAILED
    assert reply.error.reason == "DataError: see the log of this hospital, as its words may name files or images"


def test_a_missing_key_of_a_site_is_told_without_its_folder(images: Path, tmp_path: Path) -> None:
    node = site_node(images, tmp_path)
    del node["partition-id"]
    reply = ask(DESCRIBE, settings("stylegan2", images, tmp_path), node)
    assert "ConfigurationError: node configuration: partition-id missing or empty" in reply.error.reason


def test_a_simulated_hospital_raises_what_happened(images: Path, tmp_path: Path) -> None:
    """Who simulates reads tracebacks; and the question that is not known is refused there too."""
    node: dict[str, object] = {"partition-id": 0, "num-partitions": 4}
    configuration = settings("stylegan2", images, tmp_path, f"data.root={images}")
    with pytest.raises(ConfigurationError, match="there are 4 nodes"):
        ask(DESCRIBE, configuration, node)
    assert ask("query.everything", configuration, node).error.code == REFUSED


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (WireError("generator.w: missing"), "WireError: generator.w: missing"),
        (NotFiniteError("loss is nan"), "NotFiniteError: loss is nan"),
        (ConfigurationError("/srv/ward/x.toml: cannot be read"), "ConfigurationError: (path): cannot be read"),
        (DataError("ISIC_0024306.jpg cannot be decoded"), "DataError: see the log"),
        (ValueError("patient 12"), "ValueError: see the log"),
        (FileNotFoundError(2, "No such file", "/srv/ward/ISIC_1.jpg"), "FileNotFoundError: see the log"),
    ],
)
def test_what_is_said_of_errors(error: Exception, words: str) -> None:
    assert scrubbed(error).startswith(words)


# ---------------------------------------------------------------- the file


def test_decoded_images_lie_where_the_site_says(images: Path, tmp_path: Path, one_thread: None) -> None:
    """Not in the folder that the server's settings name."""
    cache = tmp_path / "cache-of-the-site"
    node = site_node(images, tmp_path, f'cache-dir = "{cache}"')
    assert not ask(DESCRIBE, settings("stylegan2", images, tmp_path, "seed=1"), node).has_error()
    assert cache.is_dir()
    assert not (tmp_path / "cache-of-the-server").exists()


def test_without_a_policy_decoded_images_lie_in_the_sites_own_folder(images: Path, tmp_path: Path) -> None:
    assert not ask(DESCRIBE, settings("stylegan2", images, tmp_path, "seed=2"), site_node(images, tmp_path)).has_error()
    assert (tmp_path / "state" / "cache").is_dir()
    assert not (tmp_path / "cache-of-the-server").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("part = 'decoder'", "part: unknown key; the nearest known key is parts"),
        ("parts = ''", "parts is empty"),
        ("questions = 'describe, gossip'", "'gossip' is not known; allowed are describe, train, preflight"),
        ("counts = 'patients'", "'patients' is not known; allowed are images, classes"),
        ("own = 'yes'", "own = 'yes'"),
        ("parts = [", "is not valid toml"),
    ],
)
def test_a_policy_that_is_wrong_is_refused(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(ConfigurationError) as caught:
        load_policy(file)
    assert words in str(caught.value)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_policy_that_others_can_write_to_is_refused(mode: int, images: Path, tmp_path: Path) -> None:
    node = site_node(images, tmp_path, 'parts = "*"')
    os.chmod(str(node["policy"]), mode)  # noqa: PTH101
    with pytest.raises(ConfigurationError, match="others than its owner can write to it"):
        load_policy(Path(str(node["policy"])))
    reply = ask(DESCRIBE, settings("stylegan2", images, tmp_path), node)
    assert reply.error.code == REFUSED
    assert "the policy file of this hospital is not as it should be" in reply.error.reason
    assert "policy.toml" not in reply.error.reason


def test_a_policy_in_a_folder_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    """They could put another file in its place; a link does not help."""
    folder = tmp_path / "open"
    folder.mkdir()
    file = folder / "policy.toml"
    file.write_text('parts = "*"')
    file.chmod(0o600)
    link = tmp_path / "link.toml"
    link.symlink_to(file)
    for path in (file, link):
        assert load_policy(path).parts == "*"
    folder.chmod(0o777)
    for path in (file, link):
        with pytest.raises(ConfigurationError, match="others can put another file in its place"):
            load_policy(path)
    folder.chmod(0o1777)  # as /tmp: only the owner removes a file
    assert load_policy(file).parts == "*"


def test_a_policy_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "policy.toml"
    file.write_text('parts = "*"')
    file.chmod(0o600)
    if os.geteuid():
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    else:
        os.chown(file, 4711, -1)
    with pytest.raises(ConfigurationError, match="belongs to another user"):
        load_policy(file)


def test_what_is_in_a_wrong_policy_stays_in_the_sites_log(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ward = tmp_path / "Ward Mueller"
    ward.mkdir()
    node = site_node(images, ward, f'{PATIENT} = "secret"')
    reply = ask(DESCRIBE, settings("stylegan2", images, tmp_path), node)
    assert reply.error.code == REFUSED
    for word in (PATIENT, "Mueller", "secret", "policy.toml"):
        assert word not in reply.error.reason
    assert f"{PATIENT}: unknown key" in caplog.text


# ---------------------------------------------------------------- half a site, and settings that lead out of it


@pytest.mark.parametrize(
    "change",
    [{"site": ""}, {"data-dir": ""}, {"site": None}, {"data-dir": None}, {"site": None, "data-dir": None}],
    ids=["site empty", "folder empty", "no site", "no folder", "policy alone"],
)
def test_half_a_site_is_no_simulated_hospital(change: dict[str, str | None], images: Path, tmp_path: Path) -> None:
    """Or everything would leave it, under the open policy of a simulation."""
    node = site_node(images, tmp_path, 'parts = "*"')
    for key, value in change.items():
        if value is None:
            del node[key]
        else:
            node[key] = value
    configuration = settings("stylegan2", images, tmp_path, f"data.root={images}")
    for reply in (ask(DESCRIBE, configuration, node), train(configuration, node)):
        assert reply.error.code == REFUSED
        assert "missing or empty" in reply.error.reason


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("data.csv=/etc/other-ward.csv", "leads out of a site's own folder"),
        ("data.csv=../other-ward.csv", "leads out of a site's own folder"),
        ("data.dataset=/srv/other-ward", "a site reads its own folder alone"),
        ("data.source=huggingface", "a site reads its own folder alone"),
        ("run-dir=/x/..", "its last part names the folder in which a site keeps its state"),
    ],
)
def test_a_server_cannot_lead_a_site_out_of_its_folder(
    assignment: str, words: str, images: Path, tmp_path: Path
) -> None:
    # As a server might ask that checks nothing itself.
    changed = parse_assignments([assignment]).values
    reply = ask(DESCRIBE, settings("stylegan2", images, tmp_path), site_node(images, tmp_path), **changed)
    assert reply.error.code == REFUSED
    assert words in reply.error.reason


def test_counts_of_classes_do_not_go_as_numbers(images: Path, tmp_path: Path) -> None:
    outbox = Outbox(Policy(numbers="*", counts="images"), is_site=True)
    assert outbox._facts(Answer(facts={"class-counts": [1, 2], "num-examples": 3, "step-seconds": 0.5})) == {
        "num-examples": 3,
        "step-seconds": 0.5,
    }


@pytest.mark.parametrize(
    ("kind", "content", "words"),
    [
        (DESCRIBE, RecordDict(), "WireError: a question without its settings"),
        (TRAIN, RecordDict({CONFIG: ConfigRecord({SERVER_ROUND: "x"})}), "WireError: server-round = 'x'"),
    ],
)
def test_a_malformed_question_is_refused_by_name(
    kind: str, content: RecordDict, words: str, images: Path, tmp_path: Path
) -> None:
    grid = InProcessGrid(app, {7: {"partition-id": 0, "num-partitions": 3}})
    message = grid.create_message(content, kind, 7, "1")
    context = Context(run_id=1, node_id=7, node_config=site_node(images, tmp_path), state=RecordDict(), run_config={})  # type: ignore[arg-type]
    assert words in app(message, context).error.reason


def test_a_round_without_networks_is_refused_by_name(images: Path, tmp_path: Path, one_thread: None) -> None:
    reply = ask(TRAIN, settings("stylegan2", images, tmp_path), site_node(images, tmp_path), **{SITE_NUMBER: 0})
    assert "WireError: a round without networks to train" in reply.error.reason


def test_the_strictest_policy_is_the_default() -> None:
    policy = Policy()
    networks = ("generator", "discriminator", "generator_ema")
    assert policy.sends_entry("generator.mapping.w_mean", networks)
    assert not policy.sends_entry("training.ada_p", networks)
    assert not policy.sends_entry("control.generator.w", networks)
    assert not policy.sends_entry("own.generator_ema.w", networks)
    assert not policy.sends_number("loss-generator")
    assert not policy.tells("classes")


def test_an_attack_is_a_filter_of_what_leaves(images: Path, tmp_path: Path, one_thread: None) -> None:
    """A simulated hospital that sends its update times minus two."""
    node: dict[str, object] = {"partition-id": 0, "num-partitions": 1}
    common = ("partition.hospitals=1", f"data.root={images}")
    replies = [
        train(settings("stylegan2", images, tmp_path, *common, *attack), node, **{SEND_OWN_GENERATOR: False})
        for attack in ((), ("attack.name=sign-flipped", "attack.scale=2.0"))
    ]
    start = named_tensors(build_model(settings("stylegan2", images, tmp_path, *common)).networks)
    name = "generator.mapping.layers.0.weight"
    honest, hostile = (torch.from_numpy(reply.content[ARRAYS][name].numpy().copy()) for reply in replies)  # type: ignore[union-attr,index]
    assert not torch.equal(honest, start[name])
    torch.testing.assert_close(hostile - start[name], -2 * (honest - start[name]), rtol=1e-4, atol=1e-6)
