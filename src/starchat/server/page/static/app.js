// The page: conversations at the side, one of them shown, and the reply that is being written.

import { button, element } from "./element.js";
import { isSent, MessageView, speed } from "./message.js";
import { ask, events, hasKey, onKeyWanted, ServerError } from "./server.js";
import * as settings from "./settings.js";
import { say, Speaker } from "./speech.js";
import * as store from "./store.js";
import * as tree from "./tree.js";

const $ = (id) => document.getElementById(id);
const [box, thread, messages] = [$("box"), $("thread"), $("messages")];
const RETRY_MS = 2000;
const SAVE_MS = 1000;
const [MOST_TEXTS, MOST_CHARS] = [50, 500_000]; // that are rendered by one request

let conversation; // that is shown
let running = null; // {abort}: the reply that is being written
const removed = new Set(); // ids of conversations: a reply that ends later keeps none of them
const rendered = new Map(); // text of a reply → its pieces

// ---- the shown conversation -------------------------------------------------------------------

const actions = {
  regenerate: (message) => run(() => message.parent),
  proceed: (message) => run(() => message.parent, message),
  edit: (message, content) =>
    run(() => tree.addMessage(conversation, message.parent, { role: "user", content }).id),
  answer: (message, results) => run(() => {
    let parent = message.id;
    message.calls.forEach((call, index) => {
      const result = { role: "tool", content: results[index], call_id: call.id, name: call.name };
      parent = tree.addMessage(conversation, parent, result).id;
    });
    return parent;
  }),
  step: async (message, by) => {
    stop();
    const all = tree.siblings(conversation, message);
    const index = all.indexOf(message) + by;
    tree.showBranch(conversation, all[index]);
    await showThread();
    await keep();
    const shown = [...thread.children][tree.shownBranch(conversation).indexOf(all[index])];
    (shown?.querySelector(`.step:${by < 0 ? "first" : "last"}-of-type:enabled`) ?? shown?.querySelector(".step:enabled"))?.focus();
  },
};

/** Show the branch of the conversation, its replies rendered by the server. */
async function showThread() {
  const shown = conversation;
  const branch = tree.shownBranch(shown);
  const views = branch.map((message, index) => viewOf(message, index === branch.length - 1));
  thread.replaceChildren(...views.map((view) => view.element));
  showTitle();
  thread.classList.toggle("empty", !branch.length);
  if (!branch.length) thread.append(element("p", { className: "faint" }, "Ask something about code. Replies come from this server alone."));
  await renderAll(views.filter(({ message }) => message.role === "assistant"));
  if (conversation === shown) scrollDown();
  return views;
}

function viewOf(message, isLast) {
  const all = tree.siblings(conversation, message);
  const view = new MessageView(message, actions, [all.indexOf(message), all.length]);
  if (message.role === "assistant") {
    const blocks = rendered.get(message.content);
    if (blocks) view.showBlocks(blocks);
    else view.showText(message.content); // until the server has rendered it
    if (message.calls) view.showCalls(message.calls, isLast && !message.error);
  }
  return view;
}

async function renderAll(views) {
  const shown = conversation;
  const missing = views.filter(({ message }) => message.content && !rendered.has(message.content));
  try {
    while (missing.length && conversation === shown) {
      let [n, nChars] = [0, 0];
      while (n < Math.min(missing.length, MOST_TEXTS) && (n === 0 || nChars < MOST_CHARS)) {
        nChars += missing[n++].message.content.length;
      }
      const some = missing.splice(0, n);
      const response = await ask("render", { texts: some.map(({ message }) => message.content) });
      const { replies } = await response.json();
      some.forEach((view, index) => {
        rendered.set(view.message.content, replies[index]);
        view.showBlocks(replies[index]);
      });
    }
  } catch (error) {
    if (error.name !== "AbortError") showProblem(error.message);
  }
}

function showTitle() {
  const title = conversation.title || "New chat";
  $("title").textContent = title;
  document.title = conversation.title ? `${title} – StarChat` : "StarChat";
}

async function keep() {
  conversation.changed = Date.now();
  await save(conversation);
  await showConversations();
}

/** Keep a conversation in this browser. Where that fails, the user can still export it. */
async function save(shown) {
  if (removed.has(shown.id)) return;
  try {
    await store.save(shown);
  } catch (error) {
    showProblem(`This browser does not keep the conversation: ${error.message}`);
  }
}

// ---- a reply ----------------------------------------------------------------------------------

/** Ask for a reply to the message that `add` returns the id of, or go on with a `begun` one. Return
 * whether the settings can be read: nothing is added where they cannot, and the form says why. */
function run(add, begun) {
  let asked;
  try {
    asked = settings.options();
  } catch {
    return false;
  }
  stop();
  reply(add(), asked, begun);
  return true;
}

async function reply(parent, asked, begun) {
  const shown = conversation;
  shown.leaf = begun ? begun.id : parent;
  const prompt = tree.asPrompt(tree.shownBranch(shown), shown.settings.system);
  let message = begun;
  if (begun) {
    asked.continue_final_message = true;
    if (asked.tools) asked.tool_choice = "none"; // a begun text goes on as text
    delete prompt.at(-1).token_ids; // those of the whole are not known
    for (const name of ["token_ids", "figures", "reason", "error"]) delete begun[name];
  } else {
    message = tree.addMessage(shown, parent, { role: "assistant", content: "" });
  }
  const abort = new AbortController();
  const mine = { abort };
  running = mine;
  setRunning(true);
  const view = (await showThread()).at(-1);
  view.element.classList.add("running");
  view.about.replaceChildren();
  if (document.activeElement === document.body) box.focus({ preventScroll: true });
  keep();
  say("Waiting for the reply");
  try {
    const response = await ask("chat", { messages: prompt, options: asked }, abort.signal);
    if (begun) view.showBlocks([]); // they come again
    await read(response, message, view, abort.signal, begun !== undefined);
    rendered.set(message.content, view.blocks);
  } catch (error) {
    if (error.name === "AbortError") message.reason = "stopped";
    else {
      message.error = error instanceof ServerError ? error.message : `The page failed: ${error.message}`;
      say(message.error);
    }
  }
  if (running === mine) {
    running = null;
    setRunning(false);
  }
  shown.changed = Date.now();
  await save(shown);
  await showConversations();
  if (conversation !== shown) return;
  const isAtEnd = tree.shownBranch(shown).at(-1) === message;
  if (!isAtEnd) return;
  view.element.classList.remove("running");
  if (message.calls) view.showCalls(message.calls, !message.error);
  const all = tree.siblings(shown, message);
  view.finish([all.indexOf(message), all.length]);
  if (message.reason === "stopped") await renderAll([view]);
  stay(() => {});
}

async function read(response, message, view, signal, isContinued) {
  const speaker = new Speaker();
  let saved = performance.now();
  let first = null;
  const shown = conversation;
  for await (const data of events(response)) {
    if (signal.aborted) throw new DOMException("stopped", "AbortError");
    const now = performance.now();
    if (data.progress) showProgress(...data.progress);
    if (data.n_tokens) {
      first ??= [now, data.n_tokens];
      const s = (now - first[0]) / 1000;
      showDoing(s > 0.3 ? `Writing, ${speed((data.n_tokens - first[1]) / s)} tokens/s` : "Writing");
    }
    message.content += data.text ?? "";
    stay(() => {
      speaker.hear(view.apply(data), view.openText);
      for (const call of data.calls ?? []) view.applyCall(call);
    });
    if (data.end) finishMessage(message, data.end, isContinued);
    else if (now - saved > SAVE_MS) {
      saved = now;
      save(shown); // so that a reload keeps what is there
    }
  }
}

function finishMessage(message, { reason, calls, token_ids: ids, usage }, isContinued) {
  message.reason = reason;
  if (calls.length) message.calls = calls;
  if (!isContinued) message.token_ids = ids;
  const { prompt_tokens, completion_tokens, cached_tokens, decode_seconds } = usage;
  message.figures = { prompt_tokens, completion_tokens, cached_tokens, decode_seconds };
  const end = { length: "The reply was cut at the limit of tokens", tool_calls: "The model calls a tool" };
  say(end[reason] ?? "The reply is whole");
}

function stop() {
  running?.abort.abort();
  running = null;
  setRunning(false);
}

function setRunning(isRunning) {
  $("send").hidden = isRunning;
  $("stop").hidden = !isRunning;
  $("status").hidden = !isRunning;
  $("progress").hidden = true;
  messages.setAttribute("aria-busy", String(isRunning));
  if (isRunning) showDoing("Waiting");
}

function showDoing(text) {
  $("doing").textContent = text;
  if (text.startsWith("Writing")) $("progress").hidden = true;
}

function showProgress(done, all) {
  const bar = $("progress");
  bar.hidden = !all;
  if (!all) return;
  bar.max = all;
  bar.value = done;
  showDoing(`Reading the prompt, ${done.toLocaleString("en")} of ${all.toLocaleString("en")} tokens`);
}

/** Change the thread; what follows its end goes on to do so. */
function stay(change) {
  const isAtEnd = messages.scrollHeight - messages.scrollTop - messages.clientHeight < 60;
  change();
  if (isAtEnd) scrollDown();
}

function scrollDown() {
  messages.scrollTop = messages.scrollHeight;
}

// ---- the list of conversations ----------------------------------------------------------------

async function showConversations() {
  const found = await store.list();
  const items = found.map(({ id, title }) => {
    const name = title || "New chat";
    const opening = button(name, () => openConversation(id), { className: "quiet name" });
    if (id === conversation.id) opening.setAttribute("aria-current", "true");
    const removing = button("✕", () => removeConversation(id, name), { "aria-label": `Delete ${name}`, title: "Delete" });
    return element("li", {}, opening, removing);
  });
  const list = $("conversations");
  const focused = [...list.querySelectorAll("button")].indexOf(document.activeElement);
  list.replaceChildren(...items);
  if (focused >= 0) list.querySelectorAll("button")[Math.min(focused, items.length * 2 - 1)]?.focus();
}

async function openConversation(id) {
  const found = await store.load(id);
  if (!found) return;
  stop();
  rendered.clear();
  conversation = found;
  settings.show(conversation.settings);
  closeHistory();
  await showThread();
  await showConversations();
  box.focus();
}

async function newConversation() {
  stop();
  rendered.clear();
  conversation = tree.newConversation(settings.kept());
  settings.show(conversation.settings);
  closeHistory();
  await showThread();
  await showConversations();
  box.focus();
}

async function removeConversation(id, name) {
  if (!confirm(`Delete “${name}” from this browser?`)) return;
  removed.add(id);
  await store.remove(id);
  if (id === conversation.id) await newConversation();
  else await showConversations();
}

function download(text, type, ending) {
  const name = (conversation.title || "conversation").replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40);
  const link = element("a", { href: URL.createObjectURL(new Blob([text], { type })), download: `${name}.${ending}` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

async function importFile(file) {
  try {
    const read = tree.imported(await file.text());
    for (const each of read) {
      if (await store.load(each.id)) each.id = tree.newId(); // the one that is here stays
      removed.delete(each.id);
      await store.save(each);
    }
    if (read.length) await openConversation(read[0].id);
    say("Imported");
  } catch (error) {
    showProblem(`${file.name} cannot be imported: ${error.message}`);
  }
}

function openHistory() {
  document.body.classList.add("history-open");
  $("shade").hidden = false;
  document.querySelector("main").inert = true;
  $("open-history").setAttribute("aria-expanded", "true");
  $("new").focus();
}

function closeHistory() {
  document.body.classList.remove("history-open");
  $("shade").hidden = true;
  document.querySelector("main").inert = false;
  $("open-history").setAttribute("aria-expanded", "false");
}

// ---- the box, keys, the start -----------------------------------------------------------------

function send() {
  const content = box.value;
  if (!content.trim() || running) return;
  const add = () => tree.addMessage(conversation, conversation.leaf, { role: "user", content }).id;
  if (!run(add)) return;
  box.value = "";
  fit();
}

function fit() {
  box.style.height = "auto";
  box.style.height = `${Math.min(box.scrollHeight + 2, innerHeight * 0.4)}px`;
}

function showProblem(text) {
  if ([...document.querySelectorAll("#composer > .error")].some((old) => old.textContent === text)) return;
  const problem = element("p", { className: "error", role: "alert" }, text);
  $("composer").prepend(problem);
  setTimeout(() => problem.remove(), 10_000);
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
box.addEventListener("input", fit);
box.addEventListener("keydown", (event) => {
  if (!isSent(event)) return;
  event.preventDefault();
  send();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
  if (document.body.classList.contains("history-open")) {
    closeHistory();
    $("open-history").focus();
  } else if (running) {
    stop();
    say("Stopped");
    box.focus();
  }
});
$("stop").addEventListener("click", () => {
  stop();
  say("Stopped");
  box.focus();
});
$("new").addEventListener("click", newConversation);
$("open-history").addEventListener("click", openHistory);
matchMedia("(min-width: 48.001rem)").addEventListener("change", closeHistory);
for (const id of ["close-history", "shade"]) {
  $(id).addEventListener("click", () => {
    closeHistory();
    $("open-history").focus();
  });
}
$("open-settings").addEventListener("click", settings.open);
$("export-json").addEventListener("click", () =>
  download(tree.asExport([conversation]), "application/json", "json"));
$("export-markdown").addEventListener("click", () =>
  download(tree.asMarkdown(conversation), "text/markdown", "md"));
$("import").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  $("file").value = "";
  if (file) importFile(file);
});

onKeyWanted((isRefused) => new Promise((resolve) => {
  const dialog = $("key-box");
  $("key-problem").hidden = !isRefused;
  $("key").value = "";
  dialog.onclose = () => resolve(dialog.returnValue === "given" ? $("key").value : null);
  dialog.querySelector("form").onsubmit = () => { dialog.returnValue = "given"; };
  dialog.returnValue = "";
  dialog.showModal();
}));

async function connect() {
  for (;;) {
    try {
      const info = await (await ask("info")).json();
      $("model").textContent = info.model;
      $("model").classList.remove("problem");
      $("model").title = `${info.model}, ${info.quantization}, context ${info.n_ctx.toLocaleString("en")} tokens`;
      return info;
    } catch (error) {
      $("model").textContent = error.code === "loading" ? "The model is loading …" : error.message;
      $("model").classList.add("problem");
      do {
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      } while (error.status === 401 && !hasKey());
    }
  }
}

$("late").remove();
$("app").hidden = false;
conversation = tree.newConversation(settings.kept());
await showThread();
await showConversations();
box.focus();
if (!(await store.isKept())) showProblem("This browser keeps no history for this page: conversations end with it.");
const info = await connect();
settings.setUp(info.parameters, (changed) => {
  conversation.settings = changed;
  if (conversation.messages.length) save(conversation);
});
settings.show(conversation.settings);
