"use strict";

// The leaderboard: averages over the chosen languages, the table, the filter, the Pareto front.
// The rules of filter, order and front are those of `ranking.py` and `standings.py`.
(() => {
  const { data, element, append, replace, others, isNumber, compare, plotText } = arbitrage;
  const { columns, codes, entries } = data;
  const byName = Object.fromEntries(columns.map((column) => [column.name, column]));
  const TEXTS = ["name", "run", "kind", "engine", "model", "license"];
  // A cell is an array, as there may be many: these are its places.
  const CELL = Object.fromEntries(data.cell.map((name, place) => [name, place]));
  const LIMIT = 100;
  const FRONT = "\u25c6";
  const find = (id) => document.getElementById(id);

  const state = {
    pattern: data.start.pattern, matches: () => true, common: data.start.common,
    chosen: new Set(data.start.languages.length ? data.start.languages : codes),
    visible: new Set(), sort: data.start.sort, reversed: false,
    limit: LIMIT, x: data.axes[0], y: data.axes[1], over: [], rows: [],
  };

  // ---- Rules ----

  // Brackets, dots and the like are themselves in a wildcard; `*` and `?` alone are not.
  function wildcard(pattern) {
    const told = pattern.replace(/[.+^${}()|[\]\\]/g, "\\$&").replaceAll("*", "[^]*").replaceAll("?", "[^]");
    return new RegExp(`^(?:${told})$`, "gi");
  }

  // The expression that finds what matches, null where everything does. Throws for a bad one.
  function expression(pattern) {
    if (pattern.startsWith("re:")) return new RegExp(pattern.slice(3), "gi");
    if (/[*?]/.test(pattern)) return wildcard(pattern);
    const part = pattern.trim();
    return part ? new RegExp(part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "gi") : null;
  }

  // A global expression remembers where it stopped.
  function found(regular, text) {
    if (!regular) return true;
    regular.lastIndex = 0;
    return regular.test(text);
  }

  const known = (values) => values.filter(isNumber);
  // Why an expression is none; engines differ in how much of it they repeat before the reason.
  function whyInvalid(error) {
    const reason = error.message.replace(/^Invalid regular expression: /, "").replace(/^\/[^]*\/gi: /, "");
    return `Not a valid regular expression: ${reason.slice(0, 1).toLowerCase()}${reason.slice(1)}; all rows are shown.`;
  }

  const mean = (values) => known(values).length ? known(values).reduce((a, b) => a + b, 0) / known(values).length : null;
  function interval(halves) {
    return halves.length && known(halves).length === halves.length ? Math.hypot(...halves) / halves.length : null;
  }

  const covers = (entry, code) => (entry.languages[code]?.[CELL.answers] || 0) > 0;

  function over(entry, languages) {
    const cells = languages.filter((code) => entry.languages[code]).map((code) => entry.languages[code]);
    const values = { ...entry.figures, parameters: entry.parameters };
    TEXTS.forEach((name) => { values[name] = entry[name] || null; });
    for (const name of data.cell.slice(0, -2)) {
      values[name] = name.endsWith("interval")
        ? interval(cells.filter((cell) => isNumber(cell[CELL.reward])).map((cell) => cell[CELL[name]]))
        : mean(cells.map((cell) => cell[CELL[name]]));
    }
    values.languages = entry.run ? languages.filter((code) => covers(entry, code)).length : null;
    return values;
  }

  // From the best x on: what is left must have a better y than all before, or be a twin.
  function front(points, directions) {
    const members = points.map(() => false);
    if (directions.includes(0)) return members;
    const turned = points.map(([x, y], place) => [x, y, place])
      .filter(([x, y]) => isNumber(x) && isNumber(y))
      .map(([x, y, place]) => [x * directions[0], y * directions[1], place])
      .sort((one, other) => other[0] - one[0] || other[1] - one[1]);
    let bestX = NaN;
    let bestY = -Infinity;
    for (const [x, y, place] of turned) {
      if (!(y > bestY || (y === bestY && x === bestX))) continue;
      members[place] = true;
      [bestX, bestY] = [x, y];
    }
    return members;
  }

  // ---- Rows ----

  // A model of no run has figures alone, whatever languages are chosen.
  const isOfRun = (entry) => Boolean(entry.run);
  const isShown = (entry) => TEXTS.some((name) => found(state.regular, entry[name]))
    && (state.chosen.size === codes.length || !isOfRun(entry) || codes.some((code) => state.chosen.has(code) && entry.languages[code]));

  // The languages that averages are over now; rows are made anew where they change.
  function languagesNow() {
    const wanted = codes.filter((code) => state.chosen.has(code));
    if (!state.common) return wanted;
    const shown = entries.filter(isShown).filter(isOfRun);
    return wanted.filter((code) => shown.every((entry) => covers(entry, code)));
  }

  function makeRows() {
    state.rows = entries.map((entry) => {
      const complete = state.over.length > 0 && state.over.every((code) => covers(entry, code));
      return { entry, values: over(entry, state.over), complete, front: false, tr: null, texts: [] };
    });
  }

  function markFront(rows) {
    const axes = [byName[state.x], byName[state.y]];
    const needs = axes.some((axis) => axis.averaged);
    const points = rows.map((row) => row.complete || !needs ? [row.values[state.x], row.values[state.y]] : [null, null]);
    const members = front(points, axes.map((axis) => axis.better));
    state.rows.forEach((row) => { row.front = false; });
    rows.forEach((row, place) => { row.front = members[place]; });
  }

  function sortValue(row) {
    const value = state.sort in byName ? row.values[state.sort] : row.entry.languages[state.sort]?.[CELL.reward];
    return value ?? null;
  }

  // Best first; by an average, rows that lack a language come after the others either way.
  function ordered(rows) {
    const column = byName[state.sort];
    const textual = column?.form === "text";
    const descending = (!textual && (column ? column.better : 1) >= 0) !== state.reversed;
    const late = (row) => column?.averaged && !row.complete ? 1 : 0;
    return [...rows].sort((one, other) => late(one) - late(other) || compare(sortValue(one), sortValue(other), descending));
  }

  // ---- The table ----

  // `page.js` makes a true minus of a sign; the one of an exponent is made here.
  const shownAs = (column, values) => isNumber(values[column.name]) ? digits(column, values[column.name]).replaceAll("-", "\u2212") : "";

  function digits(column, value) {
    if (column.name === "reward" || column.name === "gap" || column.name.endsWith("interval")) return arbitrage.number(value, 2);
    if (column.form === "share") return arbitrage.percent(value);
    if (column.form === "count") return arbitrage.count(value);
    return Math.abs(value) >= 100 ? arbitrage.count(value) : arbitrage.significant(value);
  }

  const isEnd = (column) => column.name.endsWith("_low") || column.name.endsWith("_high");

  function spread(column, values) {
    const [low, high] = [values[`${column.name}_low`], values[`${column.name}_high`]];
    if (isNumber(low) && isNumber(high)) return element("span", { class: "spread" }, ` (${arbitrage.number(100 * low, 1)} to ${arbitrage.number(100 * high, 1)})`);
    const half = values[{ reward: "interval", gap: "gap_interval" }[column.name]];
    return isNumber(half) ? element("span", { class: "spread" }, ` \u00b1 ${arbitrage.number(half, 2)}`) : null;
  }

  function numberCell(column, row) {
    const partial = column.averaged && !row.complete && isNumber(row.values[column.name]);
    const title = partial ? `over ${row.values.languages} of ${state.over.length} languages, so it does not compare` : null;
    const languages = column.name === "languages" && isOfRun(row.entry) ? `/${state.over.length}` : "";
    return element("td", { class: `number${partial ? " partial" : ""}`, title, "data-column": column.name },
      shownAs(column, row.values), languages, partial ? "*" : "", spread(column, row.values));
  }

  // How a language's rewards lie between the lowest and the highest of it.
  const ranges = Object.fromEntries(codes.map((code) => {
    const rewards = known(entries.map((entry) => entry.languages[code]?.[CELL.reward]));
    return [code, [Math.min(...rewards), Math.max(...rewards)]];
  }));

  function languageCell(code, row, first) {
    const cell = row.entry.languages[code];
    const reward = cell?.[CELL.reward];
    const mark = first ? " first-language" : "";
    if (!isNumber(reward)) return element("td", { class: `number${mark}`, "data-column": code });
    const [low, high] = ranges[code];
    const heat = high > low ? (reward - low) / (high - low) : 0.5;
    const half = isNumber(cell[CELL.interval]) ? ` \u00b1 ${arbitrage.number(cell[CELL.interval], 2)}` : "";
    const title = `${data.languages[code] || code}: ${arbitrage.number(reward, 3)}${half}; ${arbitrage.count(cell[CELL.answers])} of `
      + `${arbitrage.count(cell[CELL.prompts])} prompts, wins ${arbitrage.percent(cell[CELL.wins])}`;
    return element("td", { class: `number heat${mark}`, style: { "--heat": heat.toFixed(3) }, title, "data-column": code }, arbitrage.number(reward, 2));
  }

  function nameCell(row) {
    const name = others("", "span", { class: "entry", title: row.entry.name });
    row.texts.push([name, row.entry.name]);
    row.badge = element("span", { class: "front", title: "nobody is better on both axes of the plot", hidden: true }, FRONT);
    return element("th", { scope: "row" }, name, row.badge);
  }

  function textCell(column, row) {
    const text = others("", "span", { class: "entry", title: row.entry[column.name] || null });
    row.texts.push([text, row.entry[column.name]]);
    return element("td", {}, text);
  }

  const shownColumns = () => columns.filter((column) => column.name !== "name" && state.visible.has(column.name));

  function makeRow(row) {
    const shown = shownColumns();
    row.texts = [];
    row.tr = element("tr", { class: row.entry.kind === "arbitrage" ? "chosen" : null },
      nameCell(row), shown.map((column) => column.form === "text" ? textCell(column, row) : numberCell(column, row)),
      state.over.map((code, place) => languageCell(code, row, place === 0)));
  }

  function headCell(name, title, about, number, first) {
    const now = name === state.sort;
    const column = byName[name];
    const textual = column?.form === "text";
    const descending = (!textual && (column ? column.better : 1) >= 0) !== state.reversed;
    const direction = descending ? "descending" : "ascending";
    const head = element("th", {
      scope: "col", tabindex: 0, title: about || null, "data-sort": "", "data-column": name,
      class: `${number ? "number" : ""}${first ? " first-language" : ""}`, "aria-sort": now ? direction : "none",
      onclick: () => sortBy(name),
      onkeydown: (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        sortBy(name);
        // The head is made anew, and the keyboard should stay where it was.
        document.querySelector(`#board th[data-column="${CSS.escape(name)}"]`)?.focus();
      },
    }, title);
    return head;
  }

  function makeHead() {
    replace(find("board").tHead, element("tr", {},
      headCell("name", "name", byName.name.about, false, false),
      shownColumns().map((column) => headCell(column.name, column.title, column.about, column.form !== "text", false)),
      state.over.map((code, place) => headCell(code, code, data.languages[code], true, place === 0))));
  }

  function sortBy(name) {
    state.reversed = name === state.sort ? !state.reversed : false;
    state.sort = name;
    makeHead();
    showRows(state.rows.filter((row) => isShown(row.entry)));
  }

  // What matches is marked; the text stays text.
  function highlight(node, text) {
    if (!state.regular || !text) return replace(node, text || "");
    const parts = [];
    let last = 0;
    for (const match of text.matchAll(state.regular)) {
      if (!match[0]) continue;
      parts.push(text.slice(last, match.index), element("mark", {}, match[0]));
      last = match.index + match[0].length;
    }
    return replace(node, parts, text.slice(last));
  }

  function said(rows) {
    const languages = state.over.length;
    // Nothing chosen leaves no row either, so this is asked first.
    if (!state.chosen.size) return "No language is chosen.";
    if (!rows.length) return "No row matches.";
    if (!languages) {
      return state.common ? "No language is common to all rows that are shown: filter rows, or average over each row's own languages."
        : "No language is chosen.";
    }
    const partial = rows.filter((row) => !row.complete && isOfRun(row.entry)).length;
    const told = `${arbitrage.count(rows.length)} of ${arbitrage.count(entries.length)} rows; averages are plain means over `
      + `${languages === 1 ? "1 language" : `${languages} languages`}.`;
    return partial ? `${told} ${arbitrage.count(partial)} lack some of them: what is marked * is over fewer, and does not compare.` : told;
  }

  // Everything is made anew: languages or columns have changed.
  function rebuild() {
    state.over = languagesNow();
    makeRows();
    makeHead();
    update();
  }

  // Rows are filtered, marked, put in order and drawn; cells that are there stay as they are. A row
  // is made when it is first seen, as 500 rows of 60 languages are a lot for a browser.
  function update() {
    const shown = state.rows.filter((row) => isShown(row.entry));
    markFront(shown);
    showRows(shown);
    tell(state.problem || said(shown), Boolean(state.problem));
    allowLogs(shown);
    drawPlot(shown);
  }

  function tell(text, bad) {
    find("said").textContent = text;
    find("said").classList.toggle("bad", bad);
    find("said").classList.toggle("muted", !bad);
  }

  function showRows(shown) {
    const seen = ordered(shown).slice(0, state.limit);
    for (const row of seen) {
      if (!row.tr) makeRow(row);
      row.texts.forEach(([node, text]) => highlight(node, text));
      row.badge.hidden = !row.front;
    }
    find("board").tBodies[0].replaceChildren(...seen.map((row) => row.tr));
    find("more").hidden = seen.length === shown.length;
    find("more").textContent = `Show all ${arbitrage.count(shown.length)} rows, not only the first ${arbitrage.count(seen.length)}`;
  }

  // ---- The plot ----

  const LABELS = 40;
  const LABEL_LENGTH = 24;

  function pointText(row) {
    const told = [state.x, state.y].map((name) => `${plotText(byName[name].title)}: ${shownAs(byName[name], row.values)}`);
    return [`<b>${plotText(row.entry.name)}</b>`, plotText(row.entry.run), ...told, `languages: ${row.values.languages}/${state.over.length}`].join("<br>");
  }

  const symbol = (row) => (row.entry.kind === "arbitrage" ? "diamond" : "circle") + (row.complete ? "" : "-open");

  const scaled = (name, value) => find(`log-${name}`).checked ? Math.log(value) : value;

  // A label near a side is written towards the middle, as it would lie on the axis else.
  function labelPlaces(rows) {
    const values = rows.map((row) => scaled("x", row.values[state.x]));
    const [low, high] = [Math.min(...values), Math.max(...values)];
    return new Map(rows.map((row, place) => {
      const share = high > low ? (values[place] - low) / (high - low) : 0.5;
      return [row, share < 1 / 3 ? "top right" : share > 2 / 3 ? "top left" : "top center"];
    }));
  }

  // A long name would reach over the plot's sides on a telephone; all of it is in the hover text.
  function label(name) {
    const letters = [...name];
    return plotText(letters.length > LABEL_LENGTH ? `${letters.slice(0, LABEL_LENGTH - 1).join("")}\u2026` : name);
  }

  function points(rows, places, name, colors, color) {
    return {
      type: "scatter", mode: rows.length > LABELS ? "markers" : "markers+text", name: plotText(name), cliponaxis: false,
      x: rows.map((row) => row.values[state.x]), y: rows.map((row) => row.values[state.y]),
      text: rows.map((row) => label(row.entry.name)), textposition: rows.map((row) => places.get(row)), textfont: { size: 11, color: colors.muted },
      hovertext: rows.map(pointText), hoverinfo: "text",
      marker: { size: rows.map((row) => row.front ? 12 : 9), symbol: rows.map(symbol), color, line: { width: 1.5, color } },
    };
  }

  function frontLine(rows, colors) {
    const members = rows.filter((row) => row.front).sort((one, other) => one.values[state.x] - other.values[state.x]);
    return {
      type: "scatter", mode: "lines", name: "Pareto front", hoverinfo: "skip",
      x: members.map((row) => row.values[state.x]), y: members.map((row) => row.values[state.y]),
      // As far as the nearest better x reaches, so good a y can be had.
      line: { color: colors.accent, width: 1.5, dash: "dot", shape: byName[state.x].better < 0 ? "hv" : "vh" },
    };
  }

  const isDrawn = (row) => isNumber(row.values[state.x]) && isNumber(row.values[state.y]);

  // What is 0 or less has no logarithm: rather no log scale than rows that vanish.
  function allowLogs(shown) {
    for (const axis of ["x", "y"]) {
      const refused = shown.some((row) => isNumber(row.values[state[axis]]) && row.values[state[axis]] <= 0);
      const box = find(`log-${axis}`);
      box.disabled = refused;
      if (refused) box.checked = false;
      // A disabled box shows no title in every browser; what is around it does.
      const why = refused ? `No log scale: ${byName[state[axis]].title} has values of 0 or less.` : "";
      box.title = why;
      box.parentElement.title = why;
    }
  }

  // Instead of axes of nothing, which a plot would invent.
  function whyEmpty(shown) {
    if (!shown.length) return said(shown);
    const titles = [...new Set([state.x, state.y])].map((name) => byName[name].title);
    return `Nothing to draw: no row has ${titles.length > 1 ? "both " : ""}${titles.join(" and ")}.`;
  }

  function drawPlot(shown) {
    const rows = shown.filter(isDrawn);
    find("scatter").hidden = !rows.length;
    find("undrawn").hidden = rows.length > 0;
    find("undrawn").textContent = rows.length ? "" : whyEmpty(shown);
    find("plotted").textContent = rows.length ? toldOfPlot(shown.length - rows.length) : "";
    if (rows.length) drawRows(rows);
  }

  function drawRows(rows) {
    const logs = [find("log-x").checked, find("log-y").checked];
    const places = labelPlaces(rows);
    const group = data.several ? "run" : "kind";
    const groups = [...new Set(entries.map((entry) => entry[group]))];
    const axis = (name, log) => ({ title: { text: plotText(byName[name].title) }, type: log ? "log" : "linear", autorange: true });
    arbitrage.plot(find("scatter"), (colors) => [
      frontLine(rows, colors),
      ...groups.map((name, place) => points(rows.filter((row) => row.entry[group] === name), places, name || "in no run", colors, colors.colorway[place % 10])),
    ], { xaxis: axis(state.x, logs[0]), yaxis: axis(state.y, logs[1]), hovermode: "closest", margin: { l: 64, r: 32, t: 40, b: 52 } });
  }

  function toldOfPlot(missing) {
    const axes = [byName[state.x], byName[state.y]];
    const better = axes.every((axis) => axis.better)
      ? `Marked ${FRONT}, and on the line: nobody is better in both. ${axes.map((axis) => `${axis.title}: ${axis.better > 0 ? "more" : "less"} is better`).join("; ")}.`
      : "There is no front: an axis has no better direction.";
    const hollow = axes.some((axis) => axis.averaged) ? " Hollow rows lack some of the languages and take no part in the front." : "";
    const lost = missing === 1 ? " 1 row has no value that could be drawn." : ` ${arbitrage.count(missing)} rows have no value that could be drawn.`;
    return better + hollow + (missing ? lost : "");
  }

  // ---- Controls ----

  function pick(holder, choices, chosen, changed) {
    const boxes = choices.map(([value, label, title]) => {
      const box = element("input", { type: "checkbox", value, checked: chosen.has(value) });
      box.addEventListener("change", () => { chosen[box.checked ? "add" : "delete"](value); changed(); });
      return [box, element("label", { title: title || null }, box, label)];
    });
    const all = (on) => () => {
      boxes.forEach(([box]) => { box.checked = on; chosen[on ? "add" : "delete"](box.value); });
      changed();
    };
    append(holder, [
      element("button", { type: "button", class: "button", onclick: all(true) }, "all"),
      element("button", { type: "button", class: "button", onclick: all(false) }, "none"),
      boxes.map(([, label]) => label),
    ]);
  }

  function disclose(button, holder) {
    button.addEventListener("click", () => {
      holder.hidden = !holder.hidden;
      button.setAttribute("aria-expanded", String(!holder.hidden));
    });
  }

  // A bad expression is said, and filters nothing.
  function takePattern(pattern) {
    state.regular = null;
    state.problem = "";
    try { state.regular = expression(pattern); } catch (error) { state.problem = whyInvalid(error); }
    find("filter").setAttribute("aria-invalid", String(Boolean(state.problem)));
  }

  function setPattern(pattern) {
    takePattern(pattern);
    if (state.common) rebuild();
    else update();
  }

  // What is shown at first: few enough columns that the languages are in sight, and none that says
  // nothing, such as money where there are no prices.
  const LATER = ["engine", "tokens", "requests_per_s", "interval", "gap_interval"];
  // What stands before the reward and would push it out of a telephone's sight.
  const WIDE = ["kind", "model", "license", "parameters"];
  const isNarrow = window.matchMedia("(max-width: 640px)").matches;
  const ZERO_SAYS_NOTHING = ["truncated", "wrong_language", "gpu_hours", "cpu_hours", "money"];
  function tellsSomething(column) {
    if (isNarrow && WIDE.includes(column.name)) return false;
    if (isEnd(column) || LATER.includes(column.name) || column.name.endsWith("_per_1000") || (column.name === "run" && !data.several)) return false;
    const nothing = ZERO_SAYS_NOTHING.includes(column.name) ? [null, 0] : [null];
    return state.rows.some((row) => !nothing.includes(row.values[column.name] ?? null));
  }

  function axisChoices(select, name) {
    const numeric = columns.filter((column) => column.form !== "text" && !column.name.endsWith("interval") && !isEnd(column));
    append(select, numeric.map((column) => element("option", { value: column.name, selected: column.name === state[name] }, column.title)));
    select.addEventListener("change", () => { state[name] = select.value; update(); });
  }

  function start() {
    state.over = languagesNow();
    makeRows();
    columns.filter(tellsSomething).forEach((column) => state.visible.add(column.name));
    pick(find("languages"), codes.map((code) => [code, code, data.languages[code]]), state.chosen, rebuild);
    pick(find("columns"), columns.filter((c) => c.name !== "name").map((c) => [c.name, c.title, c.about]), state.visible, rebuild);
    disclose(find("show-languages"), find("languages"));
    disclose(find("show-columns"), find("columns"));
    find("more").addEventListener("click", () => { state.limit = Infinity; update(); });
    axisChoices(find("x"), "x");
    axisChoices(find("y"), "y");
    ["log-x", "log-y"].forEach((id) => find(id).addEventListener("change", update));
    find("mode").append(arbitrage.segments("Average over", [["own", "each row's own"], ["common", "common languages"]],
      state.common ? "common" : "own", (choice) => { state.common = choice === "common"; rebuild(); }));
    find("filter").value = state.pattern;
    find("filter").addEventListener("input", () => setPattern(find("filter").value));
    append(find("about"), columns.filter((column) => column.about).map((column) => element("div", {}, element("dt", {}, column.title), element("dd", {}, column.about))));
    takePattern(state.pattern);
    rebuild();
  }

  start();
})();
