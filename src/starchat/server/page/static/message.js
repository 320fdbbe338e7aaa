// One message on the page: its text in pieces, calls of tools with their results, what can be done.

import { button, copyButton, element } from "./element.js";
import { nodesOf } from "./html.js";

const NAMES = { user: "You", assistant: "StarChat", tool: "Result" };
const REASONS = new Map([["length", "cut at the limit of tokens"], ["stopped", "stopped"]]);

export class MessageView {
  /** Show a message; `actions` has what its buttons do, and `places` its branch: [index, count]. */
  constructor(message, actions, places) {
    this.message = message;
    this.actions = actions;
    this.whole = element("div", { className: "whole" });
    this.open = element("div", { className: "open" });
    this.blocks = []; // that were placed
    this.openText = ""; // what is to be said of the open piece so far
    this.calls = element("div", { className: "calls" });
    this.body = element("div", { className: "body" }, this.whole, this.open, this.calls);
    this.about = element("footer");
    const name = element("h2", { className: "unseen" }, this.name);
    this.element = element("article", { className: `message ${message.role}` }, name, this.body, this.about);
    if (message.role === "user") this.showText(message.content);
    if (message.role === "tool") this.showResult();
    this.finish(places);
  }

  get name() {
    const { role, name } = this.message;
    return role === "tool" ? `Result of ${name}` : NAMES[role];
  }

  /** Show a text as it is. */
  showText(text) {
    this.whole.replaceChildren(element("p", { className: "plain" }, text));
    this.open.replaceChildren();
  }

  showResult() {
    const result = element("pre", { tabIndex: 0 }, this.message.content);
    const summary = element("summary", {}, "Result of ", element("code", {}, this.message.name));
    this.whole.replaceChildren(element("details", { className: "call" }, summary, result));
  }

  /** Show a text that the server has rendered. */
  showBlocks(blocks) {
    this.whole.replaceChildren();
    this.open.replaceChildren();
    this.blocks = [];
    for (const block of blocks) this.#place(block);
  }

  /** Show what an event of the stream brings; return what to say of each whole piece. */
  apply(data) {
    const spoken = (data.blocks ?? []).map((block) => this.#place(block));
    if (data.open) {
      const nodes = nodesOf(data.open.html);
      this.openText = isCode(nodes) ? "" : nodes.textContent;
      this.open.replaceChildren(decorated(nodes));
      this.open.classList.toggle("continues", data.open.continues);
    }
    if (data.code) this.open.querySelector("code")?.append(data.code);
    return spoken;
  }

  #place(block) {
    this.blocks.push(block);
    const nodes = nodesOf(block.html);
    const text = nodes.textContent;
    const spoken = isCode(nodes) ? `Code, ${count(text.trim().split("\n").length, "line")}` : text;
    decorated(nodes);
    const last = this.whole.lastElementChild;
    const first = nodes.firstElementChild;
    if (block.continues && last?.localName === first?.localName && /^[uo]l$/.test(first?.localName)) {
      last.append(...first.childNodes);
      first.remove();
    }
    this.whole.append(nodes);
    return spoken;
  }

  /** Show a call as far as it is written. */
  applyCall({ index, name, arguments: text }) {
    let call = this.calls.children[index];
    if (!call) {
      call = element("details", { className: "call", open: true },
        element("summary", {}, "Calls ", element("code")),
        element("pre", { tabIndex: 0, "aria-label": "Arguments" }, element("code")));
      this.calls.append(call);
    }
    if (name) call.querySelector("summary code").textContent = name;
    call.querySelector("pre code").append(text);
  }

  /** Show the whole calls; those without a result have a box for it. */
  showCalls(calls, areOpen) {
    this.calls.replaceChildren();
    const boxes = calls.map((call, index) => {
      const json = JSON.stringify(call.arguments, null, 2);
      this.applyCall({ index, name: call.name, arguments: json });
      this.calls.children[index].open = areOpen;
      if (!areOpen) return null;
      const id = `result-${this.message.id}-${index}`;
      const box = element("textarea", { id, rows: 2, className: "mono", spellcheck: false });
      const label = element("label", { htmlFor: id }, `Result of ${call.name}`);
      this.calls.children[index].append(label, box);
      return box;
    });
    if (!areOpen || !calls.length) return;
    const send = () => this.actions.answer(this.message, boxes.map((box) => box.value));
    this.calls.append(element("div", { className: "row" },
      button(calls.length > 1 ? "Send results" : "Send result", send, { className: "main" })));
  }

  /** Show what can be done with a message that is whole. */
  finish(places) {
    const { message, actions } = this;
    const parts = [];
    if (message.error) {
      this.element.querySelector(".error")?.remove();
      this.body.append(element("p", { className: "error" }, message.error));
    }
    if (places && places[1] > 1) parts.push(this.#branches(places));
    if (message.role === "user") {
      parts.push(button("Edit", () => this.edit()));
    }
    if (message.role === "assistant") {
      parts.push(button("Regenerate", () => actions.regenerate(message)));
      const isCut = REASONS.has(message.reason) || message.error;
      if (isCut && message.content && !message.calls?.length) {
        parts.push(button("Continue", () => actions.proceed(message)));
      }
    }
    if (message.content && message.role !== "tool") {
      parts.push(copyButton(() => message.content));
    }
    const figures = figuresOf(message);
    if (figures) parts.push(element("span", { className: "figures" }, figures));
    this.about.replaceChildren(...parts);
  }

  /** Let the user write a message anew. */
  edit() {
    const box = element("textarea", { value: this.message.content, rows: 3 });
    box.setAttribute("aria-label", "Edit the message");
    const cancel = () => {
      this.showText(this.message.content);
      this.about.hidden = false;
      this.about.querySelector("button:not(.step)")?.focus();
    };
    const send = () => box.value.trim() && this.actions.edit(this.message, box.value);
    box.onkeydown = (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        cancel();
      } else if (isSent(event)) {
        event.preventDefault();
        send();
      }
    };
    const row = element("div", { className: "row end" },
      button("Cancel", cancel), button("Send", send, { className: "main" }));
    this.whole.replaceChildren(element("div", { className: "editing" }, box, row));
    this.about.hidden = true;
    box.focus();
  }

  #branches([index, count]) {
    const step = (by, label, sign) => button(sign, () => this.actions.step(this.message, by),
      { className: "quiet step", "aria-label": label, disabled: index + by < 0 || index + by >= count });
    return element("span", { className: "branches" },
      step(-1, "Earlier version", "‹"),
      element("span", { "aria-label": `Version ${index + 1} of ${count}`, role: "img" }, `${index + 1} / ${count}`),
      step(1, "Later version", "›"));
  }
}

function figuresOf({ figures, reason }) {
  const parts = [];
  if (REASONS.has(reason)) parts.push(REASONS.get(reason));
  if (figures) {
    const { completion_tokens: n, prompt_tokens: nPrompt, cached_tokens: nCached, decode_seconds: s } = figures;
    parts.push(count(n, "token"));
    if (n > 1 && s > 0) parts.push(`${speed((n - 1) / s)} tokens/s`);
    if (nPrompt) parts.push(`prompt ${nPrompt}, ${Math.round((100 * nCached) / nPrompt)} % cached`);
  }
  return parts.join(" · ");
}

function count(n, what) {
  return `${n} ${what}${n === 1 ? "" : "s"}`;
}

export function speed(value) {
  return value < 10 ? value.toFixed(1) : String(Math.round(value));
}

/** Return whether a key sends a text: Enter, but not the one that ends the composing of a word. */
export function isSent({ key, shiftKey, isComposing, keyCode }) {
  return key === "Enter" && !shiftKey && !isComposing && keyCode !== 229; // 229: Safari's composing
}

function isCode(nodes) {
  return nodes.firstElementChild?.localName === "pre";
}

/** Give code its bar, and let wide tables scroll. */
function decorated(nodes) {
  for (const pre of nodes.querySelectorAll("pre")) {
    const code = pre.querySelector("code");
    const language = code?.className.replace("language-", "") ?? "";
    pre.tabIndex = 0;
    pre.setAttribute("aria-label", language ? `Code, ${language}` : "Code");
    pre.setAttribute("role", "region");
    const bar = element("div", { className: "bar" }, element("span", {}, language),
      copyButton(() => code.textContent, { "aria-label": "Copy the code" }));
    const frame = element("div", { className: "code" }, bar);
    pre.replaceWith(frame);
    frame.append(pre);
  }
  for (const table of nodes.querySelectorAll("table")) {
    const frame = element("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": "Table" });
    table.replaceWith(frame);
    frame.append(table);
  }
  return nodes;
}
