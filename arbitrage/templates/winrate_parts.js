"use strict";

// Win rates: interval bars, and a matrix of models by languages, categories or each other. The rule
// of what is sure is that of `telling.py`. Other scripts of a page listen to `winrate:changed`.
const winrate = (() => {
  const { data, element, append, replace, isNumber } = arbitrage;
  const told = data.winrate;
  const find = (id) => document.getElementById(id);
  if (!told || !find("wr-bars")) return null;

  const SIGNS = { above: "+", level: "=", below: "\u2212", unknown: "?" };
  const WORDS = { above: "surely above 50 %", level: "not told apart from 50 %", below: "surely below 50 %", unknown: "no interval" };
  const ALL = "all", LANGUAGE = "language", CATEGORY = "category", LANGUAGES = "languages", MODELS = "models";
  const rows = told.rows.map((values) => Object.fromEntries(told.fields.map((name, place) => [name, values[place]])));
  const keyOf = (judge, model, against, scope, of) => JSON.stringify([judge, model, against, scope, of]);
  const byKey = new Map(rows.map((row) => [keyOf(row.judge, row.model, row.against, row.scope, row.of), row]));
  const has = (test) => rows.some(test);
  const state = { judge: told.judge, against: told.against, prompts: JSON.stringify([ALL, ""]), rate: "rate", columns: "" };

  // Text of others: no sign in it may turn the direction of what stands beside it.
  const clean = (text) => [...String(text)].map((letter) =>
    /[\p{Cc}\p{Bidi_Control}]/u.test(letter) ? `\\x${letter.codePointAt(0).toString(16).padStart(2, "0")}` : letter).join("");
  const isNamed = (name, tag = "span", attributes = {}) => element(tag, { dir: "auto", title: clean(name), ...attributes }, clean(name));

  const judgeName = (judge) => clean(judge || "all judges");
  const againstName = (against) => against === "" ? "all others" : clean(against) + (against === told.baseline ? " (baseline)" : "");
  const language = (code) => code === "" ? "no language" : told.names[code] ? `${told.names[code]} (${code})` : clean(code);
  const rowOf = (model, scope, of, against = state.against) => byKey.get(keyOf(state.judge, model, against, scope, of)) || null;
  const estimateOf = (row) => row ? row[state.rate] : null;

  function side(estimate, even = 0.5) {
    if (!estimate || !isNumber(estimate[1]) || !isNumber(estimate[2])) return "unknown";
    return estimate[1] > even ? "above" : estimate[2] < even ? "below" : "level";
  }

  const isKnown = (estimate) => Boolean(estimate) && isNumber(estimate[0]);
  const within = (estimate) => side(estimate) === "unknown" ? "no interval"
    : `${arbitrage.number(100 * estimate[1], 1)} to ${arbitrage.number(100 * estimate[2], 1)}`;
  const interval = (estimate) => isKnown(estimate) ? `${arbitrage.percent(estimate[0])} (${within(estimate)})` : arbitrage.MISSING;

  // Best first; a model without the rate that is asked for stands last.
  function ordered(scope, of) {
    const found = told.models.map((model) => ({ model, row: rowOf(model, scope, of) })).filter(({ row }) => row);
    const value = ({ row }) => isKnown(estimateOf(row)) ? estimateOf(row)[0] : -1;
    return found.sort((one, other) => value(other) - value(one) || (one.model < other.model ? -1 : 1));
  }

  // ---- Bars ----

  function scaleOf(found) {
    const values = found.flatMap(({ row }) => [...row.rate, ...(row.controlled || [])]).filter(isNumber);
    const low = Math.max(0, Math.floor(10 * Math.min(0.4, ...values)) / 10);
    const high = Math.min(1, Math.ceil(10 * Math.max(0.6, ...values)) / 10);
    return { low, high, at: (value) => `${100 * (value - low) / (high - low)}%` };
  }

  function axis(scale) {
    const step = scale.high - scale.low > 0.55 ? 0.2 : 0.1;
    const places = [];
    for (let at = -5; at <= 5; at += 1) {
      const value = 0.5 + at * step;
      if (value > scale.low - 1e-9 && value < scale.high + 1e-9) places.push(value);
    }
    return element("div", { class: "wr-axis", "aria-hidden": true }, element("span"),
      element("div", { class: "wr-track" }, places.map((value) =>
        element("span", { class: "wr-tick", style: { left: scale.at(value) } }, `${Math.round(100 * value)}%`))), element("span"));
  }

  function bar({ model, row }, scale) {
    const estimate = estimateOf(row);
    const where = side(estimate);
    const track = element("div", { class: "wr-track" }, element("div", { class: "wr-half", style: { left: scale.at(0.5) } }));
    if (where !== "unknown") {
      track.append(element("div", { class: "wr-range", style: { left: scale.at(estimate[1]), width: `calc(${scale.at(estimate[2])} - ${scale.at(estimate[1])})` } }));
    }
    if (isKnown(estimate)) track.append(element("div", { class: "wr-dot", style: { left: scale.at(estimate[0]) } }));
    return element("div", { class: `wr-bar wr-${where}`, role: "listitem", title: described(row), "data-model": model, "data-value": estimate?.[0] },
      isNamed(model, "span", { class: "wr-name" }), track,
      element("span", { class: "wr-number" }, element("b", {}, isKnown(estimate) ? arbitrage.percent(estimate[0]) : arbitrage.MISSING),
        element("span", { class: "wr-sign" }, SIGNS[where]), element("span", { class: "muted" }, isKnown(estimate) ? within(estimate) : "")));
  }

  function drawBars() {
    const [scope, of] = JSON.parse(state.prompts);
    const found = ordered(scope, of);
    const scale = scaleOf(found);
    find("wr-bars").setAttribute("role", "list");
    replace(find("wr-bars"), found.length ? [axis(scale), found.map((one) => bar(one, scale))]
      : element("p", { class: "muted" }, "There is no game of this choice."));
    const how = state.rate === "rate" ? "wins and half of the ties, strong ones with their weight" : "at equal style and neither shown first";
    find("wr-bars-legend").textContent = `Win rate against ${againstName(state.against)}, as ${judgeName(state.judge)} see${state.judge ? "s" : ""} it: ${how}; 95 % intervals over questions. The dashed line is 50 %.`;
  }

  // ---- The matrix ----

  // Columns are [head, title, row of a model, whether it is over others].
  function columnsNow(models) {
    const over = [["all", "every game", (model) => rowOf(model, ALL, ""), true]];
    if (state.columns === MODELS) {
      return [...over, ...models.map((other) => [other, `against ${other}`, (model) => rowOf(model, ALL, "", other), false])];
    }
    if (state.columns === CATEGORY) {
      return [...over, ...told.categories.map((name) => [name, name, (model) => rowOf(model, CATEGORY, name), false])];
    }
    const mean = has((row) => row.scope === LANGUAGES) ? [["mean", "plain mean over the languages", (model) => rowOf(model, LANGUAGES, ""), true]] : [];
    return [...over, ...mean, ...told.languages.map((code) => [code, language(code), (model) => rowOf(model, LANGUAGE, code), false])];
  }

  function described(row, head = "") {
    const where = side(estimateOf(row));
    const games = `${arbitrage.count(row.games)} games: ${arbitrage.count(row.wins)} won, ${arbitrage.count(row.ties)} tied, ${arbitrage.count(row.losses)} lost`;
    const controlled = row.controlled ? `; controlled ${interval(row.controlled)}` : "";
    const missing = row.missing ? `; ${arbitrage.count(row.missing)} without a verdict` : "";
    return `${clean(row.model)}${head}: ${interval(row.rate)}${controlled}; ${WORDS[where]}; ${games}${missing}`;
  }

  function cell(row, head, over, last, key) {
    const marks = `number${over ? " over" : ""}${last ? " last-over" : ""}`;
    const estimate = estimateOf(row);
    if (!isKnown(estimate)) return element("td", { class: marks, tabindex: -1, "data-key": key, "data-value": "" }, row ? arbitrage.MISSING : "");
    const where = side(estimate);
    const text = described(row, head);
    const heat = where === "above" || where === "below" ? Math.min(1, 0.15 + Math.abs(estimate[0] - 0.5) * 2) : 0;
    const tell = () => { find("wr-readout").textContent = text; };
    return element("td", {
      class: `${marks} wr-${where}`, style: { "--heat": heat.toFixed(3) }, title: text, tabindex: -1, "data-key": key, "data-value": estimate[0],
      onfocus: tell, onmouseenter: tell, "aria-label": text,
    }, arbitrage.number(100 * estimate[0], 0), element("span", { class: "wr-sign" }, SIGNS[where]));
  }

  function drawMatrix() {
    const models = ordered(ALL, "").map(({ model }) => model);
    const columns = columnsNow(models);
    const lastOver = columns.filter(([, , , over]) => over).length - 1;
    const table = find("wr-matrix");
    replace(table.tHead, element("tr", {}, element("th", { scope: "col" }, "model"), columns.map(([head, title, , over], place) =>
      element("th", { scope: "col", dir: "auto", class: `number${over ? " over" : ""}${place === lastOver ? " last-over" : ""}`, title: clean(title) }, clean(head)))));
    replace(table.tBodies[0], models.map((model) => element("tr", { "data-model": model }, isNamed(model, "th", { scope: "row" }),
      columns.map(([head, title, row, over], place) => cell(row(model), over ? `, ${title}` : ` ${state.columns === MODELS ? "" : "in "}${clean(title)}`, over, place === lastOver, head)))));
    const first = table.tBodies[0].querySelector("td");
    if (first) first.tabIndex = 0;
  }

  // One cell takes part in the order of Tab; arrows go from there.
  function move(event) {
    const at = event.target.closest("td");
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!at || !step) return;
    const next = find("wr-matrix").tBodies[0].rows[at.parentNode.sectionRowIndex + step[0]]?.cells[at.cellIndex + step[1]];
    event.preventDefault();
    if (!next || next.tagName !== "TD") return;
    at.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  // ---- Controls ----

  function choose(label, choices, name, changed) {
    const select = element("select", { id: `wr-${name}` }, choices.map(([value, text]) => element("option", { value, selected: value === state[name] }, text)));
    select.addEventListener("change", () => { state[name] = select.value; changed(); });
    return choices.length > 1 ? element("label", {}, label, " ", select) : null;
  }

  function promptChoices() {
    const choices = [[JSON.stringify([ALL, ""]), "all prompts"]];
    if (has((row) => row.scope === LANGUAGES)) choices.push([JSON.stringify([LANGUAGES, ""]), "mean over languages"]);
    if (told.categories.length > 1) told.categories.forEach((name) => choices.push([JSON.stringify([CATEGORY, name]), `category: ${clean(name) || "none"}`]));
    if (told.languages.length > 1) told.languages.forEach((code) => choices.push([JSON.stringify([LANGUAGE, code]), language(code)]));
    return choices.filter(([key]) => { const [scope, of] = JSON.parse(key); return has((row) => row.scope === scope && row.of === of); });
  }

  function changed() {
    drawBars();
    drawMatrix();
    document.dispatchEvent(new CustomEvent("winrate:changed"));
  }

  function start() {
    const judges = [...new Set(rows.map((row) => row.judge))].sort((one, other) => (one !== told.judge) - (other !== told.judge));
    const others = [...new Set(rows.map((row) => row.against))].sort((one, other) => (one !== told.against) - (other !== told.against));
    append(find("wr-controls"), [
      choose("Judge", judges.map((name) => [name, judgeName(name)]), "judge", changed),
      choose("Against", others.map((name) => [name, againstName(name)]), "against", changed),
      choose("On", promptChoices(), "prompts", changed),
      has((row) => row.controlled) ? arbitrage.segments("Kind of rate", [["rate", "plain"], ["controlled", "controlled"]], "rate", (name) => { state.rate = name; changed(); }) : null,
    ]);
    const columns = [[LANGUAGE, "languages", told.languages.length > 1], [CATEGORY, "categories", told.categories.length > 1],
      [MODELS, "each other", has((row) => row.scope === ALL && row.against !== told.baseline && row.against !== "")]].filter(([, , shown]) => shown);
    state.columns = columns[0]?.[0] || LANGUAGE;
    find("wr-where").hidden = !columns.length;
    if (columns.length > 1) find("wr-columns").append(arbitrage.segments("Columns", columns, state.columns, (name) => { state.columns = name; drawMatrix(); }));
    find("wr-matrix").addEventListener("keydown", move);
    changed();
  }

  start();
  return Object.freeze({ told, rows, state, side, clean, isNamed, judgeName, againstName, language, within, isKnown, interval, SIGNS });
})();
