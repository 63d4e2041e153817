// The search page. What is asked is in the page's address, so that it can be sent, kept, and gone back to.

import { call, address, get, pictureAddress } from "./api.js";
import { byId, element, say } from "./dom.js";
import { counted } from "./words.js";
import "./gallery.js";

const FIELDS = ["text", "mode", "source", "caption", "since", "until", "min_size", "run", "status", "group", "rerank", "limit"];
const form = byId("search");
let running = null;

/** What the address asks for. */
const asked = () => Object.fromEntries(new URLSearchParams(location.search));

/** Writes what is asked into the form. */
function fill(query) {
  for (const name of FIELDS) {
    const field = form.elements.namedItem(name);
    if (field.type === "checkbox") field.checked = Boolean(query[name]) && query[name] !== "false";
    else field.value = query[name] ?? "";
  }
  byId("filters").open = FIELDS.slice(1).some((name) => query[name]);
  const place = byId("by-picture");
  const picture = query.upload ? { upload: query.upload } : { item: query.like, frame_ms: query.like_frame_ms };
  place.hidden = !query.upload && !query.like;
  if (place.hidden) return place.replaceChildren();
  place.replaceChildren(
    element("img", { src: pictureAddress(picture, "small"), alt: "The picture that is searched by" }),
    element("button", { type: "button", text: "Search without the picture", on: { click: () => go({ ...read(), upload: "", like: "", like_frame_ms: "" }) } }));
}

/** What the form says, and the picture of the address. */
function read() {
  const { upload, like, like_frame_ms } = asked();
  const query = { upload, like, like_frame_ms };
  for (const [name, value] of new FormData(form)) query[name] = value.trim();
  return query;
}

/** Goes to the page of a query. */
function go(query) {
  const kept = Object.entries(query).filter(([, value]) => value !== undefined && value !== "");
  history.pushState(null, "", `/?${new URLSearchParams(kept)}`);
  show();
}

async function show() {
  const query = asked();
  fill(query);
  running?.abort();
  running = new AbortController();
  say("Searching…");
  byId("pages").hidden = true;
  try {
    const limit = Number(query.limit || 40);
    const offset = Number(query.offset || 0);
    // Without a text there is nothing to judge by.
    const rerank = query.text ? query.rerank : "";
    const found = await get("/search", { ...query, rerank, limit, offset }, running.signal);
    byId("gallery").show(found.hits);
    byId("pages").hidden = offset === 0 && found.hits.length < limit;
    byId("before").disabled = offset === 0;
    byId("after").disabled = found.hits.length < limit;
    say(summary(query, found));
  } catch (error) {
    if (error.name === "AbortError") return;
    byId("gallery").show([]);
    say(error.message, true);
  }
}

function summary(query, found) {
  const searched = query.text || query.upload || query.like;
  const narrowed = Object.entries(query).some(([name, value]) => value && name !== "limit");
  const what = searched ? counted(found.hits.length, "hit") : `The newest ${counted(found.hits.length, "picture")}`;
  const index = found.index.unindexed ? `; ${counted(found.index.unindexed, "part")} not indexed yet` : "";
  const others = Object.values(found.index.foreign).reduce((sum, pictures) => sum + pictures, 0);
  const left = found.embedding_space && others ? `; ${counted(others, "picture")} of other models left out` : "";
  const judged = found.reranked ? `; the model has judged the best ${found.reranked.judged}` : "";
  if (found.hits.length === 0) return narrowed ? "Nothing was found." : "Nothing is here yet: submit a run.";
  return `${what} of ${counted(found.pictures, "picture")}${judged}${left}${index}`;
}

async function searchBy(file) {
  if (!file) return;
  say("Uploading…");
  try {
    const { upload } = await call("POST", address("/uploads"), { body: file });
    go({ ...read(), upload, like: "", like_frame_ms: "" });
  } catch (error) {
    say(error.message, true);
  }
}

function turn(pages) {
  const query = asked();
  const limit = Number(query.limit || 40);
  go({ ...query, offset: Math.max(0, Number(query.offset || 0) + pages * limit) || "" });
  scrollTo(0, 0);
  byId("main").focus();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  go(read());
});
byId("picture").addEventListener("change", (event) => {
  searchBy(event.target.files[0]);
  event.target.value = "";
});
byId("before").addEventListener("click", () => turn(-1));
byId("after").addEventListener("click", () => turn(1));
addEventListener("popstate", show);
addEventListener("paste", (event) => searchBy([...event.clipboardData.files].find((file) => file.type.startsWith("image/"))));
for (const name of ["dragenter", "dragover"]) {
  addEventListener(name, (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
}
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  searchBy(event.dataTransfer.files[0]);
});
addEventListener("keydown", (event) => {
  if (event.key === "k" && (event.ctrlKey || event.metaKey) && !event.shiftKey && !event.altKey && !event.target.closest("dialog")) {
    event.preventDefault();
    byId("text").focus();
  }
});
show();
