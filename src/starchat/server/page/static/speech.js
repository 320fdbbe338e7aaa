// What a screen reader says: whole sentences of a reply, and what happens.

const log = document.getElementById("spoken");
const MOST = 40;

export function say(text) {
  const line = document.createElement("p");
  line.textContent = text;
  log.append(line);
  while (log.childElementCount > MOST) log.firstElementChild.remove();
}

/** Says a reply while it is written. */
export class Speaker {
  #n = 0; // characters of the open piece that were said

  /** Say the pieces that became whole, and the sentences of the open one. */
  hear(whole, text) {
    for (const piece of whole) {
      this.#sayFrom(piece);
      this.#n = 0;
    }
    const end = Math.max(...[". ", "? ", "! ", ": "].map((mark) => text.lastIndexOf(mark))) + 1;
    if (end > this.#n) {
      this.#sayFrom(text.slice(0, end));
      this.#n = end;
    }
  }

  #sayFrom(text) {
    const rest = text.slice(this.#n).trim();
    if (rest) say(rest);
  }
}
