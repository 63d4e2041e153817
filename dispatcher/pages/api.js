// Calls of the API. Errors are the service's own words.

import { signIn } from "./sign-in.js";

const BASE = "/api/v1";

/** What went wrong, in the service's words. */
export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** The address of something, with what is asked in it. */
export function address(path, asked = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(asked)) {
    if (value !== undefined && value !== null && value !== "") query.set(name, value);
  }
  const text = query.toString();
  return BASE + path + (text ? `?${text}` : "");
}

/** Calls the API; asks for the token if that is needed. */
export async function call(method, url, { json, body, signal } = {}) {
  const headers = {};
  if (json !== undefined) headers["content-type"] = "application/json";
  else if (body !== undefined) headers["content-type"] = "application/octet-stream";
  let answer;
  try {
    answer = await fetch(url, { method, headers, body: json === undefined ? body : JSON.stringify(json), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "The service cannot be reached; is it running?");
  }
  if (answer.status === 401) {
    await signIn();
    return call(method, url, { json, body, signal });
  }
  if (!answer.ok) {
    const problem = await answer.json().catch(() => null);
    throw new Problem(answer.status, problem?.detail ?? `The service answered ${answer.status}.`);
  }
  return answer.status === 204 ? null : answer.json();
}

/** Gets something. */
export const get = (path, asked, signal) => call("GET", address(path, asked), { signal });

/** Where a picture is. */
export const pictureAddress = ({ item, frame_ms, upload }, size) => address("/pictures", { item, frame_ms, upload, size });

/** The page of a picture or frame. */
export function itemPage({ item, frame_ms }) {
  const query = new URLSearchParams({ item });
  if (frame_ms !== null && frame_ms !== undefined) query.set("frame_ms", frame_ms);
  return `/item?${query}`;
}
