// Bun with its own publish/subscribe: `bun bun_server.mjs PORT [deflate]`.
const deflate = process.argv[3] === "deflate";

const server = Bun.serve({
  hostname: "127.0.0.1",
  port: Number(process.argv[2]),
  fetch(request, server) {
    const path = new URL(request.url).pathname;
    return server.upgrade(request, { data: { path, echo: path.startsWith("/echo/") } }) ? undefined : new Response("", { status: 400 });
  },
  websocket: {
    perMessageDeflate: deflate,
    open(socket) {
      if (!socket.data.echo) socket.subscribe(socket.data.path);
    },
    message(socket, message) {
      if (socket.data.echo) socket.send(message, deflate);
      else server.publish(socket.data.path, message, deflate);
    },
  },
});
