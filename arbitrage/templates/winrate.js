"use strict";

// The page of win rates: the table of all figures, what moves verdicts, and how far judges agree.
(() => {
  const { data, element, replace, isNumber } = arbitrage;
  const find = (id) => document.getElementById(id);
  const LIMIT = 300;
  const clean = winrate ? winrate.clean : (text) => String(text);
  const state = { limit: LIMIT, pattern: "", sort: null };

  // ---- Rows ----

  const WHERE = { all: () => "all prompts", languages: () => "mean over languages", category: (of) => clean(of), language: (of) => winrate.language(of) };
  const whereOf = (row) => (WHERE[row.scope] || ((of) => clean(of)))(row.of);
  const range = (estimate, times, digits) => estimate && isNumber(estimate[1]) && isNumber(estimate[2])
    ? `${arbitrage.number(times * estimate[1], digits)} to ${arbitrage.number(times * estimate[2], digits)}` : arbitrage.MISSING;
  const ratio = (part, of) => of ? part / of : null;

  // Of each column: its head, its value in full, its text.
  const estimated = (title, name, show, times, digits) => [
    [title, (row) => row[name]?.[0] ?? null, (row) => show(row[name]?.[0])],
    [`${title} 95 %`, (row) => row[name]?.[1] ?? null, (row) => range(row[name], times, digits)],
  ];
  const counted = (title, name) => [[title, (row) => row[name], (row) => arbitrage.count(row[name])]];
  const shared = (title, part, of) => [[title, (row) => ratio(row[part], row[of]), (row) => arbitrage.percent(ratio(row[part], row[of]))]];
  const COLUMNS = [
    ...estimated("win rate", "rate", (value) => arbitrage.percent(value), 100, 1),
    ...estimated("controlled", "controlled", (value) => arbitrage.percent(value), 100, 1),
    ...estimated("strength", "strength", (value) => arbitrage.signed(value, 2), 1, 2),
    ...estimated("points", "points", (value) => arbitrage.signed(isNumber(value) ? 100 * value : null, 1), 100, 1),
    ...estimated("gain %", "gain", (value) => arbitrage.signed(isNumber(value) ? 100 * value : null, 0), 100, 0),
    ...counted("prompts", "prompts"), ...counted("games", "games"), ...counted("wins", "wins"), ...counted("strong wins", "strong_wins"),
    ...counted("ties", "ties"), ...counted("losses", "losses"), ...counted("strong losses", "strong_losses"),
    ...counted("missing", "missing"), ...counted("flips", "flipped"), ...shared("flips %", "flipped", "both"),
  ];

  function shownRows() {
    const { judge, against } = winrate.state;
    const pattern = state.pattern.trim().toLowerCase();
    return winrate.rows.filter((row) => row.judge === judge && row.against === against
      && (!pattern || `${row.model} ${row.of} ${whereOf(row)}`.toLowerCase().includes(pattern)));
  }

  const used = () => COLUMNS.filter(([title]) => !/^(controlled|strength)/.test(title) || winrate.rows.some((row) => row[title.split(" ")[0]]));

  const valueOf = (row, place, columns) => place === 0 ? row.model : place === 1 ? whereOf(row) : columns[place - 2][1](row);

  function drawTable() {
    const columns = used();
    const found = shownRows();
    if (state.sort) {
      const { place, descending } = state.sort;
      found.sort((one, other) => arbitrage.compare(valueOf(one, place, columns), valueOf(other, place, columns), descending));
    }
    replace(find("figures").tHead, element("tr", {}, ["model", "on", ...columns.map(([title]) => title)].map((title, place) => head(title, place))));
    replace(find("figures").tBodies[0], found.slice(0, state.limit).map((row) => element("tr", { "data-model": row.model, "data-scope": row.scope, "data-of": row.of },
      winrate.isNamed(row.model, "th", { scope: "row" }), element("td", { dir: "auto" }, whereOf(row)),
      columns.map(([title, value, text]) => element("td", { class: "number", "data-column": title, "data-value": value(row) }, text(row))))));
    find("more").hidden = found.length <= state.limit;
    find("more").textContent = `Show all ${arbitrage.count(found.length)} rows, not only the first ${arbitrage.count(state.limit)}`;
    find("said").textContent = `${arbitrage.count(found.length)} rows: against ${winrate.againstName(winrate.state.against)}, as ${winrate.judgeName(winrate.state.judge)} see${winrate.state.judge ? "s" : ""} it. Click a header to sort.`;
  }

  function head(title, place) {
    const now = state.sort?.place === place;
    const node = element("th", {
      scope: "col", class: place > 1 ? "number" : null, tabindex: 0, "data-sort": "", "data-column": title,
      "aria-sort": now ? (state.sort.descending ? "descending" : "ascending") : "none", onclick: () => sortBy(place),
      onkeydown: (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        sortBy(place);
        find("figures").tHead.rows[0].cells[place].focus();
      },
    }, title);
    return node;
  }

  function sortBy(place) {
    const descending = state.sort?.place === place ? !state.sort.descending : place > 1;
    state.sort = { place, descending };
    drawTable();
  }

  // ---- Judges ----

  function drawEffects() {
    const names = { position: "being shown first" };
    find("effects").hidden = !data.effects.length;
    replace(find("effects").querySelector("tbody"), data.effects.map((one) => element("tr", {},
      element("th", { scope: "row", dir: "auto" }, clean(one.judge || "all judges")), element("td", { dir: "auto" }, names[one.name] || clean(one.name)),
      element("td", { class: "number", "data-value": one.size[0] }, arbitrage.signed(one.size[0], 2)),
      element("td", { class: "number" }, range(one.size, 1, 2)))));
  }

  function drawAgreements() {
    find("agreements").hidden = !data.agreements.length;
    replace(find("agreements").querySelector("tbody"), data.agreements.map((one) => element("tr", {},
      element("th", { scope: "row", dir: "auto" }, `${clean(one.first)} / ${clean(one.second)}`), element("td", { dir: "auto" }, winrate ? whereOf(one) : clean(one.of)),
      element("td", { class: "number", "data-value": one.same[0], title: range(one.same, 100, 1) }, arbitrage.percent(one.same[0])),
      element("td", { class: "number", "data-value": one.kappa[0], title: range(one.kappa, 1, 2) }, arbitrage.number(one.kappa[0], 2)),
      element("td", { class: "number" }, arbitrage.count(one.pairs)))));
  }

  function start() {
    drawEffects();
    drawAgreements();
    document.querySelectorAll("#effects table, #agreements table").forEach(arbitrage.sortable);
    if (!winrate) return;
    find("more").addEventListener("click", () => { state.limit = Infinity; drawTable(); });
    find("filter").addEventListener("input", () => { state.pattern = find("filter").value; drawTable(); });
    document.addEventListener("winrate:changed", drawTable);
    drawTable();
  }

  start();
})();
