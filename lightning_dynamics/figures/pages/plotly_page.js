"use strict";
// What every page that explores with plotly begins with.
const data = JSON.parse(document.getElementById("data").textContent);
const ui = Object.fromEntries([...document.querySelectorAll("[id]")].map((it) => [it.id, it]));
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const FLAT = !webgl();  // no WebGL: no surface
let drawing = Promise.resolve();  // one after the other: plotly does not like to be interrupted

function webgl() {
  try {
    const probe = document.createElement("canvas").getContext("webgl");
    probe?.getExtension("WEBGL_lose_context")?.loseContext();  // a browser has few contexts: one per page is enough
    return probe !== null;
  } catch { return false; }
}
function warn(text) {
  ui.trouble.textContent = text;
  ui.trouble.hidden = false;
}
const trouble = (error) => warn(`The picture could not be drawn: ${error.message ?? error}`);
function showPlaying(on) {
  ui.play.textContent = on ? "⏸" : "▶";
  ui.play.setAttribute("aria-label", on ? "Pause" : "Play");
}
