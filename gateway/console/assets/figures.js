// Puts a snapshot onto the page. What comes from the process is only ever put in as text.

import { Lines, Spark } from "./charts.js";

export const find = (id) => document.getElementById(id);

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
export const number = (value) => (Math.abs(value) < 1e6 ? whole.format(value) : short.format(value));
export const rate = (value) => (value !== 0 && Math.abs(value) < 10 ? value.toFixed(1) : number(value));
export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const at = Math.min(units.length - 1, value < 1 ? 0 : Math.floor(Math.log2(value) / 10));
  const scaled = value / 1024 ** at;
  return `${at && scaled < 100 ? scaled.toFixed(1) : whole.format(scaled)} ${units[at]}`;
}
export function time(seconds) {
  if (seconds >= 10) return `${whole.format(seconds)} s`;
  if (seconds >= 1) return `${seconds.toFixed(2)} s`;
  if (seconds >= 0.001) return `${(seconds * 1000).toFixed(seconds >= 0.1 ? 0 : 1)} ms`;
  return `${whole.format(seconds * 1e6)} µs`;
}
export function span(seconds) {
  const [days, hours, minutes] = [seconds / 86400, (seconds / 3600) % 24, (seconds / 60) % 60].map(Math.floor);
  if (days) return `${days} d ${hours} h`;
  return hours ? `${hours} h ${minutes} min` : minutes ? `${minutes} min ${Math.floor(seconds % 60)} s` : `${Math.floor(seconds)} s`;
}
const counted = (count, what) => `${number(count)} ${what}${count === 1 ? "" : "s"}`;
const FORMS = { rate, bytes, time, span, percent: (value) => `${(value * 100).toFixed(0)} %` };
const form = (value, as = number) => (value === null || value === undefined ? "–" : as(value));

const LATENCIES = {
  delivery_confirm: "Delivery confirmed", delivery_residency: "Queue residency", fanout: "Fan-out", handling: "Handling",
  handshake: "Handshake", ping_rtt: "Ping round trip", broker_publish: "Broker publish", broker_lag: "Broker lag",
};

const sparks = Object.fromEntries([...document.querySelectorAll("[data-tile]")].map((tile) => [tile.dataset.tile, new Spark(tile)]));
const traffic = new Lines(find("traffic"), ["one", "two"], rate);
let roomsBy = "top_by_members", lastRooms = null, openRoom = () => {};

export function onRoom(open) { openRoom = open; }

// Cells of a table's rows: [text, class]; rows are made once and their texts changed, so that nothing flickers or loses focus.
function fill(body, rows, make = cell) {
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((row, at) => {
    const line = body.rows[at] ?? body.insertRow();
    row.forEach(([text, kind], column) => {
      const place = line.cells[column] ?? line.insertCell();
      if (place.className !== (kind ?? "")) place.className = kind ?? "";
      make(place, text, column);
    });
  });
}
function cell(place, text) {
  if (place.textContent !== text) place.textContent = text;
}
function roomCell(place, text, column) {
  if (column) return cell(place, text);
  if (!place.firstChild) {
    const button = document.createElement("button");
    button.type = "button";
    button.addEventListener("click", () => openRoom(button.dataset.room));
    place.append(button);
  }
  const button = place.firstChild;
  if (button.dataset.room !== text) {
    button.dataset.room = button.textContent = button.title = text;
  }
}

// The list stands still while somebody is in it: nothing is clicked that was something else a moment ago.
function showRooms(rooms) {
  const body = find("rooms"), list = rooms[roomsBy], busy = body.matches(":hover") || body.contains(document.activeElement);
  let shown = list;
  if (busy && body.rows.length) {
    const known = new Map([...rooms.top_by_members, ...rooms.top_by_rate].map((room) => [room.name, room]));
    shown = [...body.rows].map((row) => row.cells[0].firstChild.dataset.room)
      .map((name) => known.get(name) ?? { name, members: null, messages_per_second: null });
  }
  fill(body, shown.map((room) => [[room.name, "name"], [form(room.members)], [form(room.messages_per_second, rate)]]), roomCell);
  find("rooms-empty").hidden = shown.length > 0;
  find("rooms-empty").textContent = roomsBy === "top_by_rate" ? "Nothing was said within the last second." : "Nobody is in a room.";
}

for (const [id, by] of [["by-members", "top_by_members"], ["by-rate", "top_by_rate"]]) {
  find(id).addEventListener("click", () => {
    roomsBy = by;
    find("by-members").setAttribute("aria-pressed", by === "top_by_members");
    find("by-rate").setAttribute("aria-pressed", by === "top_by_rate");
    find("rooms").replaceChildren();
    if (lastRooms) showRooms(lastRooms);
  });
}

// A percentile; of the bound of a bucket it is said that it is one.
const PARTS = ["p50", "p90", "p99"];
const SIGNS = { at_most: "≤ ", more_than: "> " };
function percentile(one, part) {
  const sign = SIGNS[one.bounds[part]];
  return sign ? sign + boundary(one[`${part}_seconds`]) : form(one[`${part}_seconds`], time);
}
function boundary(seconds) {
  const [unit, units] = seconds >= 1 ? ["s", 1] : seconds >= 0.001 ? ["ms", 1e3] : ["µs", 1e6];
  return `${Number((seconds * units).toPrecision(4))} ${unit}`;
}

function showLatency(latency) {
  const first = latency.find((one) => one.count > 0) ?? latency[0];
  fill(find("latencies"), latency.map((one) => [
    [LATENCIES[one.name] ?? one.name, "word"], ...PARTS.map((part) => [percentile(one, part)]), [form(one.count)],
  ]));
  if (!first) return;
  find("latency-name").textContent = LATENCIES[first.name] ?? first.name;
  for (const part of PARTS) find(`latency-${part}`).textContent = percentile(first, part);
  if (first.window_seconds) find("latency-window").textContent = `last ${Math.round(first.window_seconds)} s`;
  sparks.latency.add(first.p99_seconds);
}

function showLedger(ledger) {
  const reasons = Object.entries(ledger.dropped_by_reason).filter(([, count]) => count).map(([reason, count]) => `${reason} ${number(count)}`);
  const rows = [
    ["Published", form(ledger.accepted), form(ledger.accepted_per_second, rate), ""],
    ["Deliveries due", form(ledger.expected), "", ""],
    ["Written", form(ledger.written), form(ledger.written_per_second, rate), "written"],
    ["On their way", form(ledger.buffered + ledger.in_progress), "", "waiting"],
    [reasons.length ? `Dropped: ${reasons.join(", ")}` : "Dropped", form(ledger.dropped), form(ledger.dropped_per_second, rate), "dropped"],
    ["To closed connections", form(ledger.closed), "", "closed"],
    ["Unaccounted", form(ledger.unaccounted), "", "unaccounted"],
  ];
  fill(find("ledger"), rows.map(([name, total, second]) => [[name, "name"], [total], [second && second !== "–" ? `${second}/s` : second]]));
  const parts = [["written", ledger.written], ["waiting", ledger.buffered + ledger.in_progress], ["dropped", ledger.dropped], ["closed", ledger.closed], ["unaccounted", Math.abs(ledger.unaccounted)]];
  const bar = find("ledger-bar");
  if (!bar.firstChild) for (const [name] of parts) bar.append(Object.assign(document.createElement("span"), { className: name }));
  parts.forEach(([, value], at) => { bar.children[at].style.flexGrow = value; });
  const good = ledger.unaccounted === 0;
  find("accounted").textContent = good ? "all accounted for" : `${number(ledger.unaccounted)} unaccounted`;
  find("accounted").dataset.state = good ? "good" : "bad";
}

function showProcess({ connections, process, broker }) {
  const meters = [
    ["slots", connections.slots_taken, connections.limit],
    ["descriptors", process.open_descriptors, process.most_descriptors || null],
  ];
  for (const [name, value, most] of meters) {
    find(name).textContent = most ? `${number(value)} of ${number(most)}` : number(value);
    const meter = find(`${name}-meter`);
    meter.hidden = !most;
    Object.assign(meter, { max: most || 1, high: 0.85 * (most || 1), optimum: 0, value });
  }
  Object.assign(find("cpu-meter"), { high: 0.85, optimum: 0, value: process.cpu_ratio ?? 0 });
  find("broker").textContent = `${broker.kind}${broker.up === false ? " (down)" : ""}${broker.refused ? `, refused ${number(broker.refused)}` : ""}`;
  find("broker").classList.toggle("bad", broker.up === false);
}

let mostToDrain = 0;
function showDrain({ drain }) {
  find("drain").hidden = !drain.draining;
  if (!drain.draining) { mostToDrain = 0; return; }
  mostToDrain = Math.max(mostToDrain, drain.connections_left, 1);
  find("drain-progress").value = 1 - drain.connections_left / mostToDrain;
  const overdue = drain.overdue_seconds ? `; ${drain.overdue_seconds.toFixed(0)} s overdue` : "";
  find("drain-text").textContent = `${number(drain.connections_left)} of ${number(mostToDrain)} connections are still to be closed${overdue}.`;
}

export function state(text) { find("state").textContent = find("state").dataset.state = text; }

export function show(snapshot) {
  for (const place of document.querySelectorAll("[data-figure]")) {
    const value = place.dataset.figure.split(".").reduce((found, name) => found?.[name], snapshot);
    const text = value === null && place.dataset.none ? place.dataset.none : typeof value === "string" ? value : form(value, FORMS[place.dataset.as]);
    if (place.textContent !== text) place.textContent = text;
  }
  state(snapshot.node.state);
  showLatency(snapshot.latency);
  lastRooms = snapshot.rooms;
  find("rooms-sum").textContent = `${counted(lastRooms.rooms, "room")} · ${counted(lastRooms.users, "user")}`;
  showRooms(snapshot.rooms);
  showLedger(snapshot.ledger);
  fill(find("closes"), snapshot.closes.map((one) => [[one.reason, "name"], [one.initiator, "word"], [form(one.total)], [form(one.per_second, rate)]]));
  find("closes-empty").hidden = snapshot.closes.length > 0;
  showProcess(snapshot);
  showDrain(snapshot);
  sparks.connections.add(snapshot.connections.now);
  sparks.lag.add(snapshot.process.loop_lag_mean_seconds);
  if (snapshot.interval_seconds === null) return;
  sparks.received.add(snapshot.messages.received_per_second);
  sparks.sent.add(snapshot.messages.sent_per_second);
  sparks.handshakes.add(snapshot.connections.accepted_per_second);
  traffic.add([snapshot.messages.received_per_second, snapshot.messages.sent_per_second]);
}
