// What this browser keeps: conversations in its IndexedDB, texts in its storages. Where it keeps
// nothing, until the page is closed.

const STORE = "conversations";
const inMemory = new Map();
const texts = new Map();
let opened;

/** Return whether conversations outlive the page. */
export async function isKept() {
  return (await database()) !== null;
}

/** Return id and title of each conversation, the one that changed last first. */
export async function list() {
  const store = await objects("readonly");
  if (!store) return [...inMemory.values()].sort((a, b) => b.changed - a.changed);
  return new Promise((resolve, reject) => {
    const found = [];
    const request = store.index("recent").openKeyCursor(null, "prev"); // without the messages
    request.onerror = () => reject(request.error);
    request.onsuccess = () => {
      const cursor = request.result;
      if (!cursor) return resolve(found);
      found.push({ id: cursor.primaryKey, title: cursor.key[1] });
      cursor.continue();
    };
  });
}

export async function load(id) {
  const store = await objects("readonly");
  return store ? end(store.get(id)) : inMemory.get(id);
}

export async function save(conversation) {
  const store = await objects("readwrite");
  if (!store) return inMemory.set(conversation.id, conversation);
  // What another tab has added stays: messages are added, and never taken away.
  const ids = new Set(conversation.messages.map((message) => message.id));
  const stored = await end(store.get(conversation.id));
  conversation.messages.push(...(stored?.messages ?? []).filter((message) => !ids.has(message.id)));
  await end(store.put(conversation));
}

export async function remove(id) {
  const store = await objects("readwrite");
  if (store) await end(store.delete(id));
  inMemory.delete(id);
}

/** Return a text that was kept in "localStorage" or "sessionStorage"; null where there is none. */
export function textOf(storage, key) {
  try {
    return texts.get(key) ?? globalThis[storage].getItem(key);
  } catch {
    return null; // the browser is told to keep nothing
  }
}

export function keepText(storage, key, value) {
  texts.set(key, value);
  try {
    globalThis[storage].setItem(key, value);
  } catch {
    // it lasts as long as the page
  }
}

async function objects(mode) {
  const db = await database();
  return db && db.transaction(STORE, mode).objectStore(STORE);
}

function database() {
  opened ??= new Promise((resolve) => {
    let request;
    try {
      request = indexedDB.open("starchat", 1);
    } catch {
      return resolve(null);
    }
    request.onupgradeneeded = () => {
      request.result.createObjectStore(STORE, { keyPath: "id" }).createIndex("recent", ["changed", "title"]);
    };
    request.onsuccess = () => {
      request.result.onclose = () => { opened = undefined; }; // the user deleted the site's data
      resolve(request.result);
    };
    request.onerror = () => resolve(null);
  });
  return opened;
}

function end(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
