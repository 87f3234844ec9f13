// node with the `ws` package, a loop over the members of a room: `node ws_server.mjs PORT PACKAGES [deflate]`.
import { createServer } from "node:http";
import { createRequire } from "node:module";

const [port, packages, deflate] = process.argv.slice(2);
const { WebSocketServer } = createRequire(`${packages}/`)("ws");
const rooms = new Map();
const sockets = new WebSocketServer({ noServer: true, perMessageDeflate: deflate === "deflate" ? { threshold: 0 } : false });

sockets.on("connection", (socket, request) => {
  if (request.url.startsWith("/echo/")) {
    socket.on("message", (data) => socket.send(data, { binary: false }));
    return;
  }
  if (!rooms.has(request.url)) rooms.set(request.url, new Set());
  const room = rooms.get(request.url);
  room.add(socket);
  socket.on("close", () => room.delete(socket));
  socket.on("message", (data) => {
    for (const member of room) member.send(data, { binary: false });
  });
});

const server = createServer();
server.on("upgrade", (request, stream, head) => {
  sockets.handleUpgrade(request, stream, head, (socket) => sockets.emit("connection", socket, request));
});
server.listen({ port: Number(port), host: "127.0.0.1", backlog: 2048 });
