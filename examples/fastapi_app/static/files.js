import { api, attempt, base, element } from "./common.js";

const list = document.getElementById("list");
const UNITS = ["B", "KiB", "MiB", "GiB"];

function size(bytes) {
  const step = bytes === 0 ? 0 : Math.min(Math.floor(Math.log2(bytes) / 10), UNITS.length - 1);
  return `${(bytes / 1024 ** step).toFixed(step === 0 ? 0 : 1)} ${UNITS[step]}`;
}

function row(file) {
  const verdict = element("span", { className: "badge" });
  verdict.hidden = true;
  const verify = () => attempt(async () => {
    const { intact, thread } = await api(`/api/files/${file.id}/verify`);
    verdict.textContent = intact ? "intact" : "damaged";
    verdict.title = `hashed again in ${thread}`;
    verdict.className = `badge ${intact ? "on" : "off"}`;
    verdict.hidden = false;
  });
  const remove = () => attempt(async () => {
    await api(`/api/files/${file.id}`, { method: "DELETE" });
    await load();
  });
  const button = (text, onclick) => element("button", { type: "button", className: "quiet", onclick }, text);
  return element("tr", {},
    element("td", { className: "name" },
      element("a", { href: `${base}/api/files/${file.id}/content` }, file.name)),
    element("td", { className: "number" }, size(file.size)),
    element("td", {}, element("code", { title: file.sha256 }, `${file.sha256.slice(0, 16)}…`)),
    element("td", { className: "actions" }, verdict, button("verify", verify), button("delete", remove)));
}

async function load() {
  const files = await api("/api/files");
  const nothing = element("tr", {},
    element("td", { colSpan: 4, className: "muted" }, "Nothing here yet."));
  list.replaceChildren(...(files.length ? files.map(row) : [nothing]));
}

document.getElementById("upload").addEventListener("submit", (event) => {
  event.preventDefault();
  const form = event.target;
  attempt(async () => {
    await api("/api/files", { method: "POST", body: new FormData(form) });
    form.reset();
    await load();
  });
});

attempt(load);
