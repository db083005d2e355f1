"""The ClientApp: unpack, call, pack. Nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients.hospital import Identity
from clients.outbox import Answer, Outbox
from clients.questions import Asked, describe, preflight, train
from federation.config import Layer
from federation.errors import WireError
from federation.exchange import (
    ARRAYS,
    CHECKPOINT_ROUNDS,
    CLASS_TOTALS,
    CONFIG,
    DESCRIBE,
    IMAGES_SHOWN,
    LAST_ROUND,
    PREFLIGHT,
    SEND_OWN_GENERATOR,
    SERVER_ROUND,
    SITE_NUMBER,
    TRAIN,
)
from strategies.configuration import resolve

Question = Callable[[Asked, Identity, Outbox], Answer]

_QUESTIONS: dict[str, tuple[str, Question]] = {
    DESCRIBE: ("describe", describe),
    TRAIN: ("train", train),
    PREFLIGHT: ("preflight", preflight),
}
"""By message type: the word for it in a policy, and what answers it."""


class HospitalApp(ClientApp):
    """Answers every message through the hospital's outbox, those that it does not know too."""

    def __call__(self, message: Message, context: Context) -> Message:
        """Return the reply to a message."""
        kind = message.metadata.message_type
        word, question = _QUESTIONS.get(kind, (kind, None))
        outbox = Outbox.closed(context.node_config)
        try:
            identity = Identity.from_node_config(context.node_config)
            outbox = Outbox.of(identity)
            outbox.check_question(word)
            assert question is not None
            asked = _unpack(message)
            answer = question(asked, identity, outbox)
            return outbox.send(message, word, answer, asked.configuration.anatomy)
        except Exception as error:
            return outbox.send_error(message, error)


app = HospitalApp()


def _unpack(message: Message) -> Asked:
    if CONFIG not in message.content.config_records:
        raise WireError(f"a question without its settings: the record {CONFIG!r} is missing")
    record: dict[str, Any] = dict(message.content.config_records[CONFIG])
    for key in (SERVER_ROUND, LAST_ROUND, SITE_NUMBER):
        if not isinstance(record.get(key, 0), int) or isinstance(record.get(key), bool):
            raise WireError(f"{key} = {record[key]!r}: is no whole number")
    return Asked(
        server_round=record.pop(SERVER_ROUND, 0),
        last_round=record.pop(LAST_ROUND, 0),
        images_shown=record.pop(IMAGES_SHOWN, None),
        checkpoint_rounds=record.pop(CHECKPOINT_ROUNDS, []),
        class_totals=record.pop(CLASS_TOTALS, []),
        site_number=record.pop(SITE_NUMBER, None),
        send_own=bool(record.pop(SEND_OWN_GENERATOR, False)),
        configuration=resolve([Layer("server", record, settled=True)]),
        arrays=message.content.array_records.get(ARRAYS),
    )
