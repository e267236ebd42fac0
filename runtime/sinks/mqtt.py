"""Areas and events of streams to an MQTT broker; a broker that is away never stops a stream."""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

from streamseg.counting import count_of
from streamseg.errors import SinkError
from streamseg.installation import install_command
from streamseg.option_fields import option
from streamseg.runtime.bundle.manifest import ClassInfo
from streamseg.runtime.session.events import Event
from streamseg.runtime.sinks.lines import describe_areas
from streamseg.runtime.sinks.sink import SegmentedFrame

PASSWORD_VARIABLE = "STREAMSEG_MQTT_PASSWORD"
PORTS = {"mqtt": 1883, "mqtts": 8883}
TOPIC = "streamseg"
LONGEST_TOPIC = 200
MOST_WAITING = 256  # messages that the broker has not acknowledged
KEEPALIVE = 30  # seconds after which a connection without an answer counts as lost
FIRST_PAUSE, LONGEST_PAUSE = 1, 30  # seconds between two attempts
CONNECT_SECONDS = 5.0
CLOSE_SECONDS = 2.0
EXPECTED = "expected mqtt://[USER:PASSWORD@]HOST[:PORT][/TOPIC], or mqtts:// for TLS"
_LEVEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class MqttOptions:
    """Where areas and events are published.

    Attributes:
        mqtt: address of the broker; None publishes nothing.

    Raises:
        SinkError: the address is invalid, or paho-mqtt is not installed.
    """

    mqtt: str | None = option(
        "Publish areas and events: mqtt[s]://[USER:PASSWORD@]HOST[:PORT][/TOPIC]. The password may "
        f"stand in {PASSWORD_VARIABLE}.",
        default=None,
        metavar="URL",
    )

    def __post_init__(self) -> None:
        if self.mqtt is not None:
            parse_broker(self.mqtt)


@dataclass(frozen=True)
class Broker:
    """A broker's address.

    Attributes:
        host, port: where it listens.
        tls: encrypt, and check its certificate.
        user, password: None where it asks for none.
        topic: first levels of all topics.
        name: the address for messages, without user and password.
    """

    host: str
    port: int
    tls: bool
    user: str | None
    password: str | None
    topic: str
    name: str

    def __repr__(self) -> str:
        return f"Broker({self.name})"


def parse_broker(address: str) -> Broker:
    """Read ``mqtt[s]://[USER:PASSWORD@]HOST[:PORT][/TOPIC]``.

    Raises:
        SinkError: it is anything else. The message does not repeat it: any part may be a password.
    """
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
        # As getaddrinfo does; there the error would end the thread of the connection.
        (host or "").encode("idna")
    except ValueError:
        raise SinkError(f"the MQTT address is invalid: {EXPECTED}") from None
    topic = unquote(parts.path).strip("/") or TOPIC
    user = None if parts.username is None else unquote(parts.username)
    password = None if parts.password is None else unquote(parts.password)
    texts = (address, topic, user or "", password or "")
    if (
        parts.scheme not in PORTS
        or not host
        or port == 0
        or parts.query
        or parts.fragment
        or any(not text.isprintable() for text in texts)
        or any(character.isspace() for character in host)
    ):
        raise SinkError(f"the MQTT address is invalid: {EXPECTED}")
    if len(topic) > LONGEST_TOPIC or set("+#$@") & set(topic) or "//" in topic:
        raise SinkError(
            f"the topic of the MQTT address is invalid: expected up to {LONGEST_TOPIC} characters "
            "without + # $ @ and empty levels; in passwords, write / as %2F and @ as %40"
        )
    if user is not None and password is None:
        password = os.environ.get(PASSWORD_VARIABLE) or None
    port = port or PORTS[parts.scheme]
    shown = f"[{host}]" if ":" in host else host
    name = f"{parts.scheme}://{'' if user is None else '***@'}{shown}:{port}/{topic}"
    return Broker(host, port, parts.scheme == "mqtts", user, password, topic, name)


class MqttPublisher:
    """Publishes without ever waiting for the broker.

    While the broker is away, events wait for it, ``MOST_WAITING`` at most, and areas are dropped:
    old ones serve nobody. The connection is made and made again in a thread of its own.

    Topics below the address's: ``STREAM/areas``, ``STREAM/events``, and ``status``, which is kept
    by the broker: ``online``, or ``offline`` once this process has ended in whatever way.

    Args:
        broker: from ``parse_broker``.

    Attributes:
        published: messages handed to the connection.
        dropped: messages that had no room, or areas without a connection.

    Raises:
        SinkError: paho-mqtt is not installed, or TLS cannot be set up.
    """

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.published = self.dropped = 0
        self._lock = threading.Lock()
        self._away = ""  # what was last reported of an absence
        self._closed = False
        self._client = self._make_client()
        self._client.connect_async(broker.host, broker.port, keepalive=KEEPALIVE)
        self._client.loop_start()

    def _make_client(self) -> Any:
        try:
            paho = importlib.import_module("paho.mqtt.client")
        except ImportError:
            raise SinkError(
                f"MQTT needs paho-mqtt, which is not installed. Run: {install_command('mqtt')}"
            ) from None
        client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        client.connect_timeout = CONNECT_SECONDS
        client.reconnect_delay_set(FIRST_PAUSE, LONGEST_PAUSE)
        client.max_queued_messages_set(MOST_WAITING)
        if self.broker.user is not None:
            client.username_pw_set(self.broker.user, self.broker.password)
        if self.broker.tls:
            try:
                client.tls_set()
            except (OSError, ValueError) as error:
                raise SinkError(f"{self.broker.name}: TLS cannot be set up: {error}") from None
        client.will_set(self._status, "offline", qos=1, retain=True)
        client.on_connect = self._greet
        client.on_connect_fail = lambda *_: self._note("the broker does not answer")
        client.on_disconnect = self._part
        return client

    @property
    def _status(self) -> str:
        return f"{self.broker.topic}/status"

    def _greet(
        self, client: Any, _data: object, _flags: object, reason: Any, _more: object
    ) -> None:
        if reason.is_failure:
            self._note(f"the broker refuses the connection: {reason}")
            return
        client.publish(self._status, "online", qos=1, retain=True)
        if self._away:
            logger.warning("%s: connected again", self.broker.name)
        self._away = ""

    def _part(
        self, _client: Any, _data: object, _flags: object, reason: Any, _more: object
    ) -> None:
        if not self._closed and reason.is_failure:
            self._note(f"the connection was lost: {reason}")

    def _note(self, trouble: str) -> None:
        """Log why the broker is away, once for each reason."""
        if trouble != self._away:
            self._away = trouble
            logger.warning("%s: %s; trying again", self.broker.name, trouble)

    def publish(self, stream: str, kind: str, content: Mapping[str, Any], *, keep: bool) -> None:
        """Publish JSON to ``TOPIC/STREAM/KIND``; returns at once.

        Args:
            stream: name of the stream; ``stream`` stands in the topic for what is not a plain name.
            kind: ``areas`` or ``events``.
            content: becomes JSON.
            keep: let it wait for a broker that is away.
        """
        level = stream if _LEVEL.fullmatch(stream) else "stream"
        with self._lock:
            if self._closed or not (keep or self._client.is_connected()):
                self.dropped += 1
                return
            topic = f"{self.broker.topic}/{level}/{kind}"
            info = self._client.publish(topic, json.dumps(content), qos=1)
            # 4: no connection, so that it waits; anything else but 0 is a full queue.
            accepted = info.rc in (0, 4)
            self.published += accepted
            self.dropped += not accepted

    def report(self, event: Event) -> None:
        """Publish an event, from any thread."""
        self.publish(event.stream, "events", asdict(event), keep=True)

    def close(self) -> None:
        """Send what waits if the broker is there, say goodbye, and end, in bounded time."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self._client.is_connected():
            farewell = self._client.publish(self._status, "offline", qos=1, retain=True)
            if farewell.rc == 0:
                farewell.wait_for_publish(CLOSE_SECONDS)
        self._client.disconnect()
        ending = threading.Thread(target=self._client.loop_stop, daemon=True)
        ending.start()
        ending.join(CLOSE_SECONDS)

    def __enter__(self) -> MqttPublisher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_publisher(options: MqttOptions) -> MqttPublisher | None:
    """The publisher that the options ask for, or None.

    Raises:
        SinkError: paho-mqtt is not installed, or TLS cannot be set up.
    """
    return None if options.mqtt is None else MqttPublisher(parse_broker(options.mqtt))


class MqttAreaSink:
    """Publishes each frame's shares of the classes; see ``AreaSink``.

    Args:
        publisher: of the run; closed by whoever made it.
        stream: name of the stream.
        classes: of the bundle.
    """

    needs_picture = False
    needs_confidence = False

    def __init__(self, publisher: MqttPublisher, stream: str, classes: Sequence[ClassInfo]) -> None:
        self._publisher, self._stream, self._classes = publisher, stream, tuple(classes)
        self._frames = 0

    @property
    def path(self) -> Path:
        """Nothing is written here."""
        return Path(os.devnull)

    def write(self, frame: SegmentedFrame) -> None:
        """Publish one frame's areas."""
        content = {"stream": self._stream, **describe_areas(frame, self._classes)}
        self._publisher.publish(self._stream, "areas", content, keep=False)
        self._frames += 1

    def finish(self) -> str:
        """Say how many there were."""
        lost = self._publisher.dropped
        note = f"; {lost} messages of the run dropped" if lost else ""
        return f"{self._publisher.broker.name}: areas of {count_of(self._frames, 'frame')}{note}"

    def discard(self) -> None:
        """What was published stays."""
