// Rendered pieces of replies → nodes. The only place where text becomes HTML: by a Trusted Types
// policy that the page's CSP names, and with the elements of the server's renderer alone.

const policy = globalThis.trustedTypes
  ? trustedTypes.createPolicy("starchat", { createHTML: (html) => html })
  : { createHTML: (html) => html };

// element → its attributes, and what their values may be
const classes = { class: /^(?:language-[a-z0-9+#-]{1,20}|[a-z]|right|center)$/ };
const ALLOWED = new Map([
  ...["p", "h3", "h4", "h5", "h6", "ul", "li", "blockquote", "pre", "em", "strong", "s", "hr", "br",
    "table", "thead", "tbody", "tr"].map((name) => [name, {}]),
  ...["code", "span", "th", "td"].map((name) => [name, classes]),
  ["a", { href: /^(?:https?:\/\/|mailto:)/i }],
  ["ol", { start: /^\d{1,9}$/ }],
]);

/** Return the nodes of a rendered piece, in a fragment. */
export function nodesOf(html) {
  const parsed = new DOMParser().parseFromString(policy.createHTML(html), "text/html");
  const fragment = new DocumentFragment();
  copyChildren(parsed.body, fragment);
  return fragment;
}

function copyChildren(from, to) {
  for (const child of from.childNodes) {
    if (child.nodeType === Node.TEXT_NODE) {
      to.append(child.data);
      continue;
    }
    const attributes = child.nodeType === Node.ELEMENT_NODE && isHtml(child)
      ? ALLOWED.get(child.localName) : undefined;
    if (!attributes) continue;
    const copy = document.createElement(child.localName);
    for (const [name, form] of Object.entries(attributes)) {
      const value = child.getAttribute(name);
      if (value !== null && form.test(value)) copy.setAttribute(name, value);
    }
    if (copy.localName === "a") {
      copy.rel = "noopener noreferrer";
      copy.target = "_blank";
    }
    copyChildren(child, copy);
    to.append(copy);
  }
}

function isHtml(element) {
  return element.namespaceURI === "http://www.w3.org/1999/xhtml";
}
