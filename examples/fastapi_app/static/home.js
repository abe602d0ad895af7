import { base, element } from "./common.js";

const QUESTIONS = 40;
const AT_ONCE = 6; // as many connections as browsers open to one host
const spread = document.getElementById("spread");
const button = document.getElementById("ask");

function show(counts) {
  const total = [...counts.values()].reduce((sum, count) => sum + count, 0);
  const rows = [...counts].sort(([a], [b]) => a.localeCompare(b, undefined, { numeric: true }));
  spread.replaceChildren(...rows.map(([worker, count]) => {
    const fill = element("span", { className: "fill" });
    fill.style.width = `${(100 * count) / total}%`;
    return element("li", {},
      element("span", {}, `worker ${worker}`),
      element("span", { className: "track" }, fill),
      element("span", { className: "number" }, String(count)));
  }));
}

async function ask() {
  button.disabled = true;
  const counts = new Map();
  let left = QUESTIONS;
  const line = async () => {
    while (left-- > 0) {
      const response = await fetch(`${base}/whoami`, { cache: "no-store" });
      const worker = response.headers.get("X-Worker");
      counts.set(worker, (counts.get(worker) ?? 0) + 1);
      show(counts);
    }
  };
  try {
    await Promise.all(Array.from({ length: AT_ONCE }, line));
  } finally {
    button.disabled = false;
  }
}

button.addEventListener("click", ask);
ask();
