"""Areas and events at a real broker (mosquitto), read by its own command-line client's library.

The broker is stopped, started again, stalled and protected by a password; the stream never waits.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamseg.errors import SinkError
from streamseg.installation import install_command
from streamseg.runtime.bundle.manifest import ClassInfo
from streamseg.runtime.session.events import Event
from streamseg.runtime.sinks.mqtt import (
    MOST_WAITING,
    MqttAreaSink,
    MqttOptions,
    MqttPublisher,
    parse_broker,
)
from streamseg.runtime.sinks.sink import SegmentedFrame
from tests.cli.test_run import call, refusal
from tests.runtime.streams import free_port
from tests.runtime.toy import write_toy_bundle

paho = pytest.importorskip("paho.mqtt.client", reason="MQTT needs the extra 'mqtt'")

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
NEEDS_BROKER = pytest.mark.skipif(MOSQUITTO is None, reason="no mosquitto: make stream-tools")
CLASSES = (ClassInfo(0, "road", (1, 1, 1)), ClassInfo(1, "car", (2, 2, 2)))
SECRET = "hunter2"


class RunningBroker:
    """mosquitto on loopback; may be stopped and started again on its port."""

    def __init__(self, folder: Path, login: bool = False) -> None:
        self.port = free_port()
        lines = [f"listener {self.port} 127.0.0.1", "persistence false"]
        lines += ["allow_anonymous " + ("false" if login else "true")]
        if login:
            passwords = folder / "passwords"
            passwords.touch(mode=0o600)
            subprocess.run(
                ["mosquitto_passwd", "-b", str(passwords), "robot", SECRET],
                check=True,
                capture_output=True,
            )
            lines += [f"password_file {passwords}"]
        if os.geteuid() == 0:
            lines += ["user root"]
        self.config = folder / "mosquitto.conf"
        self.config.write_text("\n".join(lines) + "\n")
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        assert MOSQUITTO is not None
        self.process = subprocess.Popen(
            [MOSQUITTO, "-c", str(self.config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self._listens)

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    @property
    def address(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}/site"


class Subscriber:
    """Collects everything below a topic."""

    def __init__(self, port: int, **login: str) -> None:
        self.messages: list[tuple[str, str]] = []
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        if login:
            self.client.username_pw_set(**login)
        ready = threading.Event()
        self.client.on_subscribe = lambda *_: ready.set()
        self.client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self.client.on_message = lambda _client, _data, m: self.messages.append(
            (m.topic, m.payload.decode())
        )
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert ready.wait(10)

    def of(self, topic: str) -> list[Any]:
        return [json.loads(text) for name, text in self.messages if name == topic]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RunningBroker]:
    if MOSQUITTO is None:
        pytest.skip("no mosquitto: make stream-tools")
    running = RunningBroker(tmp_path)
    yield running
    running.stop()


@pytest.fixture
def subscriber(broker: RunningBroker) -> Iterator[Subscriber]:
    opened = Subscriber(broker.port)
    yield opened
    opened.close()


@pytest.fixture
def publisher(broker: RunningBroker) -> Iterator[MqttPublisher]:
    with MqttPublisher(parse_broker(broker.address)) as opened:
        wait_until(opened._client.is_connected)
        yield opened


def event(number: int, stream: str = "front") -> Event:
    return Event("reset", stream, number, number / 25, "for a test", "request")


def frame(index: int, cars: int = 3) -> SegmentedFrame:
    labels = np.zeros((4, 5), np.uint8)
    labels.reshape(-1)[:cars] = 1
    return SegmentedFrame(labels, labels, index, index / 25)


def test_areas_and_events_arrive(publisher: MqttPublisher, subscriber: Subscriber) -> None:
    sink = MqttAreaSink(publisher, "front", CLASSES)
    for index in range(5):
        sink.write(frame(index))
    publisher.report(event(3))
    wait_until(lambda: subscriber.of("site/front/events"))
    assert subscriber.of("site/front/areas") == [
        {
            "stream": "front",
            "frame": index,
            "time": index / 25,
            "areas": {"road": 0.85, "car": 0.15},
        }
        for index in range(5)
    ]
    (reset,) = subscriber.of("site/front/events")
    assert (reset["kind"], reset["frame"], reset["reason"]) == ("reset", 3, "for a test")
    assert ("site/status", "online") in subscriber.messages
    assert sink.finish() == f"{publisher.broker.name}: areas of 5 frames"
    publisher.close()
    wait_until(lambda: ("site/status", "offline") in subscriber.messages)


def test_killed_process_is_offline(broker: RunningBroker, subscriber: Subscriber) -> None:
    script = (
        "import sys, time\nfrom streamseg.runtime.sinks.mqtt import *\n"
        "MqttPublisher(parse_broker(sys.argv[1]))\ntime.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, broker.address])
    try:
        wait_until(lambda: ("site/status", "online") in subscriber.messages)
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: ("site/status", "offline") in subscriber.messages)


def test_broker_that_is_away_stops_nothing_and_gets_the_events_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if MOSQUITTO is None:
        pytest.skip("no mosquitto: make stream-tools")
    broker = RunningBroker(tmp_path)
    broker.stop()
    with MqttPublisher(parse_broker(broker.address)) as publisher:
        begin = time.monotonic()
        for number in range(40):
            publisher.report(event(number))
            MqttAreaSink(publisher, "front", CLASSES).write(frame(number))
        assert time.monotonic() - begin < 4
        assert publisher.dropped == 40  # the areas
        broker.start()
        subscriber = Subscriber(broker.port)
        try:
            wait_until(lambda: len(subscriber.of("site/front/events")) == 40, 40)
            assert [e["frame"] for e in subscriber.of("site/front/events")] == list(range(40))
            broker.stop()
            wait_until(lambda: not publisher._client.is_connected())
            publisher.report(event(40))
        finally:
            subscriber.close()
        broker.start()
        again = Subscriber(broker.port)
        wait_until(lambda: [e["frame"] for e in again.of("site/front/events")] == [40], 40)
        again.close()
    broker.stop()
    lines = [record.getMessage() for record in caplog.records]
    assert any("does not answer; trying again" in line for line in lines)
    assert len(lines) < 10  # once for each reason, not for each attempt


def test_queue_is_bounded(tmp_path: Path) -> None:  # noqa: ARG001
    broker = parse_broker(f"mqtt://127.0.0.1:{free_port()}/site")
    begin = time.monotonic()
    with MqttPublisher(broker) as publisher:
        for number in range(3 * MOST_WAITING):
            publisher.report(event(number))
        assert publisher.published == MOST_WAITING
        assert publisher.dropped == 2 * MOST_WAITING
    assert time.monotonic() - begin < 20


def test_broker_that_takes_nothing_stops_nothing() -> None:
    """It accepts the connection and is never heard of again."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        begin = time.monotonic()
        with MqttPublisher(parse_broker(f"mqtt://127.0.0.1:{port}")) as publisher:
            for number in range(200):
                publisher.report(event(number))
                MqttAreaSink(publisher, "front", CLASSES).write(frame(number))
            assert time.monotonic() - begin < 10  # a wait of 0.1 s for each would be 40


def test_stalled_broker_stops_nothing(broker: RunningBroker, publisher: MqttPublisher) -> None:
    assert broker.process is not None
    broker.process.send_signal(signal.SIGSTOP)
    try:
        sink = MqttAreaSink(publisher, "front", CLASSES)
        begin = time.monotonic()
        for index in range(4 * MOST_WAITING):
            sink.write(frame(index))
        assert time.monotonic() - begin < 20
        assert publisher.dropped >= 2 * MOST_WAITING
        assert "messages of the run dropped" in sink.finish()
    finally:
        broker.process.send_signal(signal.SIGCONT)


@NEEDS_BROKER
@pytest.mark.parametrize("password", [SECRET, "wrong-" + SECRET, None])
def test_login(
    password: str | None,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broker = RunningBroker(tmp_path, login=True)
    given = "" if password is None else f":{password}"
    if password is None:
        monkeypatch.setenv("STREAMSEG_MQTT_PASSWORD", SECRET)
    try:
        address = f"mqtt://robot{given}@127.0.0.1:{broker.port}/site"
        subscriber = Subscriber(broker.port, username="robot", password=SECRET)
        with MqttPublisher(parse_broker(address)) as publisher:
            publisher.report(event(1))
            if password == f"wrong-{SECRET}":
                wait_until(lambda: "refuses the connection" in caplog.text)
                assert subscriber.of("site/front/events") == []
            else:
                wait_until(lambda: subscriber.of("site/front/events"))
            assert SECRET not in caplog.text + repr(publisher.broker) + publisher.broker.name
        subscriber.close()
    finally:
        broker.stop()


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("mqtt://host", ("host", 1883, False, None, None, "streamseg")),
        ("mqtts://host/", ("host", 8883, True, None, None, "streamseg")),
        ("mqtt://u:p%40%2F@[::1]:99/a/b/", ("::1", 99, False, "u", "p@/", "a/b")),
    ],
)
def test_addresses(address: str, expected: tuple[object, ...]) -> None:
    found = parse_broker(address)
    values = (found.host, found.port, found.tls, found.user, found.password, found.topic)
    assert values == expected


@pytest.mark.parametrize(
    "address",
    [
        "",
        "host",
        "http://host",
        "mqtt://",
        "mqtt:///topic",
        "mqtt://host:0",
        "mqtt://host:70000",
        "mqtt://host:port",
        "mqtt://[::1",
        "mqtt://ho st",
        "mqtt://a..b",
        "mqtt://" + "x" * 64,
        "mqtt://host/a?b",
        "mqtt://host/a%23",
        "mqtt://host/a%00",
        "mqtt://host/+/x",
        "mqtt://host/$SYS",
        "mqtt://host/a//b",
        "mqtt://host/" + "x" * 201,
        "mqtt://u:p%0A@host",
    ],
)
def test_invalid_addresses_are_refused(address: str) -> None:
    with pytest.raises(SinkError, match="MQTT address"):
        MqttOptions(mqtt=address)


@given(
    st.text(max_size=30),
    st.sampled_from(["mqtt://", "mqtts://", "mqtt:", "//", ""]),
    st.text(max_size=20),
)
def test_no_address_shows_its_password_or_breaks(user: str, scheme: str, rest: str) -> None:
    address = f"{scheme}{user}:s3cr3t@{rest}"
    topic = ""
    try:
        found = parse_broker(address)
        shown, topic = found.name + repr(found), found.topic
    except SinkError as error:
        shown = str(error)
    assert "s3cr3t" not in shown
    assert not set("+#$\n") & set(topic)


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_name: str) -> None:
        raise ImportError

    monkeypatch.setattr("streamseg.runtime.sinks.mqtt.importlib.import_module", fail)
    with pytest.raises(SinkError, match=re.escape(install_command("mqtt"))):
        MqttPublisher(parse_broker("mqtt://host"))


SCENE = "synthetic:clean?size=32x48&frames=6"


@pytest.mark.parametrize(
    ("sources", "streams"),
    [([SCENE], ["stream"]), ([f"a={SCENE}", f"b={SCENE}"], ["a", "b"])],
    ids=["one", "two"],
)
def test_run_publishes_what_it_writes(
    sources: list[str],
    streams: list[str],
    broker: RunningBroker,
    subscriber: Subscriber,
    tmp_path: Path,
) -> None:
    bundle = write_toy_bundle(tmp_path / "toy")
    # A frame that is dropped would change the state, and so the areas after it.
    pace = ["--realtime", "--when-behind", "wait"]
    assert call("run", bundle, *sources, "--mqtt", broker.address, *pace) == 0
    assert call("run", bundle, SCENE, "--areas", tmp_path / "areas") == 0
    lines = [json.loads(line) for line in (tmp_path / "areas").read_text().splitlines()]
    for stream in streams:
        wait_until(lambda stream=stream: len(subscriber.of(f"site/{stream}/events")) == 2)
        # Frames before the connection was made are not published.
        found = subscriber.of(f"site/{stream}/areas")
        assert found
        for entry in found:
            del entry["stream"]
            assert entry in lines


def test_run_refuses_a_bad_address_without_its_password(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_toy_bundle(tmp_path / "toy")
    line = refusal(capsys, "run", bundle, SCENE, "--mqtt", "mqtt://u:s3cret@host:x/a")
    assert "expected mqtt://" in line
    assert "s3cret" not in line
