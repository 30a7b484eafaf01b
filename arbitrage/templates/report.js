"use strict";

// The report's tabs, its table of teachers by language, and the address that remembers where one is.
(() => {
  const { data, element, replace, MISSING } = window.arbitrage;
  const TABS = ["overview", "distributions", "samples"];
  const shown = new Set();

  // ---- Teachers by language ----

  const table = document.getElementById("matrix");

  function paint(cell, [text, value, heat]) {
    cell.textContent = text;
    cell.dataset.value = value ?? "";
    cell.classList.toggle("heat", heat !== null);
    if (heat === null) cell.style.removeProperty("--heat");
    else cell.style.setProperty("--heat", heat);
  }

  function show(key) {
    const mode = data.matrix[key];
    table.dataset.tone = mode.tone;
    document.getElementById("matrix-legend").textContent = mode.legend;
    [...table.tBodies[0].rows].forEach((row, at) =>
      [...row.cells].slice(1).forEach((cell, place) => paint(cell, mode.cells[at][place])));
    const last = table.tBodies[0].rows[table.tBodies[0].rows.length - 1];
    replace(last.cells[0], element("span", {}, mode.last));
  }

  if (table) {
    document.querySelector('[data-segments="matrix"]').addEventListener("arbitrage:choice", (event) => show(event.detail));
  }

  // ---- Tabs ----

  // #overview, #distributions, #samples, #samples/<prompt id>
  function place() {
    const [tab, ...rest] = decodeURIComponent(location.hash.slice(1)).split("/");
    return { tab: TABS.includes(tab) ? tab : "overview", rest: rest.join("/") };
  }

  function open() {
    const { tab, rest } = place();
    for (const name of TABS) document.getElementById(`tab-${name}`).hidden = name !== tab;
    document.querySelectorAll(".top-nav a").forEach((link) =>
      link.getAttribute("href") === `#${tab}` ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current"));
    const event = { detail: { tab, rest, first: !shown.has(tab) } };
    shown.add(tab);
    document.dispatchEvent(new CustomEvent("report:tab", event));
  }

  window.addEventListener("hashchange", open);
  open();
})();
