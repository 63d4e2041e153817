// <cf-gallery>: pictures with their captions, and what each matched.

import { itemPage, pictureAddress } from "./api.js";
import { element } from "./dom.js";
import { clock } from "./words.js";

const NAMES = { text: "text", image: "picture", words: "words", match: "the model" };

class Gallery extends HTMLElement {
  /** Shows hits of a search. */
  show(hits) {
    this.replaceChildren(element("ol", {}, ...hits.map(card)));
  }
}

/** The picture's name, and the time of a film's frame. */
function named(hit) {
  const film = hit.frame_ms !== null && hit.frame_ms !== undefined;
  return film ? `${hit.name} at ${clock(hit.frame_ms)}` : hit.name;
}

function card(hit) {
  return element("li", {},
    element("a", { href: itemPage(hit) },
      frame(hit),
      element("div", { class: "words" },
        element("p", { text: hit.caption || "no caption" }),
        element("div", { class: "file", text: named(hit) }),
        element("div", { class: "why", text: why(hit) }))),
    likes(hit.duplicates));
}

/** Those that show the same, on demand. */
function likes(duplicates) {
  if (!duplicates?.length) return null;
  return element("details", { class: "likes" },
    element("summary", { text: `and ${duplicates.length} like it` }),
    element("ul", {}, ...duplicates.map((like) => element("li", {}, element("a", { href: itemPage(like), text: named(like) })))));
}

/** The picture, loaded when it comes near the screen; what cannot be shown says so. */
function frame(hit) {
  const picture = element("img", { loading: "lazy", decoding: "async", alt: "", src: pictureAddress(hit, "small") });
  const place = element("div", { class: "frame" }, picture);
  picture.addEventListener("error", () => place.replaceChildren("no picture"), { once: true });
  return place;
}

function why(hit) {
  const parts = Object.entries(hit.matched ?? {}).map(([by, score]) => `${NAMES[by] ?? by} ${score.toFixed(2)}`);
  return parts.length ? `matched ${parts.join(", ")}` : "";
}

customElements.define("cf-gallery", Gallery);
