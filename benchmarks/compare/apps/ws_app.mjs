// The measured application on ws, the WebSocket library of Node.js: `send` of one Buffer for each subscriber.
import { WebSocketServer } from "ws";

const channels = new Map();
const TEXT = { binary: false, compress: false };

const server = new WebSocketServer({
  host: "127.0.0.1",
  port: Number(process.argv[2]),
  backlog: 4096,
  perMessageDeflate: false,
  clientTracking: false,
  skipUTF8Validation: false,
});

server.on("connection", (socket) => {
  const mine = new Set();
  socket.on("message", (data) => {
    const kind = data[0];
    if (kind === 0x50) {
      const space = data.indexOf(0x20, 2);
      const subscribers = channels.get(data.toString("latin1", 2, space));
      const payload = data.subarray(space + 1);
      if (subscribers) for (const subscriber of subscribers) subscriber.send(payload, TEXT);
    } else if (kind === 0x45) {
      socket.send(data.subarray(2), TEXT);
    } else {
      const channel = data.toString("latin1", 2);
      if (!channels.has(channel)) channels.set(channel, new Set());
      channels.get(channel).add(socket);
      mine.add(channel);
      socket.send("K");
    }
  });
  socket.on("error", () => {});
  socket.on("close", () => {
    for (const channel of mine) channels.get(channel).delete(socket);
  });
});
