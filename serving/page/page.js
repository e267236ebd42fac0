"use strict";
// Shows one stream, or all of them in a grid. The server sends each frame once, as picture and class
// ids; colours, opacity and graphs are made here.

const $ = (id) => document.getElementById(id);
const SECONDS_SHOWN = 60;
let socket = null;
let chosen = new URLSearchParams(location.search).get("stream") || "";
let palette = new Uint32Array(256);
let bars = new Map();
let speeds = [];
let pause = 500;
let seen = 0;
let pending = null;
let drawing = false;
let names = [];
let tiles = new Map();

function openSocket(stream) {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const opened = new WebSocket(`${scheme}//${location.host}/ws?stream=${encodeURIComponent(stream)}`);
  opened.binaryType = "arraybuffer";
  return opened;
}

function connect() {
  const mine = openSocket(chosen);
  socket = mine;
  mine.onmessage = (message) => {
    if (mine !== socket) return;
    if (typeof message.data === "string") hear(JSON.parse(message.data));
    else see(message.data);
  };
  mine.onclose = () => {
    if (mine !== socket) return;
    setStatus("reconnecting", false);
    setTimeout(checkThenConnect, pause);
    pause = Math.min(pause * 1.7, 5000);
  };
}

// A page whose cookie is no longer good gets the form for the token by loading anew.
async function checkThenConnect() {
  try {
    const answer = await fetch("/api/streams");
    if (answer.status === 401) return location.reload();
  } catch (error) { /* not there yet: the socket fails, and is tried again */ }
  connect();
}

function setStatus(text, live) {
  $("status").textContent = text;
  $("status").classList.toggle("live", live);
}

function hear(message) {
  if (message.hello) greet(message.hello);
  if (message.streams) listStreams(message.streams);
  if (message.event) addEvent(message.event);
}

function greet(hello) {
  pause = 500;
  chosen = hello.stream || chosen;
  speeds = [];
  setStatus(hello.stream ? "waiting for a frame" : "no stream", false);
  $("execution").textContent = hello.execution;
  $("snapshot").hidden = !hello.snapshots;
  buildLegend(hello.classes);
  listStreams(hello.streams);
  $("events").replaceChildren();
  hello.events.forEach(addEvent);
  sendCompare();
}

function listStreams(streams) {
  const select = $("streams");
  names = streams.map((stream) => stream.name);
  $("all").hidden = names.length < 2;
  if (inGrid()) fillGrid(streams);
  const shown = [...select.options].map((option) => option.value);
  if (names.join("\n") !== shown.join("\n")) {
    select.replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
    select.hidden = names.length < 2;
  }
  const mine = streams.find((stream) => stream.name === chosen);
  if (mine) $("source").textContent = mine.source;
  else if (names.length && !names.includes(chosen)) choose(names[0]);
}

function choose(name) {
  chosen = name;
  const query = new URLSearchParams(location.search);
  query.set("stream", name);
  window.history.replaceState(null, "", `?${query}`);
  $("streams").value = name;
  leave();
  connect();
}

function leave() {
  const old = socket;
  socket = null;
  if (old) old.close();
}

function buildLegend(classes) {
  palette = new Uint32Array(256);
  bars = new Map();
  $("legend").replaceChildren(...classes.map((entry) => {
    const [red, green, blue] = entry.color;
    palette[entry.id] = (255 << 24 | blue << 16 | green << 8 | red) >>> 0;
    const row = document.createElement("li");
    const [swatch, name, bar, share] = ["swatch", "name", "bar", "share"].map((kind) => {
      const part = document.createElement("span");
      part.className = kind;
      row.append(part);
      return part;
    });
    swatch.style.background = `rgb(${red},${green},${blue})`;
    name.textContent = name.title = entry.name;
    const fill = document.createElement("i");
    bar.append(fill);
    bars.set(entry.id, { row, fill, share });
    return row;
  }));
}

// Only the newest picture is drawn; one that comes while another is decoded waits, older ones go.
async function see(message) {
  pending = message;
  if (drawing) return;
  drawing = true;
  while (pending) {
    const next = pending;
    pending = null;
    try { await draw(next); } catch (error) { console.error(error); }
  }
  drawing = false;
}

// The head of a message, and its pictures: frame, labels and perhaps labels without state.
async function decode(message) {
  const length = new DataView(message).getUint32(0);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(message, 4, length)));
  let offset = 4 + length;
  const parts = head.parts.map((size, index) => {
    const blob = new Blob([new Uint8Array(message, offset, size)],
                          { type: index ? "image/png" : "image/jpeg" });
    offset += size;
    return createImageBitmap(blob, { colorSpaceConversion: "none" });
  });
  return [head, await Promise.all(parts)];
}

async function draw(message) {
  const [head, bitmaps] = await decode(message);
  const [picture, labels, plain] = bitmaps;
  paint($("frame"), picture);
  paintLabels($("labels"), labels);
  const side = $("plain-side");
  if (plain) {
    paint($("plain-frame"), picture);
    paintLabels($("plain-labels"), plain);
  }
  side.hidden = !plain;
  bitmaps.forEach((bitmap) => bitmap.close());
  showFigures(head);
}

function paint(canvas, bitmap) {
  fit(canvas, bitmap.width, bitmap.height);
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
}

function paintLabels(canvas, bitmap) {
  fit(canvas, bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const pixels = context.getImageData(0, 0, bitmap.width, bitmap.height);
  const words = new Uint32Array(pixels.data.buffer);
  for (let i = 0; i < words.length; i++) words[i] = palette[words[i] & 255];
  context.putImageData(pixels, 0, 0);
}

function fit(canvas, width, height) {
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
}

function showFigures(head) {
  seen += 1;
  document.body.dataset.frames = seen;
  setStatus("live", true);
  $("index").textContent = `${head.frame} at ${head.time.toFixed(2)} s`;
  $("steps").textContent = head.steps;
  $("fps").textContent = head.fps.toFixed(1);
  $("latency").textContent = `${(head.latency[0] * 1000).toFixed(0)} ms`;
  const [kept, plain] = head.flicker;
  $("flicker").textContent = percent("flicker", kept);
  $("plain-flicker").textContent = percent("flicker", plain);
  for (const [id, { row, fill, share }] of bars) {
    const area = head.areas[id] || 0;
    // The largest classes stand on top; half a percent more or less moves nothing.
    row.style.order = -Math.round(area * 200);
    fill.style.width = `${area * 100}%`;
    share.textContent = `${(area * 100).toFixed(1)} %`;
  }
  const now = performance.now() / 1000;
  speeds.push([now, head.fps, head.latency[0] * 1000]);
  while (speeds[0][0] < now - SECONDS_SHOWN) speeds.shift();
  drawGraph(now);
}

function percent(name, share) {
  return share === null ? "" : `${name} ${(share * 100).toFixed(2)} %`;
}

function drawGraph(now) {
  const canvas = $("graph");
  const scale = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  fit(canvas, Math.round(width * scale), Math.round(height * scale));
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  const style = getComputedStyle(document.documentElement);
  context.font = "11px system-ui, sans-serif";
  [["--fps", 1, "fps", "left"], ["--latency", 2, "ms", "right"]].forEach(([name, column, unit, side]) => {
    const top = Math.max(1e-3, ...speeds.map((row) => row[column])) * 1.15;
    context.strokeStyle = context.fillStyle = style.getPropertyValue(name);
    context.lineWidth = 1.5;
    context.beginPath();
    speeds.forEach((row, index) => {
      const x = width * (1 - (now - row[0]) / SECONDS_SHOWN);
      const y = height - 2 - (height - 16) * row[column] / top;
      if (index) context.lineTo(x, y); else context.moveTo(x, y);
    });
    context.stroke();
    context.textAlign = side;
    context.fillText(`${top.toPrecision(3)} ${unit}`, side === "left" ? 2 : width - 2, 11);
  });
}

function addEvent(event) {
  const row = document.createElement("li");
  const time = document.createElement("time");
  time.textContent = new Date(event.time * 1000).toLocaleTimeString();
  const kind = document.createElement("b");
  kind.textContent = event.cause ? `${event.kind} (${event.cause})` : event.kind;
  row.append(time, kind, ` frame ${event.frame}: ${event.reason}`);
  $("events").prepend(row);
  while ($("events").children.length > 100) $("events").lastChild.remove();
}

// The grid: a tile with a socket of its own for each stream.

function inGrid() {
  return !$("grid").hidden;
}

function showGrid(wanted) {
  if (wanted === inGrid() || (wanted && names.length < 2)) return;
  $("grid").hidden = !wanted;
  $("single").hidden = wanted;
  $("all").setAttribute("aria-pressed", wanted);
  if (wanted) {
    leave();
    setStatus("all streams", true);
    fillGrid(names.map((name) => ({ name })));
  } else {
    tiles.forEach((tile) => tile.close());
    tiles = new Map();
    $("grid").replaceChildren();
    connect();
  }
}

function fillGrid(streams) {
  const wanted = new Set(streams.map((stream) => stream.name));
  for (const [name, tile] of tiles) {
    if (!wanted.has(name)) {
      tile.close();
      tiles.delete(name);
    }
  }
  for (const { name } of streams) if (!tiles.has(name)) tiles.set(name, makeTile(name));
}

function makeTile(name) {
  const tile = document.createElement("button");
  tile.type = "button";
  tile.dataset.stream = name;
  tile.title = `Show ${name} alone`;
  const holder = document.createElement("div");
  holder.className = "picture";
  const canvases = ["", "over"].map((kind) => {
    const canvas = document.createElement("canvas");
    canvas.className = kind;
    holder.append(canvas);
    return canvas;
  });
  const line = document.createElement("div");
  line.className = "line";
  const title = document.createElement("b");
  title.textContent = name;
  const speed = document.createElement("span");
  speed.className = "fps";
  speed.textContent = "waiting";
  line.append(title, speed);
  tile.append(holder, line);
  tile.addEventListener("click", () => {
    chosen = name;
    showGrid(false);
    choose(name);
  });
  $("grid").append(tile);
  let mine = null;
  let closed = false;
  let busy = false;

  function join() {
    if (closed) return;
    mine = openSocket(name);
    mine.onmessage = async (message) => {
      if (typeof message.data === "string") {
        const said = JSON.parse(message.data);
        if (said.streams) listStreams(said.streams);
      } else if (!busy) {
        busy = true;
        try {
          const [head, bitmaps] = await decode(message.data);
          paint(canvases[0], bitmaps[0]);
          paintLabels(canvases[1], bitmaps[1]);
          bitmaps.forEach((bitmap) => bitmap.close());
          canvases[1].style.opacity = $("opacity").value / 100;
          speed.textContent = `${head.fps.toFixed(1)} fps, ${(head.latency[0] * 1000).toFixed(0)} ms`;
          tile.dataset.frames = Number(tile.dataset.frames || 0) + 1;
        } catch (error) { console.error(error); }
        busy = false;
      }
    };
    mine.onclose = () => {
      speed.textContent = "reconnecting";
      setTimeout(join, 1000);
    };
  }

  join();
  return {
    close() {
      closed = true;
      if (mine) mine.close();
      tile.remove();
    },
  };
}

function step(by) {
  if (inGrid() || names.length < 2) return;
  choose(names[(names.indexOf(chosen) + by + names.length) % names.length]);
}

function toggleFull() {
  if (document.fullscreenElement) document.exitFullscreen();
  else (inGrid() ? $("grid") : $("pictures")).requestFullscreen();
}

function moveOpacity(by) {
  $("opacity").value = Number($("opacity").value) + by;
  setOpacity();
}

const KEYS = {
  f: toggleFull,
  g: () => showGrid(!inGrid()),
  c: () => { if (!inGrid()) $("compare").click(); },
  R: () => { if (!inGrid()) press("reset"); },
  "?": () => $("keys").showModal(),
  "+": () => moveOpacity(10),
  "-": () => moveOpacity(-10),
  ArrowLeft: () => step(-1),
  ArrowRight: () => step(1),
  Escape: () => showGrid(false),
};

function obeyKey(event) {
  const field = event.target.closest("input:not([type=checkbox]), select, textarea, dialog");
  if (field || event.ctrlKey || event.metaKey || event.altKey || !(event.key in KEYS)) return;
  event.preventDefault();
  KEYS[event.key]();
}

async function press(action) {
  const said = $("answer");
  said.textContent = "…";
  try {
    const answer = await fetch(`/api/${action}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ stream: chosen }),
    });
    const text = await answer.text();
    if (!answer.ok) said.textContent = text.trim();
    else if (action === "reset") said.textContent = "state forgotten";
    else said.textContent = `state saved on the server as ${JSON.parse(text).file}`;
  } catch (error) {
    said.textContent = "the server does not answer";
  }
}

function sendCompare() {
  if (socket && socket.readyState === WebSocket.OPEN) {
    socket.send(`{"compare": ${$("compare").checked}}`);
  }
}

function setOpacity() {
  const value = $("opacity").value / 100;
  for (const id of ["labels", "plain-labels"]) $(id).style.opacity = value;
}

$("opacity").addEventListener("input", setOpacity);
$("compare").addEventListener("change", sendCompare);
$("reset").addEventListener("click", () => press("reset"));
$("snapshot").addEventListener("click", () => press("snapshot"));
$("streams").addEventListener("change", (event) => {
  const name = event.target.value;
  showGrid(false);
  choose(name);
});
$("all").addEventListener("click", () => showGrid(!inGrid()));
$("full").addEventListener("click", toggleFull);
$("help").addEventListener("click", () => $("keys").showModal());
document.addEventListener("keydown", obeyKey);
setOpacity();
connect();
