// The page of one picture or frame.

import { address, call, get, itemPage, pictureAddress } from "./api.js";
import { byId, element, facts, say } from "./dom.js";
import { clock, moment } from "./words.js";
import "./gallery.js";

const asked = Object.fromEntries(new URLSearchParams(location.search));
const which = { item: asked.item, frame_ms: asked.frame_ms };

async function show() {
  if (!which.item) return say("This address names no picture.", true);
  try {
    const record = await get("/items", which);
    const time = record.frame_ms === null ? "" : ` at ${clock(record.frame_ms)}`;
    byId("name").textContent = record.name + time;
    document.title = `${record.name}${time} · captionfleet`;
    byId("caption").textContent = record.caption ?? record.error_message ?? "no caption";
    byId("view").replaceChildren(view(record));
    tell(record);
    byId("forget-section").hidden = false;
    tellAnswers(record.answered);
    const since = record.failed_since;
    if (since) say(`Failed when it was last tried: ${since.error_code ?? ""}`, true);
    else say(record.status === "ok" ? "" : `${record.status}: ${record.error_code ?? ""}`, record.status === "failed");
    await neighbours();
  } catch (error) {
    say(error.message, true);
  }
}

/** A film from the frame's time on; a picture otherwise. */
function view(record) {
  const still = element("img", { src: pictureAddress(record, "large"), alt: record.caption ?? record.name });
  still.addEventListener("error", () => still.replaceWith(element("p", { class: "status", text: "This picture cannot be shown." })));
  if (!record.film) return still;
  const track = element("track", { kind: "captions", srclang: "en", label: "Captions", src: address("/tracks", which), default: true });
  const film = element("video", { controls: true, preload: "metadata", "aria-label": `The film ${record.name}` }, track);
  film.addEventListener("loadedmetadata", () => { film.currentTime = record.frame_ms / 1000; }, { once: true });
  // What this browser cannot play is shown as the frame.
  film.addEventListener("error", () => film.replaceWith(still), { once: true });
  film.src = address("/films", which);
  return film;
}

function tell(record) {
  const size = record.width ? `${record.width} × ${record.height}` : null;
  facts(byId("facts"), [
    ["Name", record.item],
    ["Size", size],
    ["Outcome", record.status],
    ["Tokens", record.tokens],
    ["Mean log-probability", record.mean_logprob?.toFixed(3)],
    ["Captioned", moment(record.finished_at)],
    ["Stands for", record.span_ms === null ? null : `${(record.span_ms / 1000).toFixed(1)} s`],
    ["Run", element("a", { href: `/runs?${new URLSearchParams({ run: record.run })}`, text: record.run })],
    ["Model", record.bundle],
    ["SHA-256", record.sha256],
    ["Rows", record.rows],
  ]);
}

/** An answer in words, with its probability where it has one. */
function inWords({ answer, probability }) {
  return typeof probability === "number" ? `${answer} (${(100 * probability).toFixed(1)} %)` : answer;
}

/** What runs said to their questions, side by side. */
function tellAnswers(answered) {
  const told = answered.flatMap(({ answers }) => answers.map((one) => [one.question, inWords(one)]));
  byId("answered-section").hidden = told.length === 0;
  facts(byId("answered"), told);
}

async function neighbours() {
  const asked = { like: which.item, like_frame_ms: which.frame_ms, limit: 13 };
  const found = await get("/search", asked).catch(() => ({ hits: [] }));
  const here = itemPage(which);
  byId("gallery").show(found.hits.filter((hit) => itemPage(hit) !== here).slice(0, 12));
}

byId("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  const answer = byId("answer");
  const button = event.target.querySelector("button");
  answer.classList.remove("bad");
  answer.textContent = "Asking…";
  button.disabled = true;
  try {
    const frame_ms = which.frame_ms === undefined ? undefined : Number(which.frame_ms);
    const choices = byId("choices").value.split(",").map((choice) => choice.trim()).filter((choice) => choice !== "");
    const json = { item: which.item, frame_ms, question: byId("question").value, choices };
    const told = await call("POST", address("/answers"), { json });
    answer.textContent = told.answers.length === 1 ? inWords(told.answers[0]) : told.answer;
  } catch (error) {
    answer.classList.add("bad");
    answer.textContent = error.message;
  }
  button.disabled = false;
});

byId("forget").addEventListener("click", () => byId("sure").showModal());
byId("sure").addEventListener("close", async ({ target: sure }) => {
  if (sure.returnValue !== "forget") return;
  sure.returnValue = "";
  byId("forget").disabled = true;
  say("Forgetting…");
  try {
    await call("DELETE", address("/items", { item: which.item }));
    byId("main").querySelector(".item").remove();
    byId("gallery").show([]);
    say("Forgotten: the archive says nothing of it any more.");
  } catch (error) {
    say(error.message, true);
    byId("forget").disabled = false;
  }
});
show();
