"use strict";

// The samples of the report: a list to filter on the left, one prompt with its candidates on the right.
(() => {
  const { data, element, replace, append, others, number, count, isNumber, MISSING } = window.arbitrage;
  const { samples, extent, chars, asked_chars: askedChars } = data.texts;
  const digits = data.digits;
  const WHY = {
    lot: ["by lot", "Drawn by lot: these alone show what the run is like."],
    clear: ["clear win", "Looked for: a large margin."],
    close: ["close call", "Looked for: a small margin."],
    gated: ["gated", "Looked for: a candidate fails a gate."],
    lost: ["lost", "Looked for: in quarantine."],
  };
  // Characters that turn or hide their neighbors are shown by their numbers.
  const CONTROL = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b\u202a-\u202e\u2060\u2066-\u2069\ufeff]/;
  const list = document.getElementById("sample-list");
  let found = samples;
  let current = null;

  // ---- Texts ----

  function visible(text) {
    if (!CONTROL.test(text)) return [text];
    return text.split(new RegExp(`(${CONTROL.source})`, "u")).map((part) => part.length === 1 && CONTROL.test(part)
      ? element("span", { class: "control" }, `U+${part.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`) : part);
  }

  function text(cut, language, className = "") {
    const node = others("", "div", { class: `text ${className}`, lang: language });
    append(node, visible(cut.text));
    return cut.left_out ? [node, element("p", { class: "small muted" }, `\u2026 ${count(cut.left_out)} more characters`)] : [node];
  }

  // ---- Filters ----

  const filters = { language: "", teacher: "", who: "chosen", gate: "", why: "", least: "", most: "", words: "" };

  const haystacks = new Map();
  function haystack(sample) {
    if (!haystacks.has(sample)) {
      haystacks.set(sample, [
        sample.prompt_id, sample.user_id || "", ...sample.messages.map((turn) => turn.content.text),
        ...sample.candidates.map((one) => one.completion?.text || ""),
      ].join("\n").toLocaleLowerCase());
    }
    return haystacks.get(sample);
  }

  const has = (sample, teacher) => filters.who === "chosen"
    ? sample.chosen?.teacher === teacher : sample.candidates.some((one) => one.teacher === teacher);

  function matches(sample) {
    if (filters.language && sample.language !== filters.language) return false;
    if (filters.teacher && !has(sample, filters.teacher)) return false;
    if (filters.gate && !sample.candidates.some((one) => one.gates.includes(filters.gate))) return false;
    if (filters.why && sample.why !== filters.why) return false;
    if (filters.least !== "" && !(isNumber(sample.margin) && sample.margin >= Number(filters.least))) return false;
    if (filters.most !== "" && !(isNumber(sample.margin) && sample.margin <= Number(filters.most))) return false;
    return !filters.words || haystack(sample).includes(filters.words.toLocaleLowerCase());
  }

  function select(label, key, choices) {
    const field = element("select", { "data-filter": key, onchange: () => { filters[key] = field.value; filter(); } },
      choices.map(([value, shown]) => element("option", { value }, shown)));
    return element("label", {}, label, field);
  }

  function field(label, key, attributes, className = "") {
    const input = element("input", { "data-filter": key, ...attributes, oninput: () => { filters[key] = input.value.trim(); filter(); } });
    return element("label", { class: className }, label, input);
  }

  function controls() {
    const codes = [...new Set(samples.map((sample) => sample.language))].sort();
    const gates = [...new Set(samples.flatMap((sample) => sample.candidates.flatMap((one) => one.gates)))].sort();
    const whys = Object.keys(WHY).filter((why) => samples.some((sample) => sample.why === why));
    const teachers = [...new Set(samples.flatMap((sample) => sample.candidates.map((one) => one.teacher)))].sort();
    const all = ["", "any"];
    return [
      field("Search prompts and answers", "words", { type: "search", placeholder: "text" }, "wide"),
      select("Language", "language", [all, ...codes.map((code) => [code, code])]),
      select("Why sampled", "why", [all, ...whys.map((why) => [why, WHY[why][0]])]),
      select("Teacher", "teacher", [all, ...teachers.map((teacher) => [teacher, teacher])]),
      select("who was", "who", [["chosen", "chosen"], ["any", "asked"]]),
      field("Margin from", "least", { type: "number", step: "any" }),
      field("to", "most", { type: "number", step: "any" }),
      select("A candidate fails", "gate", [all, ...gates.map((gate) => [gate, gate])]),
    ];
  }

  // ---- The list ----

  const lastTurn = (sample) => sample.messages[sample.messages.length - 1]?.content.text || "";

  function item(sample) {
    return element("li", { "data-id": sample.prompt_id, "aria-current": String(sample === current), onclick: () => choose(sample) },
      element("span", { class: "line", lang: sample.language }, append(others("", "bdi"), visible(lastTurn(sample).slice(0, 120).replace(/\s+/g, " ")))),
      element("span", { class: "meta" }, element("b", {}, sample.language), element("span", {}, WHY[sample.why][0]),
        sample.quarantined ? element("span", { class: "bad" }, sample.quarantined) : element("span", { dir: "auto" }, sample.chosen?.teacher),
        isNumber(sample.margin) ? element("span", {}, `margin ${number(sample.margin, digits)}`) : null));
  }

  function filter() {
    found = samples.filter(matches);
    document.getElementById("sample-count").textContent = `${count(found.length)} of ${count(samples.length)} sampled prompts`;
    replace(list, found.map(item));
    if (!found.includes(current)) choose(found[0] || null, false);
    else mark();
  }

  function mark() {
    for (const node of list.children) {
      const here = node.dataset.id === current?.prompt_id;
      node.setAttribute("aria-current", String(here));
      if (here) node.scrollIntoView({ block: "nearest" });
    }
  }

  function choose(sample, remember = true) {
    current = sample;
    if (sample && remember) history.replaceState(null, "", `#samples/${encodeURIComponent(sample.prompt_id)}`);
    mark();
    detail();
  }

  // ---- One prompt ----

  function fact(label, value) {
    return value === null || value === "" ? null : element("span", {}, element("span", { class: "muted" }, `${label} `), element("b", { dir: "auto" }, value));
  }

  function badge(kind, label, title = null) {
    return element("span", { class: `badge ${kind}`, title }, label);
  }

  function candidate(one, sample) {
    const scores = Object.entries(one.scores);
    return element("article", { class: `card candidate${one.rank ? " chosen" : ""}` },
      element("div", { class: "row" },
        element("b", { dir: "auto" }, one.teacher), one.sample ? element("span", { class: "muted small" }, `sample ${one.sample}`) : null,
        one.rank ? badge("good", one.rank > 1 ? `chosen, ${one.rank}.` : "chosen") : null,
        one.gates.map((gate) => badge("bad", gate, "fails this gate")), one.error ? badge("bad", "error") : null,
        one.finish_reason === "length" ? badge("warn", "cut off") : null),
      element("div", { class: "row" }, element("span", { class: "reward", title: "reward: the number that was compared" }, number(one.reward, digits)),
        element("span", { class: "small muted" }, scores.length > 1 ? scores.map(([arbiter, score]) => `${arbiter} ${number(score, digits)}`).join(", ") : null,
          one.completion_tokens ? ` ${count(one.completion_tokens)} tokens` : null)),
      one.error ? element("p", { class: "bad small others", dir: "auto" }, visible(one.error)) : null,
      one.reasoning ? element("details", {}, element("summary", { class: "small" }, "reasoning"), text(one.reasoning, sample.language, "small")) : null,
      one.completion ? text(one.completion, sample.language) : element("p", { class: "muted" }, MISSING));
  }

  function detail() {
    const node = document.getElementById("sample-detail");
    if (!current) {
      replace(node, element("p", { class: "notice info" }, samples.length ? "No sampled prompt is like that." : "There is nothing to show yet."));
      return;
    }
    const [label, title] = WHY[current.why];
    replace(node,
      element("section", { class: "card" },
        element("div", { class: "row small" }, badge("accent", label, title), fact("language", current.language), fact("family", current.family),
          fact("reward", number(current.reward, digits)), fact("margin", number(current.margin, digits)),
          current.quarantined ? badge("bad", `quarantined: ${current.quarantined}`) : null,
          fact("id", current.prompt_id.slice(0, 16)), current.user_id ? fact("your id", current.user_id) : null),
        current.messages.map((turn) => element("div", { class: "turn" },
          element("div", { class: "small muted" }, turn.role), text(turn.content, current.language)))),
      element("div", { class: "candidates" }, current.candidates.map((one) => candidate(one, current))),
      current.candidates.length ? null : element("p", { class: "muted" }, "It has no candidates."));
  }

  // ---- Start ----

  function note() {
    const part = extent.shards === extent.of_shards ? "the whole run"
      : `${count(extent.prompts)} prompts in ${count(extent.shards)} of the run's ${count(extent.of_shards)} shards`;
    const lot = samples.filter((sample) => sample.why === "lot").length;
    const cut = chars < askedChars ? ` Texts are cut to ${count(chars)} characters, so that all of it fits into the page.` : ` Texts are cut after ${count(chars)} characters.`;
    const unseen = extent.unseen.length ? ` Nothing is shown of ${extent.unseen.join(", ")}.` : "";
    const how = lot === samples.length ? "All of them were drawn by lot, or are all that there are."
      : `${count(lot)} were drawn by lot, and only those are representative; the others were looked for: clear wins, close calls, failed gates, lost prompts.`;
    return `${count(samples.length)} prompts from ${part}, as many of every language as there are. ${how}${cut}${unseen} Keys: j and k move.`;
  }

  function step(by) {
    const at = found.indexOf(current);
    const next = found[Math.min(found.length - 1, Math.max(0, at + by))];
    if (next && next !== current) choose(next);
  }

  function isTyping(target) {
    return target instanceof HTMLElement && /^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName);
  }

  document.addEventListener("keydown", (event) => {
    if (document.getElementById("tab-samples").hidden || isTyping(event.target) || event.ctrlKey || event.metaKey || event.altKey) return;
    const by = { j: 1, k: -1 }[event.key] || (document.activeElement === list && { ArrowDown: 1, ArrowUp: -1 }[event.key]) || 0;
    if (!by) return;
    event.preventDefault();
    step(by);
  });

  document.addEventListener("report:tab", ({ detail: { tab, rest, first } }) => {
    if (tab !== "samples") return;
    if (first) {
      replace(document.getElementById("sample-filters"), controls());
      document.getElementById("samples-note").textContent = samples.length ? note() : "";
    }
    const wanted = samples.find((sample) => sample.prompt_id === rest);
    if (wanted) current = wanted;
    filter();
    if (current) detail();
  });
})();
