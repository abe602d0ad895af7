import { api, attempt, base, element, postJson, showState } from "./common.js";

// Mirrors TRANSITIONS in models.py; the server has the last word.
const MOVES = {
  planned: ["building", "cancelled"],
  building: ["testing", "cancelled"],
  testing: ["shipped", "building", "cancelled"],
  shipped: ["rolled_back"],
  rolled_back: ["building"],
  cancelled: [],
};
const label = (state) => state.replace("_", " ");
const releases = new Map();
const columns = document.getElementById("columns");

function card(release, fresh) {
  const moves = MOVES[release.state].map((state) => element("button", {
    type: "button",
    className: "quiet",
    onclick: () => attempt(() => postJson(`/api/releases/${release.id}/state`, { state })),
  }, label(state)));
  return element("article", { className: fresh ? "release fresh" : "release" },
    element("div", { className: "name" }, `${release.project} ${release.version}`),
    element("div", { className: "title" }, release.title),
    element("div", { className: "moves" }, ...moves));
}

function draw(freshId) {
  columns.replaceChildren(...Object.keys(MOVES).map((state) => {
    const inState = [...releases.values()].filter((release) => release.state === state)
      .sort((a, b) => b.id - a.id);
    return element("section", { className: "column" },
      element("h2", {}, label(state), element("span", { className: "muted" }, String(inState.length))),
      ...inState.map((release) => card(release, release.id === freshId)));
  }));
}

async function load() {
  const page = await api("/api/releases?limit=100");
  releases.clear();
  for (const release of page.items) releases.set(release.id, release);
  draw();
}

document.getElementById("new").addEventListener("submit", (event) => {
  event.preventDefault();
  const form = event.target;
  attempt(async () => {
    await postJson("/api/releases", Object.fromEntries(new FormData(form)));
    form.reset();
  });
});

draw();
const feed = new EventSource(`${base}/api/events?topic=releases`);
// After "hello" nothing is missed, so this is the moment to load the rest.
feed.addEventListener("hello", (event) => {
  showState(`live from worker ${JSON.parse(event.data).worker}`, true);
  attempt(load);
});
feed.addEventListener("error", () => showState("connecting again", false));
for (const kind of ["created", "changed", "moved"]) {
  feed.addEventListener(kind, (event) => {
    const release = JSON.parse(event.data).data;
    releases.set(release.id, release);
    draw(release.id);
  });
}
feed.addEventListener("deleted", (event) => {
  releases.delete(JSON.parse(event.data).data.id);
  draw();
});
