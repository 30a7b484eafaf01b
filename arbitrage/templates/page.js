"use strict";

// What every page shares, under one name: `arbitrage`. Text of others only ever becomes textContent.
window.arbitrage = (() => {
  const MISSING = "\u2013";
  const SVG = "http://www.w3.org/2000/svg";
  const COLORS = ["paper", "card", "raised", "line", "line-strong", "text", "muted", "accent", "good", "warn", "bad"];
  const plots = new Map();

  const data = JSON.parse(document.getElementById("data").textContent);

  // A null attribute is left out, `true` is an empty one, and a function is a listener: {onclick: f}.
  function set(node, name, value) {
    if (value === null || value === undefined || value === false) return;
    if (typeof value === "function") node.addEventListener(name.replace(/^on/, ""), value);
    else if (name === "style") Object.entries(value).forEach(([key, item]) => node.style.setProperty(key, item));
    else node.setAttribute(name === "className" ? "class" : name, value === true ? "" : String(value));
  }

  // Children are nodes or text; text is never read as markup, and null is nothing.
  function element(tag, attributes, ...children) {
    const node = tag.startsWith("svg:")
      ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
    Object.entries(attributes || {}).forEach(([name, value]) => set(node, name, value));
    append(node, children);
    return node;
  }

  function append(node, children) {
    for (const child of children.flat(Infinity)) {
      if (child === null || child === undefined || child === false) continue;
      node.append(child instanceof Node ? child : document.createTextNode(String(child)));
    }
    return node;
  }

  function replace(node, ...children) {
    node.replaceChildren();
    return append(node, children);
  }

  // Text that others wrote: it keeps its lines and its direction, and cannot turn its neighbors.
  function others(text, tag = "span", attributes = {}) {
    return element(tag, { dir: "auto", ...attributes, class: `others ${attributes.class || ""}`.trim() }, text ?? "");
  }

  const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

  // One formatter for each number of digits: making one is what costs.
  const formats = new Map();
  function format(least, most, more) {
    const key = JSON.stringify([least, most, more]);
    if (!formats.has(key)) {
      formats.set(key, new Intl.NumberFormat("en-US", { minimumFractionDigits: least, maximumFractionDigits: most, ...more }));
    }
    return formats.get(key);
  }

  // As `shown.py` does: a true minus sign, and none before a number that rounds to zero.
  const MINUS = "\u2212";
  const minus = (text) => /[1-9]/.test(text) ? text.replace("-", MINUS) : text.replace("-", "");

  const number = (value, digits = 2) => isNumber(value) ? minus(format(digits, digits).format(value)) : MISSING;
  const count = (value) => number(value, 0);
  const percent = (value, digits = 1) => isNumber(value) ? `${number(100 * value, digits)}%` : MISSING;
  const signed = (value, digits = 2) => isNumber(value) ? (value > 0 && /[1-9]/.test(number(value, digits)) ? "+" : "") + number(value, digits) : MISSING;
  const compact = (value) => isNumber(value)
    ? minus(format(0, 1, { notation: "compact" }).format(value)) : MISSING;

  // A few digits whatever the size, for columns whose unit is not known beforehand.
  function significant(value, digits = 3) {
    if (!isNumber(value)) return MISSING;
    if (value !== 0 && (Math.abs(value) >= 1e6 || Math.abs(value) < 1e-3)) return compactOrTiny(value, digits);
    return minus(new Intl.NumberFormat("en-US", { maximumSignificantDigits: Math.max(digits, Math.ceil(Math.log10(Math.abs(value) + 1))) }).format(value));
  }
  const compactOrTiny = (value, digits) =>
    Math.abs(value) >= 1 ? compact(value) : minus(value.toPrecision(digits));

  // A run of seconds as people say it.
  function duration(seconds) {
    if (!isNumber(seconds)) return MISSING;
    if (seconds < 60) return `${number(seconds, seconds < 10 ? 1 : 0)} s`;
    if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
    return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
  }

  // ---- Sortable tables ----

  // What a cell is sorted by: `data-value` where it is given, its text otherwise; empty is null.
  function valueOf(row, column) {
    const cell = row.cells[column];
    const text = (cell?.dataset.value ?? cell?.textContent ?? "").trim();
    if (text === "" || text === MISSING) return null;
    const asNumber = Number(text.replace(MINUS, "-"));
    return Number.isNaN(asNumber) ? text : asNumber;
  }

  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

  // Numbers stand before text; nothing at all stands last in either direction.
  function compare(one, other, descending) {
    if (one === null || other === null) return (one === null) - (other === null);
    const sign = descending ? -1 : 1;
    if (typeof one === "number" && typeof other === "number") return sign * (one - other);
    if (typeof one !== typeof other) return typeof one === "number" ? -1 : 1;
    return sign * collator.compare(one, other);
  }

  function sortBy(table, column, descending) {
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [valueOf(row, column), row]);
    rows.sort(([one], [other]) => compare(one, other, descending));
    body.append(...rows.map(([, row]) => row));
    for (const head of table.tHead.rows[table.tHead.rows.length - 1].cells) {
      if (!head.hasAttribute("data-sort")) continue;
      const direction = descending ? "descending" : "ascending";
      head.setAttribute("aria-sort", head.cellIndex === column ? direction : "none");
    }
    table.dispatchEvent(new CustomEvent("arbitrage:sort", { detail: { column, descending } }));
  }

  // The first click shows what is asked most: the largest number, or the start of the alphabet.
  function clicked(table, head) {
    const column = head.cellIndex;
    const now = head.getAttribute("aria-sort");
    if (now === "ascending" || now === "descending") return sortBy(table, column, now === "ascending");
    const first = [...table.tBodies[0].rows].map((row) => valueOf(row, column)).find((value) => value !== null);
    return sortBy(table, column, head.dataset.sort ? head.dataset.sort === "descending" : typeof first === "number");
  }

  // `data-sort` of a header may say "ascending" or "descending" for the first click.
  function sortable(table) {
    for (const head of table.tHead.rows[table.tHead.rows.length - 1].cells) {
      if (head.hasAttribute("data-unsorted")) continue;
      if (!head.hasAttribute("data-sort")) head.setAttribute("data-sort", "");
      head.tabIndex = 0;
      if (!head.hasAttribute("aria-sort")) head.setAttribute("aria-sort", "none");
      head.addEventListener("click", () => clicked(table, head));
      head.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        clicked(table, head);
      });
    }
    return table;
  }

  // ---- Toggles ----

  // A row of buttons of which one is pressed. `choices` are [value, label]; returns the element.
  function segments(label, choices, value, changed) {
    const group = element("div", { class: "segments", role: "group", "aria-label": label });
    const buttons = choices.map(([name, text]) =>
      element("button", { type: "button", "data-choice": name, "aria-pressed": name === value, onclick: () => choose(name) }, text));
    function choose(name) {
      buttons.forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.choice === String(name))));
      changed(name);
    }
    buttons.forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.choice === String(value))));
    return append(group, buttons);
  }

  // The same from markup: <div data-segments="name"><button data-choice="a" aria-pressed="true">.
  function markedSegments(group) {
    const buttons = [...group.querySelectorAll("button")];
    buttons.forEach((button) => button.addEventListener("click", () => {
      buttons.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
      group.dispatchEvent(new CustomEvent("arbitrage:choice", { bubbles: true, detail: button.dataset.choice }));
    }));
  }

  // ---- Light and dark ----

  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme || (prefersDark.matches ? "dark" : "light")) === "dark";

  // A custom property keeps light-dark(...) as it is written; a painted element knows the color.
  function resolved(names) {
    const probe = document.body.appendChild(element("span", { hidden: true }));
    const found = Object.fromEntries(names.map((name) => {
      probe.style.color = `var(--${name})`;
      return [name, getComputedStyle(probe).color];
    }));
    probe.remove();
    return found;
  }

  // The colors that the page has now, for whatever draws: {dark, paper, ..., colorway: [...]}.
  function theme() {
    const wheel = Array.from({ length: 10 }, (_, place) => `plot-${place + 1}`);
    const found = resolved([...COLORS, ...wheel, "heat-low", "heat-high"]);
    return {
      ...found, dark: isDark(), font: getComputedStyle(document.body).fontFamily,
      colorway: wheel.map((name) => found[name]),
      heat: [[0, found["heat-low"]], [1, found["heat-high"]]],
    };
  }

  function announce() {
    document.dispatchEvent(new CustomEvent("arbitrage:theme", { detail: theme() }));
    redraw();
  }

  function setTheme(name) {
    document.documentElement.dataset.theme = name;
    try { localStorage.setItem("arbitrage-theme", name); } catch { /* A file may have no storage. */ }
    announce();
  }

  function rememberedTheme() {
    try { return localStorage.getItem("arbitrage-theme"); } catch { return null; }
  }

  // ---- Plots ----

  const isAxis = (name) => /^[xy]axis\d*$/.test(name);

  function themed(layout, colors) {
    const axis = { gridcolor: colors.line, linecolor: colors["line-strong"], zerolinecolor: colors["line-strong"], automargin: true };
    const base = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", colorway: colors.colorway,
      font: { family: colors.font, size: 12, color: colors.text }, margin: { l: 56, r: 16, t: 16, b: 44 },
      hoverlabel: { bgcolor: colors.raised, bordercolor: colors["line-strong"], font: { color: colors.text } },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom" }, modebar: { bgcolor: "rgba(0,0,0,0)", color: colors.muted, activecolor: colors.accent },
    };
    const merged = { xaxis: {}, yaxis: {}, ...base, ...layout };
    for (const name of Object.keys(merged)) if (isAxis(name)) merged[name] = { ...axis, ...merged[name] };
    return merged;
  }

  const made = (value, colors) => typeof value === "function" ? value(colors) : value;

  function draw(div) {
    const colors = theme();
    const { traces, layout, more } = plots.get(div);
    // Plotly's own default is a button that sends the chart to a server of its maker's.
    const settings = {
      displaylogo: false, responsive: true, showTips: false, showSendToCloud: false, plotlyServerURL: "",
      modeBarButtonsToRemove: ["lasso2d", "select2d"], ...more,
    };
    return Plotly.react(div, structuredClone(made(traces, colors)), themed(structuredClone(made(layout, colors)), colors), settings);
  }

  // Draws, or draws anew. Traces and layout may be functions of `theme()`, called again when it
  // changes. Text of others goes through `plotText` first: plotly reads a little markup in text.
  // `more` are settings of plotly's: {displayModeBar: false}.
  function plot(div, traces, layout = {}, more = {}) {
    plots.set(div, { traces, layout, more });
    return draw(div);
  }

  const plotText = (text) => String(text ?? "").replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

  function redraw() {
    for (const div of [...plots.keys()]) {
      if (div.isConnected) draw(div);
      else plots.delete(div);
    }
  }

  // ---- The page itself ----

  function start() {
    const remembered = rememberedTheme();
    if (remembered === "light" || remembered === "dark") document.documentElement.dataset.theme = remembered;
    document.querySelectorAll("[data-theme-toggle]").forEach((button) =>
      button.addEventListener("click", () => setTheme(isDark() ? "light" : "dark")));
    prefersDark.addEventListener("change", announce);
    document.querySelectorAll("table[data-sortable]").forEach(sortable);
    document.querySelectorAll("[data-segments]").forEach(markedSegments);
  }

  start();
  return Object.freeze({
    data, element, append, replace, others, number, count, percent, signed, compact, significant, duration,
    isNumber, sortable, sortBy, compare, segments, theme, setTheme, plot, plotText, MISSING,
  });
})();
