import { base, element, showState } from "./common.js";

const MAX_RETRY_MS = 10_000;
const talk = document.getElementById("talk");
const join = document.getElementById("join");
const say = document.getElementById("say");
let name = "";
let socket = null;
let retryMs = 500;
let lastId = 0;

function add(item) {
  if (item.id <= lastId) return; // history that we showed before the connection broke
  lastId = item.id;
  const worker = item.worker === "-" ? "" : ` · ${item.worker}`;
  const line = item.type === "message"
    ? element("li", { className: item.name === name ? "message mine" : "message" },
      element("span", { className: "who" }, `${item.name}${worker}`),
      element("span", { className: "text" }, item.text))
    : element("li", { className: "notice" }, `${item.name} ${item.type}`);
  talk.append(line);
  talk.scrollTop = talk.scrollHeight;
}

function receive(message) {
  if (message.type === "welcome") {
    showState(`connected to worker ${message.worker}`, true);
    retryMs = 500;
    message.history.forEach(add);
  } else if (message.type === "error") {
    talk.append(element("li", { className: "notice" }, message.detail));
    talk.scrollTop = talk.scrollHeight;
  } else {
    add(message);
  }
}

function connect() {
  const url = new URL(`${base}/ws/chat/lobby`, location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.searchParams.set("name", name);
  socket = new WebSocket(url);
  socket.addEventListener("message", (event) => receive(JSON.parse(event.data)));
  socket.addEventListener("close", () => {
    showState("connecting again", false);
    setTimeout(connect, retryMs);
    retryMs = Math.min(2 * retryMs, MAX_RETRY_MS);
  });
}

join.addEventListener("submit", (event) => {
  event.preventDefault();
  name = new FormData(join).get("name").trim();
  if (!name) return;
  join.hidden = true;
  say.hidden = false;
  say.elements.text.focus();
  connect();
});

say.addEventListener("submit", (event) => {
  event.preventDefault();
  if (socket?.readyState !== WebSocket.OPEN) return;
  socket.send(JSON.stringify({ text: say.elements.text.value }));
  say.reset();
});
