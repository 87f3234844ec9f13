// What the page asks the gateway for. The key goes into a header, so streams are read with fetch: EventSource sends no headers.

const KEY = "tidegate.key";
const LONGEST_EVENT = 24 << 20;
let key = read();

function read() {
  try { return sessionStorage.getItem(KEY) || ""; } catch { return ""; } // a browser may forbid it; then a reload asks again
}

export function setKey(value) {
  key = value;
  try { value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY); } catch { /* memory is enough */ }
}

export const hasKey = () => key !== "";

export class Refused extends Error {
  constructor(status, detail) { super(detail.replaceAll("`", "")); this.status = status; }
}

// A response with a good status. Throws Refused with what the problem document says.
export async function ask(path, { headers = {}, ...options } = {}) {
  const sent = new Headers(headers);
  if (key) sent.set("Authorization", `Bearer ${encodeKey(key)}`);
  const response = await fetch(path, { ...options, headers: sent, cache: "no-store", credentials: "omit", redirect: "error" });
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  throw new Refused(response.status, problem.detail || `${response.status} ${response.statusText}`);
}

// A header holds bytes, a key may be any text: send it as UTF-8.
const encodeKey = (text) => String.fromCharCode(...new TextEncoder().encode(text));

export const roomPath = (room, rest = "") => `api/rooms/${encodeURIComponent(room)}${rest}`;

// The events of a server-sent event stream: [name, data] with the data decoded.
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    while (true) {
      const { value, done } = await reader.read();
      if (done) return;
      text += value;
      let end;
      while ((end = text.indexOf("\n\n")) >= 0) {
        const lines = text.slice(0, end).split("\n");
        text = text.slice(end + 2);
        const data = lines.find((line) => line.startsWith("data: "));
        if (data) yield [lines.find((line) => line.startsWith("event: "))?.slice(7) ?? "", JSON.parse(data.slice(6))];
      }
      if (text.length > LONGEST_EVENT) throw new Error("an event is too long");
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
