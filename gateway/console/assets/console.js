// The page's life: connects, asks for a key when one is wanted, comes back after an interruption, and rests while nobody looks.

import { ask, events, hasKey, Refused, setKey } from "./stream.js";
import { find, show, state } from "./figures.js";
import { allow } from "./tools.js";

const FIRST_WAIT_MS = 500, LONGEST_WAIT_MS = 10_000, SILENCE_MS = 10_000;
let current = null, wait = FIRST_WAIT_MS, timer = 0, isPaused = false, needsKey = false;

function link(state, text) {
  find("link").dataset.link = state;
  if (find("link").textContent !== text) find("link").textContent = text;
}

async function watch() {
  clearTimeout(timer);
  current?.abort();
  if (isPaused || needsKey || document.hidden) return;
  const mine = (current = new AbortController());
  let silence = 0;
  const listen = () => { clearTimeout(silence); silence = setTimeout(() => mine.abort(), SILENCE_MS); };
  try {
    listen();
    const response = await ask("api/stats/stream", { signal: mine.signal });
    for await (const [, snapshot] of events(response)) {
      listen();
      show(snapshot);
      link("live", "Live");
      accepted(snapshot.node.api_key_set);
      wait = FIRST_WAIT_MS;
    }
    lost(mine, "The gateway ended the stream");
  } catch (error) {
    if (error instanceof Refused && error.status === 401) wanted(error);
    else if (error instanceof Refused) lost(mine, error.message);
    else lost(mine, "The gateway does not answer", true);
  } finally {
    clearTimeout(silence);
  }
}

function lost(mine, why, isGone = false) {
  if (mine !== current || isPaused || document.hidden) return;
  if (isGone) state("gone");
  const pause = wait * (0.5 + Math.random());
  wait = Math.min(wait * 2, LONGEST_WAIT_MS);
  link("lost", `${why.replace(/\.$/, "")}; trying again`);
  timer = setTimeout(watch, pause);
}

// The key

function wanted(error) {
  needsKey = true;
  link("lost", "A key is needed");
  find("key-form").hidden = false;
  find("key-error").textContent = hasKey() ? `${error.message} Is it the gateway's TIDEGATE_API_KEY?` : "";
  setKey("");
  state("unknown");
  allow(false, "Enter the API key above.");
  find("forget").hidden = true;
  find("key").focus();
  find("key").select();
}

function accepted(isKeySet) {
  find("key-form").hidden = true;
  find("key").value = find("key-error").textContent = "";
  allow(true);
  find("forget").hidden = !(isKeySet && hasKey());
  find("no-key").hidden = isKeySet;
}

find("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey(find("key").value.trim());
  needsKey = false;
  find("key-error").textContent = "";
  link("waiting", "Connecting…");
  watch();
});
find("forget").addEventListener("click", () => { setKey(""); location.reload(); });

// Pause and rest

find("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  find("pause").setAttribute("aria-pressed", isPaused);
  find("pause").textContent = isPaused ? "Go on" : "Pause";
  if (isPaused) { current?.abort(); link("paused", "Paused"); } else { link("waiting", "Connecting…"); watch(); }
});
document.addEventListener("visibilitychange", () => { if (document.hidden) current?.abort(); else watch(); });

// Light and dark

const THEMES = ["system", "light", "dark"];
function theme(name) {
  if (name === "system") delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = name;
  find("theme").textContent = `Theme: ${name}`;
  try { localStorage.setItem("tidegate.theme", name); } catch { /* it is only a preference */ }
}
function preferred() {
  try { return THEMES.includes(localStorage.getItem("tidegate.theme")) ? localStorage.getItem("tidegate.theme") : "system"; } catch { return "system"; }
}
find("theme").addEventListener("click", () => theme(THEMES[(THEMES.indexOf(preferred()) + 1) % THEMES.length]));
theme(preferred());

link("waiting", "Connecting…");
watch();
