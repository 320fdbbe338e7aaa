// Elements, made node by node.

import { say } from "./speech.js";

/** Return an element; a string among the children is text. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("aria-") || key === "role") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children);
  return made;
}

export function button(label, onclick, properties = {}) {
  return element("button", { type: "button", className: "quiet", onclick, ...properties }, label);
}

/** Return a button that copies what `textOf` returns, and says so for a moment. */
export function copyButton(textOf, properties = {}) {
  return button(COPY, (event) => copy(textOf(), event.currentTarget), properties);
}

const COPY = "Copy";

async function copy(text, from) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // a page that came without TLS has no clipboard
    const area = element("textarea", { value: text, className: "unseen" });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    from.focus();
  }
  from.textContent = "Copied";
  say("Copied");
  setTimeout(() => { from.textContent = COPY; }, 1500);
}
