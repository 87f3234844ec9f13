// A Node client of the compressed mode (docs/compression.md).
//
//   node zstd_client.mjs '{"url": "ws://…", "offer": ["chat+zstd", "chat"], "dictionaries": "http://…/dictionaries", "send": ["hi"]}'
//
// Sends each message (a string as text, {"base64": …} as binary), waits for as many, and prints one JSON line:
// {"protocol": …, "received": […], "wireBytes": …}.

import { createHash } from "node:crypto";
import zstd from "@bokuweb/zstd-wasm";
import WebSocket from "ws";

const COMPRESSED = 1;
const TEXT = 2;

/** Fetches a dictionary and checks that it is the one that its id names: the start of its SHA-256. */
async function fetchDictionary(base, id) {
  const response = await fetch(`${base}/${id}`);
  if (!response.ok) throw new Error(`no dictionary ${id}: HTTP ${response.status}`);
  const dictionary = new Uint8Array(await response.arrayBuffer());
  const hash = createHash("sha256").update(dictionary).digest("hex");
  if (hash.slice(0, id.length) !== id) throw new Error(`dictionary ${id} is not what it says`);
  return dictionary;
}

/** Packs and unpacks messages: a byte of flags, then the payload. */
class Codec {
  constructor(dictionary) {
    this.dictionary = dictionary;
    this.compressor = zstd.createCCtx();
    this.decompressor = zstd.createDCtx();
  }

  pack(message) {
    const isText = typeof message === "string";
    const payload = isText ? Buffer.from(message) : message;
    const frame = this.dictionary
      ? zstd.compressUsingDict(this.compressor, payload, this.dictionary)
      : zstd.compress(payload);
    const smaller = frame.length < payload.length;
    const flags = (smaller ? COMPRESSED : 0) | (isText ? TEXT : 0);
    return Buffer.concat([Buffer.from([flags]), smaller ? frame : payload]);
  }

  unpack(message) {
    const flags = message[0];
    let payload = message.subarray(1);
    if (flags & COMPRESSED) {
      payload = this.dictionary
        ? zstd.decompressUsingDict(this.decompressor, payload, this.dictionary)
        : zstd.decompress(payload);
    }
    return flags & TEXT ? new TextDecoder("utf-8", { fatal: true }).decode(payload) : Buffer.from(payload);
  }
}

/** The codec that an agreed subprotocol stands for; null: plain messages. */
async function codecOf(protocol, dictionaries) {
  const suffix = protocol.slice(protocol.lastIndexOf("+") + 1);
  if (suffix !== "zstd" && !suffix.startsWith("zstd.")) return null;
  const id = suffix.slice("zstd.".length);
  return new Codec(id ? await fetchDictionary(dictionaries, id) : null);
}

const { url, offer, dictionaries, send } = JSON.parse(process.argv[2]);
await zstd.init();
const socket = new WebSocket(url, offer, { perMessageDeflate: false });
socket.on("error", (error) => {
  console.error(String(error));
  process.exit(1);
});
socket.on("close", (code, reason) => {
  console.error(`closed by the server: ${code} ${reason}`);
  process.exit(1);
});
socket.on("open", async () => {
  const codec = await codecOf(socket.protocol, dictionaries);
  const received = [];
  let wireBytes = 0;
  socket.on("message", (data, isBinary) => {
    wireBytes += data.length;
    const message = codec ? codec.unpack(data) : isBinary ? data : data.toString();
    received.push(typeof message === "string" ? message : { base64: message.toString("base64") });
    if (received.length === send.length) {
      console.log(JSON.stringify({ protocol: socket.protocol, received, wireBytes }));
      process.exit(0);
    }
  });
  for (const item of send) {
    const message = typeof item === "string" ? item : Buffer.from(item.base64, "base64");
    socket.send(codec ? codec.pack(message) : message);
  }
});
