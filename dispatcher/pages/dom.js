// Elements from data. Text becomes text, never markup.

/** An element with properties and children; `text` is its text, `class` its class, `data-…` and `aria-…` attributes. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key === "text") made.textContent = value;
    else if (key === "on") for (const [event, heard] of Object.entries(value)) made.addEventListener(event, heard);
    else if (key in made && key !== "class" && key !== "list") made[key] = value;
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** The element with an id. */
export const byId = (id) => document.getElementById(id);

/** Fills a list of facts: pairs of a name and a text or element; those without one are left out. */
export function facts(list, pairs) {
  const shown = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  list.replaceChildren(...shown.flatMap(([name, value]) => [
    element("dt", { text: name }),
    value instanceof Node ? element("dd", {}, value) : element("dd", { text: String(value) }),
  ]));
}

/** Says how something goes; errors stand out. */
export function say(text, bad = false) {
  const status = byId("status");
  if (status.textContent !== text) status.textContent = text;
  status.classList.toggle("bad", bad);
}
