"use strict";

// The plots of the report. A plot is drawn when its tab is first seen: hidden, it has no width.
(() => {
  const { data, element, replace, append, number, count, percent, isNumber, plot, plotText } = window.arbitrage;
  const name = (text) => plotText(text.length > 26 ? `${text.slice(0, 13)}\u2026${text.slice(-12)}` : text);
  const digits = data.digits;
  const QUIET = { displayModeBar: false };

  // A teacher has one color everywhere; the second ten are striped.
  const place = new Map(data.teachers.map((teacher, number) => [teacher, number]));
  const color = (colors, teacher) => colors.colorway[place.get(teacher) % 10];
  const stripes = (teacher) => ({ shape: place.get(teacher) >= 10 ? "/" : "", size: 5, solidity: 0.3 });

  // The plot's own height, so that what follows stands below it whatever the width.
  function drawn(id, height, traces, layout) {
    const div = document.getElementById(id);
    div.style.height = `${height}px`;
    const tall = (colors) => ({ ...(typeof layout === "function" ? layout(colors) : layout), height });
    return plot(div, traces, tall, QUIET);
  }

  // ---- Reward against generations ----

  // Labels of points that lie close together would stand on each other: the first has its own.
  function labels(points) {
    const width = Math.max(...points.map((one) => one.asked)) - Math.min(...points.map((one) => one.asked)) || 1;
    const height = Math.max(...points.map((one) => one.reward)) - Math.min(...points.map((one) => one.reward)) || 1;
    const taken = [];
    return [...points].reverse().map((one) => {
      const [x, y] = [(one.asked / width) * 450, (one.reward / height) * 240];
      if (one.left_out === null || taken.some(([left, top]) => Math.abs(x - left) < 150 && Math.abs(y - top) < 14)) return "";
      taken.push([x, y]);
      return `\u2212 ${name(one.left_out)}`;
    }).reverse();
  }

  function curves() {
    const point = (one) => `${number(one.asked, 2)} completions per prompt<br>mean reward ${number(one.reward, digits)}`
      + `<br>${percent(one.answered, 2)} of the prompts answered`;
    const full = data.thinned[0];
    drawn("plot-curves", 380, (colors) => [
      {
        name: "drawn by lot", x: data.drawn.map((one) => one.asked), y: data.drawn.map((one) => one.reward),
        mode: "lines+markers", line: { color: colors.colorway[0] }, marker: { size: 7 },
        hovertext: data.drawn.map((one, place) => `${place + 1} teachers by lot<br>${point(one)}`), hoverinfo: "text",
      },
      {
        name: "made smaller", x: data.thinned.map((one) => one.asked), y: data.thinned.map((one) => one.reward),
        mode: "lines+markers+text", line: { color: colors.colorway[1] },
        marker: {
          size: 9, symbol: data.thinned.map((one) => one.answered < 1 ? "circle-open" : "circle"), line: { width: 2 },
        },
        text: labels(data.thinned),
        textposition: "bottom right", textfont: { size: 11, color: colors.muted }, cliponaxis: false,
        hovertext: data.thinned.map((one) => `${one.left_out === null ? "all teachers" : `without ${plotText(one.left_out)} and those before`}<br>${point(one)}`),
        hoverinfo: "text",
      },
      {
        name: "this run", x: [full.asked], y: [full.reward], mode: "markers",
        marker: { symbol: "star", size: 15, color: colors.accent }, hovertext: [`this run<br>${point(full)}`], hoverinfo: "text",
      },
    ], { xaxis: { title: { text: "completions per prompt" } }, yaxis: { title: { text: "mean reward" } }, margin: { l: 56, r: 100, t: 16, b: 44 } });
  }

  // ---- Whose answers ----

  function entropy(counts) {
    const total = counts.reduce((sum, value) => sum + value, 0);
    return counts.filter((value) => value > 0).reduce((sum, value) => sum - (value / total) * Math.log2(value / total), 0);
  }

  function shares() {
    const codes = data.codes.map(([code]) => code).filter((code) => data.wins[code]);
    const totals = codes.map((code) => Object.values(data.wins[code]).reduce((sum, value) => sum + value, 0));
    const teachers = data.teachers.filter((teacher) => codes.some((code) => data.wins[code][teacher]));
    drawn("plot-shares", 380 + 9 * Math.max(0, teachers.length - 8), (colors) => teachers.map((teacher) => ({
      type: "bar", name: name(teacher), marker: { color: color(colors, teacher), pattern: stripes(teacher) }, x: codes, y: codes.map((code, at) => (data.wins[code][teacher] || 0) / (totals[at] || 1)),
      hovertemplate: `${name(teacher)}, %{x}: %{y:.1%}<extra></extra>`,
    })), { barmode: "stack", bargap: 0.15, xaxis: { type: "category", dtick: 1, ...(codes.length > 30 ? { tickangle: -90, tickfont: { size: 9 } } : { autotickangles: [0, 90] }) }, yaxis: { tickformat: ".0%", range: [0, 1] } });
    const all = data.teachers.map((teacher) => codes.reduce((sum, code) => sum + (data.wins[code][teacher] || 0), 0));
    document.getElementById("entropy").textContent =
      `Over all languages the shares have ${number(entropy(all), 2)} bits of entropy; ${number(Math.log2(data.teachers.length), 2)} if every teacher had the same part, 0 if one had all.`;
  }

  // ---- Distributions ----

  const ALL = "";
  const centers = data.spread.edges.slice(1).map((edge, place) => (edge + data.spread.edges[place]) / 2);

  function added(byCode, code) {
    const rows = code === ALL ? Object.values(byCode) : [byCode[code]].filter(Boolean);
    return centers.map((_, bin) => rows.reduce((sum, row) => sum + (row[bin] || 0), 0));
  }

  function asShares(counts) {
    const total = counts.reduce((sum, value) => sum + value, 0);
    return total ? counts.map((value) => value / total) : null;
  }

  // One small histogram per teacher, below each other; behind each of them what was chosen.
  function spread(code) {
    const chosen = asShares(added(data.spread.selected, code));
    const rows = data.teachers.map((teacher) => [teacher, added(data.spread.teachers[teacher] || {}, code)])
      .map(([teacher, counts]) => [teacher, counts, asShares(counts)]).filter(([, , part]) => part);
    const most = Math.max(...(chosen || [0]), ...rows.flatMap(([, , part]) => part)) * 1.05;
    const axis = (place) => place ? `y${place + 1}` : "y";
    const traces = (colors) => rows.flatMap(([teacher, counts, part], place) => [
      {
        type: "bar", name: name(teacher), x: centers, y: part, yaxis: axis(place), customdata: counts, marker: { color: color(colors, teacher), pattern: stripes(teacher) },
        opacity: 0.8, hovertemplate: `${name(teacher)}<br>%{customdata:,} prompts (%{y:.1%})<br>reward %{x:.${digits}f}<extra></extra>`, showlegend: false,
      },
      {
        name: "chosen, of all prompts", x: centers, y: chosen, yaxis: axis(place), mode: "lines", line: { shape: "hvh", width: 1.2, color: colors.text },
        hoverinfo: "skip", showlegend: place === 0,
      },
    ]);
    drawn("plot-spread", 90 + 74 * Math.max(1, rows.length), traces, spreadLayout(rows, most));
  }

  function spreadLayout(rows, most) {
    const gap = 0.12 / Math.max(1, rows.length);
    const axes = rows.map((_, place) => [place ? `yaxis${place + 1}` : "yaxis", {
      domain: [1 - (place + 1) / rows.length, 1 - place / rows.length - gap], range: [0, most], tickformat: ".0%", nticks: 3, fixedrange: true,
    }]);
    return {
      ...Object.fromEntries(axes), bargap: 0.04, margin: { l: 48, r: 16, t: 16, b: 44 },
      xaxis: { title: { text: "reward" }, anchor: rows.length > 1 ? `y${rows.length}` : "y" },
      annotations: rows.map(([teacher, counts], place) => ({
        text: `<b>${name(teacher)}</b>  ${count(counts.reduce((sum, value) => sum + value, 0))} prompts`, showarrow: false,
        xref: "paper", yref: "paper", x: 0.006, xanchor: "left", y: 1 - place / rows.length - gap, yanchor: "top", font: { size: 12 },
      })),
    };
  }

  function languages() {
    const select = document.getElementById("spread-language");
    append(select, [element("option", { value: ALL }, "all languages"), ...data.codes.filter(([code]) => data.spread.selected[code])
      .map(([code, label]) => element("option", { value: code }, label === code ? code : `${label} (${code})`))]);
    select.addEventListener("change", () => spread(select.value));
    spread(ALL);
  }

  function lengthLabels() {
    const edges = data.lengths.edges.map((edge) => 2 ** edge);
    const said = (value) => `${number(value, 2)}\u00d7`;
    return edges.slice(1).map((edge, place) => {
      if (place === 0) return `to ${said(edge)}`;
      return place === edges.length - 2 ? `from ${said(edges[place])}` : `${said(edges[place])} \u2013 ${said(edge)}`;
    });
  }

  // A bar at 0 has no height; its edge is still seen, so that it is told from one without candidates.
  const edged = (color) => ({ color, line: { width: 2, color } });

  function lengths() {
    const labels = lengthLabels();
    const { candidates, chosen } = data.lengths;
    const above = data.lengths.above.map((value) => isNumber(value) && Math.abs(value) < 1e-9 ? 0 : value);
    const customdata = candidates.map((value) => count(value));
    const layout = { xaxis: { type: "category", title: { text: "length, against the prompt's mean" }, tickangle: -35 } };
    drawn("plot-length-reward", 340, (colors) => [{
      type: "bar", x: labels, y: above, customdata, marker: edged(above.map((value) => value < 0 ? colors.colorway[2] : colors.colorway[1])),
      hovertemplate: `%{x}: %{y:.${digits}f}<br>%{customdata} candidates<extra></extra>`,
    }], { ...layout, yaxis: { title: { text: "reward above the mean" } } });
    const part = candidates.map((all, place) => all ? chosen[place] / all : null);
    const total = candidates.reduce((sum, value) => sum + value, 0);
    const average = total ? chosen.reduce((sum, value) => sum + value, 0) / total : null;
    drawn("plot-length-chosen", 340, (colors) => [{
      type: "bar", x: labels, y: part, customdata, marker: edged(colors.colorway[0]), hovertemplate: "%{x}: %{y:.1%} chosen<br>%{customdata} candidates<extra></extra>",
    }], (colors) => ({
      ...layout, yaxis: { tickformat: ".0%", rangemode: "tozero", title: { text: "chosen" } },
      shapes: isNumber(average) ? [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: average, y1: average, line: { dash: "dot", color: colors.muted } }] : [],
    }));
  }

  document.addEventListener("report:tab", ({ detail }) => {
    if (!detail.first) return;
    if (detail.tab === "overview" && document.getElementById("plot-curves")) {
      curves();
      shares();
    }
    if (detail.tab === "distributions" && document.getElementById("plot-spread")) {
      languages();
      lengths();
    }
  });
})();
