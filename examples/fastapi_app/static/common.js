// What the pages share.  Text from the server is only ever set as text, never as HTML.

export const base = document.body.dataset.base;

export function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

// The JSON answer of a route; an error carries what the server said, validation errors included.
export async function api(path, options = {}) {
  const response = await fetch(base + path, options);
  const isJson = response.headers.get("Content-Type")?.startsWith("application/json");
  const answer = response.status !== 204 && isJson ? await response.json() : null;
  if (!response.ok) {
    const detail = answer?.detail ?? response.statusText;
    throw new Error(Array.isArray(detail)
      ? detail.map(({ loc, msg }) => `${loc.at(-1)}: ${msg}`).join("; ")
      : detail);
  }
  return answer;
}

export function postJson(path, body) {
  return api(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
}

// Run an action and show what went wrong below the form.
export async function attempt(action) {
  const problem = document.getElementById("problem");
  problem.hidden = true;
  try {
    await action();
  } catch (error) {
    problem.textContent = error.message;
    problem.hidden = false;
  }
}

export function showState(text, on) {
  const badge = document.getElementById("live");
  badge.textContent = text;
  badge.className = `badge ${on ? "on" : "off"}`;
}
