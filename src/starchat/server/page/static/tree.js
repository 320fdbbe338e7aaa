// A conversation: a tree of messages. Editing and asking again add a branch; `leaf` is the end of
// the one that is shown.

const ROLES = ["user", "assistant", "tool"];

export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function newConversation(settings) {
  const now = Date.now();
  return { id: newId(), title: "", created: now, changed: now, settings, messages: [], leaf: null };
}

/** Add a message behind the one with the id `parent`, and show its branch. */
export function addMessage(conversation, parent, message) {
  const added = { id: newId(), parent, time: Date.now(), ...message };
  conversation.messages.push(added);
  conversation.leaf = added.id;
  if (!conversation.title && added.role === "user") conversation.title = titleOf(added.content);
  return added;
}

/** Return the messages of the branch that is shown, in order. */
export function shownBranch(conversation) {
  const byId = new Map(conversation.messages.map((message) => [message.id, message]));
  const branch = [];
  for (let at = byId.get(conversation.leaf); at; at = byId.get(at.parent)) branch.unshift(at);
  return branch;
}

/** Return a message and what stands in its place in other branches, oldest first. */
export function siblings(conversation, message) {
  return conversation.messages.filter((other) => other.parent === message.parent);
}

/** Show the branch through a message that was written last. */
export function showBranch(conversation, message) {
  const below = new Set([message.id]);
  for (const other of conversation.messages) { // a message stands behind its parent
    if (below.has(other.parent)) below.add(other.id);
    if (below.has(other.id)) conversation.leaf = other.id;
  }
}

/** Return a branch as the server reads it. */
export function asPrompt(branch, system) {
  const messages = system ? [{ role: "system", content: system }] : [];
  for (const [index, message] of branch.entries()) {
    const { role, content, call_id, name } = message;
    // Calls that got no result, as the user went on with something else, are left out.
    const isWhole = !message.calls?.length || branch[index + 1]?.role === "tool";
    const { calls, token_ids } = isWhole ? message : {};
    if (role === "tool") {
      messages.push({ role, content, tool_call_id: call_id, name });
    } else if (role === "user") {
      messages.push({ role, content });
    } else if (content || calls?.length) {
      const turn = { role, content };
      if (token_ids) turn.token_ids = token_ids;
      if (calls?.length) turn.tool_calls = calls;
      messages.push(turn);
    }
  }
  return messages;
}

/** Return a branch as a text in Markdown. */
export function asMarkdown(conversation) {
  const names = { user: "You", assistant: "StarChat", tool: "Result" };
  const parts = [`# ${conversation.title || "Conversation"}`];
  if (conversation.settings?.system) parts.push(`## System prompt\n\n${conversation.settings.system}`);
  for (const message of shownBranch(conversation)) {
    const name = message.role === "tool" ? `${names.tool} of ${message.name}` : names[message.role];
    const calls = (message.calls ?? []).map((call) =>
      `Call of \`${call.name}\`:\n\n\`\`\`json\n${JSON.stringify(call.arguments, null, 2)}\n\`\`\``);
    parts.push([`## ${name}`, message.content, ...calls].filter(Boolean).join("\n\n"));
  }
  return parts.join("\n\n") + "\n";
}

/** Return the conversations of an exported file, checked; throws where it has none. */
export function imported(text) {
  const data = JSON.parse(text);
  if (data?.starchat !== 1) throw new Error("expected a conversation that this page exported");
  return list(data.conversations).map(checked);
}

export function asExport(conversations) {
  return JSON.stringify({ starchat: 1, conversations }, null, 1);
}

function checked(given) {
  const before = new Set([null]);
  const messages = list(object(given).messages).map((message) => {
    if (!ROLES.includes(object(message).role)) throw new Error(`a message has the role ${message.role}`);
    const read = { id: text(message.id), parent: message.parent };
    if (!before.has(read.parent)) throw new Error("a message stands before the one it follows");
    if (before.has(read.id)) throw new Error("two messages have the same id");
    before.add(read.id);
    Object.assign(read, { role: message.role, content: text(message.content), time: number(message.time) });
    for (const name of ["call_id", "name", "reason", "error"]) {
      if (message[name] !== undefined) read[name] = text(message[name]);
    }
    if (message.calls) {
      read.calls = list(message.calls).map((call) => (
        { id: text(object(call).id), name: text(call.name), arguments: object(call.arguments) }));
    }
    if (message.token_ids) read.token_ids = list(message.token_ids).map(number);
    if (message.figures) {
      read.figures = Object.fromEntries(
        Object.entries(object(message.figures)).map(([name, value]) => [name, number(value)]));
    }
    return read;
  });
  const settings = Object.fromEntries(
    Object.entries(object(given.settings)).map(([name, value]) => [name, text(value)]));
  return {
    id: text(given.id), title: text(given.title), created: number(given.created),
    changed: number(given.changed), settings, messages, leaf: before.has(given.leaf) ? given.leaf : null,
  };
}

const text = (value) => kept(value, "a text", typeof value === "string");
const number = (value) => kept(value, "a number", typeof value === "number");
const list = (value) => kept(value, "a list", Array.isArray(value));
const object = (value) => kept(value, "an object", value instanceof Object && !Array.isArray(value));

function kept(value, what, isRight) {
  if (isRight) return value;
  throw new Error(`expected ${what}, got ${String(JSON.stringify(value)).slice(0, 80)}`);
}

function titleOf(text) {
  const line = text.trim().split("\n", 1)[0];
  return line.length > 60 ? `${line.slice(0, 59)}…` : line;
}
