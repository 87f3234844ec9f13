// Look into a room, publish to one, listen to one: the boxes that need a key.

import { ask, events, Refused, roomPath } from "./stream.js";
import { bytes, find, number, onRoom, rate, span } from "./figures.js";

const MOST_SHOWN = 200, LONGEST_SHOWN = 2000, LOOK_EVERY_MS = 2000, CONNECTIONS_SHOWN = 100;

function note(id, text, is = "") {
  const place = find(id);
  place.dataset.is = is;
  if (place.textContent !== text) place.textContent = text;
}
function reason(error) {
  if (error instanceof Refused) return error.message;
  return error instanceof TypeError ? "The gateway does not answer." : error.message;
}

// What cannot be done yet cannot be tried: `why` says what is missing, and goes with what else was said meanwhile.
export function allow(can, why = "") {
  const boxes = [...document.querySelectorAll(".tool fieldset")];
  if (can && !boxes.some((box) => box.disabled)) return;
  for (const box of boxes) box.disabled = !can;
  for (const id of ["inspect-note", "publish-note", "listen-note"]) note(id, why);
}

// ── look into a room ─────────────────────────────────────────────────────────────────────────────────────────────────

let looked = null; // { room, timer, before, connection }

async function look(room, { again = false } = {}) {
  clearTimeout(looked?.timer);
  if (!again) looked = { room, before: null, timer: 0 };
  const mine = looked;
  try {
    const found = await (await ask(roomPath(room, `?limit=${CONNECTIONS_SHOWN}`))).json();
    if (mine !== looked) return;
    showRoom(mine, found);
    if (mine.connection && !find("inspect-connection").hidden) showConnection(mine.connection);
    const nobody = found.complete ? "Nobody is in this room." : "Nobody is in this room on the nodes that answered.";
    note("inspect-note", found.members ? "" : nobody);
  } catch (error) {
    if (mine !== looked) return;
    find("inspect-result").hidden = true;
    note("inspect-note", reason(error), "bad");
    if (error instanceof Refused) return;
  }
  mine.timer = setTimeout(() => look(room, { again: true }), LOOK_EVERY_MS);
}

function showRoom(mine, found) {
  const now = performance.now() / 1000;
  find("inspect-result").hidden = false;
  find("inspect-members").textContent = number(found.members);
  find("inspect-messages").textContent = number(found.messages);
  const grown = mine.before && found.messages >= mine.before.messages ? (found.messages - mine.before.messages) / (now - mine.before.at) : null;
  find("inspect-rate").textContent = grown === null ? "–" : rate(grown);
  mine.before = { messages: found.messages, at: now };
  const list = find("inspect-connections");
  while (list.children.length > found.connections.length) list.lastChild.remove();
  found.connections.forEach((id, at) => {
    const button = list.children[at]?.firstChild ?? chip(list);
    if (button.textContent !== id) button.textContent = id;
  });
  if (!found.connections.length) find("inspect-connection").hidden = true;
}

function chip(list) {
  const button = Object.assign(document.createElement("button"), { type: "button" });
  button.addEventListener("click", () => showConnection(button.textContent));
  list.appendChild(document.createElement("li")).append(button);
  return button;
}

async function showConnection(id) {
  const place = find("inspect-connection"), mine = looked;
  mine.connection = id;
  try {
    const one = await (await ask(`api/connections/${encodeURIComponent(id)}`)).json();
    if (mine !== looked || mine.connection !== id) return;
    const pairs = {
      Connection: one.id, User: one.user ?? "nobody in particular", State: one.state, Rooms: one.rooms.join(", "), Age: span(one.age_seconds),
      Received: `${number(one.received_messages)} messages, ${bytes(one.received_bytes)}`,
      Sent: `${number(one.sent_messages)} messages, ${bytes(one.sent_bytes)}`,
      Waiting: bytes(one.buffered_bytes), Dropped: number(one.dropped_messages),
    };
    place.replaceChildren(...Object.entries(pairs).flatMap(([name, value]) => [
      Object.assign(document.createElement("dt"), { textContent: name }), Object.assign(document.createElement("dd"), { textContent: value }),
    ]));
    place.hidden = false;
  } catch (error) {
    place.hidden = true;
    if (mine === looked) note("inspect-note", reason(error), "bad");
  }
}

find("inspect-form").addEventListener("submit", (event) => { event.preventDefault(); find("inspect-connection").hidden = true; look(find("inspect-room").value); });
onRoom((room) => {
  for (const id of ["inspect-room", "publish-room", "listen-room"]) if (id === "inspect-room" || !find(id).value) find(id).value = room;
  find("inspect-connection").hidden = true;
  look(room);
});

// ── publish ──────────────────────────────────────────────────────────────────────────────────────────────────────────

find("publish-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = event.submitter ?? find("publish-form").querySelector("button");
  button.disabled = true;
  try {
    const answer = await ask(roomPath(find("publish-room").value, "/messages"), {
      method: "POST", headers: { "Content-Type": find("publish-type").value }, body: find("publish-text").value,
    });
    const { id, recipients_local: recipients } = await answer.json();
    note("publish-note", `Published as ${id} to ${number(recipients)} on this node.`, "good");
  } catch (error) {
    note("publish-note", reason(error), "bad");
  }
  button.disabled = false;
  button.focus();
});

// ── listen ───────────────────────────────────────────────────────────────────────────────────────────────────────────

let listening = null, heard = 0, waiting = [];

function toggle(on) {
  find("listen-button").textContent = on ? "Stop" : "Listen";
  find("listen-room").readOnly = on;
}

async function listen(room) {
  const mine = (listening = new AbortController());
  toggle(true);
  note("listen-note", "Joining…");
  try {
    const response = await ask(roomPath(room, "/stream"), { signal: mine.signal });
    for await (const [name, data] of events(response)) {
      if (name === "joined") note("listen-note", `Listening as ${data.connection}: one more member of the room, but no connection of a client.`, "good");
      else if (name === "message") hear(data);
      else if (name === "closed") { note("listen-note", `Closed by the gateway: ${data.code} ${data.reason}.`, "bad"); mine.abort(); }
    }
    if (!mine.signal.aborted) note("listen-note", "The stream has ended.", "bad");
  } catch (error) {
    if (!mine.signal.aborted) note("listen-note", reason(error), "bad");
  }
  if (listening === mine) { listening = null; toggle(false); }
}

// However much is said, the page is drawn once per frame and holds the newest messages only.
function hear(data) {
  heard += 1;
  waiting.push([new Date(), data]);
  if (waiting.length > MOST_SHOWN) waiting.shift();
  if (waiting.length === 1) requestAnimationFrame(drawHeard);
}
function drawHeard() {
  const log = find("heard"), follows = log.scrollHeight - log.scrollTop - log.clientHeight < 30;
  for (const [at, data] of waiting) {
    const line = document.createElement("li");
    line.append(Object.assign(document.createElement("time"), { textContent: at.toTimeString().slice(0, 8) }), Object.assign(document.createElement("span"), { textContent: said(data) }));
    log.append(line);
  }
  waiting = [];
  while (log.children.length > MOST_SHOWN) log.firstChild.remove();
  if (follows) log.scrollTop = log.scrollHeight;
  find("listen-title").textContent = `Listen (${number(heard)} heard)`;
}
function said(data) {
  if (data.text === undefined) return `[binary, about ${bytes((data.base64.length * 3) / 4)}]`;
  return data.text.length > LONGEST_SHOWN ? `${data.text.slice(0, LONGEST_SHOWN)}… [${number(data.text.length)} characters]` : data.text;
}

find("listen-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!listening) { listen(find("listen-room").value); return; }
  listening.abort();
  note("listen-note", "Stopped.");
});
find("listen-clear").addEventListener("click", () => { find("heard").replaceChildren(); heard = 0; find("listen-title").textContent = "Listen"; });
