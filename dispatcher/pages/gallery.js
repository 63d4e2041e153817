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

function card(hit) {
  const film = hit.frame_ms !== null && hit.frame_ms !== undefined;
  const name = film ? `${hit.name} at ${clock(hit.frame_ms)}` : hit.name;
  return element("li", {},
    element("a", { href: itemPage(hit) },
      frame(hit),
      element("div", { class: "words" },
        element("p", { text: hit.caption || "no caption" }),
        element("div", { class: "file", text: name }),
        element("div", { class: "why", text: why(hit) }))));
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
  const like = hit.duplicates?.length ? `and ${hit.duplicates.length} like it` : "";
  return [parts.length ? `matched ${parts.join(", ")}` : "", like].filter(Boolean).join(", ");
}

customElements.define("cf-gallery", Gallery);
