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
  const ENFORCED = new Set(document.getElementById("tab-samples").dataset.gates.split(", "));
  const NAMES = new Map(data.codes.map(([code, name]) => [code, name]));
  // So narrow, the chosen sample stands below the list instead of beside it.
  const stacked = window.matchMedia("(max-width: 900px)");
  let found = samples;
  let current = null;

  // ---- Texts ----

  function visible(text) {
    if (!CONTROL.test(text)) return highlighted(text);
    return text.split(new RegExp(`(${CONTROL.source})`, "u")).map((part) => part.length === 1 && CONTROL.test(part)
      ? element("span", { class: "control" }, `U+${part.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`) : highlighted(part));
  }

  // What the search found is marked; the text stays text.
  function highlighted(text) {
    if (!filters.words) return [text];
    const words = new RegExp(filters.words.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "giu");
    const parts = [];
    let last = 0;
    for (const match of text.matchAll(words)) {
      parts.push(text.slice(last, match.index), element("mark", {}, match[0]));
      last = match.index + match[0].length;
    }
    return [...parts, text.slice(last)];
  }

  function tongue(code) {
    const name = NAMES.get(code);
    return name && name !== code ? `${name} (${code})` : code;
  }

  function text(cut, language, className = "") {
    const node = others("", "div", { class: `text ${className}`, lang: language });
    append(node, visible(cut.text));
    return cut.left_out ? [node, element("p", { class: "small muted" }, `\u2026 ${count(cut.left_out)} more characters`)] : [node];
  }

  // ---- Filters ----

  const UNSET = { language: "", teacher: "", who: "chosen", gate: "", why: "", least: "", most: "", words: "" };
  const filters = { ...UNSET };

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

  function change(key, value) {
    filters[key] = value;
    filter();
    if (key === "words") detail();
  }

  function clear() {
    Object.assign(filters, UNSET);
    document.querySelectorAll("#sample-filters [data-filter]").forEach((field) => { field.value = filters[field.dataset.filter]; });
    filter();
    detail();
  }

  const clearing = () => element("button", { type: "button", class: "button clear", onclick: clear }, "Clear filters");

  // A field of its own is no error yet: only the two of them together hold nothing.
  const isTurned = () => filters.least !== "" && filters.most !== "" && Number(filters.least) > Number(filters.most);

  // The filters that are set, in words.
  function wanted() {
    const { words, language, why, teacher, who, least, most, gate } = filters;
    return [
      words && `the text \u201c${words}\u201d`, language && `language ${tongue(language)}`, why && `sampled as ${WHY[why][0]}`,
      teacher && (who === "chosen" ? `${teacher} chosen` : `a candidate of ${teacher}`),
      least && `margin from ${least}`, most && `margin to ${most}`, gate && `failed gate ${gate}`,
    ].filter(Boolean);
  }

  function select(label, key, choices) {
    const field = element("select", { "data-filter": key, onchange: () => change(key, field.value) },
      choices.map(([value, shown]) => element("option", { value }, shown)));
    return element("label", {}, label, field);
  }

  function field(label, key, attributes, className = "") {
    const input = element("input", { "data-filter": key, ...attributes, oninput: () => change(key, input.value.trim()) });
    return element("label", { class: className }, label, input);
  }

  function controls() {
    const codes = [...new Set(samples.map((sample) => sample.language))].sort((one, other) => tongue(one).localeCompare(tongue(other), "en"));
    const gates = [...new Set(samples.flatMap((sample) => sample.candidates.flatMap((one) => one.gates)))].sort();
    const whys = Object.keys(WHY).filter((why) => samples.some((sample) => sample.why === why));
    const teachers = [...new Set(samples.flatMap((sample) => sample.candidates.map((one) => one.teacher)))].sort();
    const all = ["", "any"];
    return [
      field("Search prompts and answers", "words", { type: "search", placeholder: "text" }, "wide"),
      select("Language", "language", [all, ...codes.map((code) => [code, tongue(code)])]),
      select("Why sampled", "why", [all, ...whys.map((why) => [why, WHY[why][0]])]),
      select("Teacher", "teacher", [all, ...teachers.map((teacher) => [teacher, teacher])]),
      select("As", "who", [["chosen", "chosen"], ["any", "any candidate"]]),
      field("Margin from", "least", { type: "number", step: "any" }),
      field("to", "most", { type: "number", step: "any" }),
      select("Failed gate", "gate", [all, ...gates.map((gate) => [gate, gate])]),
      clearing(),
    ];
  }

  // ---- The list ----

  const lastTurn = (sample) => sample.messages[sample.messages.length - 1]?.content.text || "";

  function item(sample) {
    return element("li", { "data-id": sample.prompt_id, "aria-current": String(sample === current), onclick: () => { choose(sample); showDetail(); } },
      element("span", { class: "line", lang: sample.language }, append(others("", "bdi"), visible(lastTurn(sample).slice(0, 120).replace(/\s+/g, " ")))),
      element("span", { class: "meta" }, element("b", { title: tongue(sample.language) }, sample.language), element("span", {}, WHY[sample.why][0]),
        sample.quarantined ? element("span", { class: "bad" }, sample.quarantined) : element("span", { dir: "auto" }, sample.chosen?.teacher),
        isNumber(sample.margin) ? element("span", {}, `margin ${number(sample.margin, digits)}`) : null));
  }

  function filter() {
    found = samples.filter(matches);
    document.getElementById("sample-count").textContent = `${count(found.length)} of ${count(samples.length)} sampled prompts`;
    list.hidden = !found.length;
    replace(list, found.map(item));
    for (const key of ["least", "most"]) document.querySelector(`[data-filter=${key}]`).setAttribute("aria-invalid", String(isTurned()));
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

  // Below the list, what was tapped would be out of sight.
  function showDetail() {
    if (stacked.matches) document.getElementById("sample-detail").scrollIntoView({ block: "start" });
  }

  function backToList() {
    document.getElementById("sample-count").scrollIntoView({ block: "start" });
    list.focus({ preventScroll: true });
  }

  // ---- One prompt ----

  function fact(label, value) {
    return value === null || value === "" ? null : element("span", {}, element("span", { class: "muted" }, `${label} `), element("b", { dir: "auto" }, value));
  }

  function badge(kind, label, title = null) {
    return element("span", { class: `badge ${kind}`, title }, label);
  }

  // Why a candidate could not be chosen, whatever its reward; empty where it could.
  function barred(one) {
    if (one.rank) return "";
    const failed = one.gates.filter((gate) => ENFORCED.has(gate));
    if (failed.length) return `It could not be chosen: it fails ${failed.join(", ")}.`;
    return one.error ? "It could not be chosen: it has an error." : "";
  }

  const gateBadge = (gate) => ENFORCED.has(gate) ? badge("bad", gate, "fails this gate")
    : badge("warn", gate, "fails this gate, which keeps no candidate from being chosen");

  // Of cut texts only what is shown can be compared, and how much is missing.
  function repeats(one, sample) {
    const isSame = (other) => other.completion?.text === one.completion.text && other.completion.left_out === one.completion.left_out;
    return !one.rank && Boolean(one.completion) && sample.candidates.some((other) => other.rank && isSame(other));
  }

  function sameBadge(one) {
    return badge("accent", "same answer", one.completion.left_out ? "as the chosen one, as far as it is shown" : "the very text that was chosen");
  }

  function candidate(one, sample) {
    const scores = Object.entries(one.scores);
    const bar = barred(one);
    return element("article", { class: `card candidate${one.rank ? " chosen" : ""}${bar ? " barred" : ""}` },
      element("div", { class: "row" },
        element("b", { dir: "auto" }, one.teacher), one.sample ? element("span", { class: "muted small" }, `sample ${one.sample}`) : null,
        one.rank ? badge("good", one.rank > 1 ? `chosen, ${one.rank}.` : "chosen") : null,
        bar ? badge("", "not eligible", bar) : null, repeats(one, sample) ? sameBadge(one) : null,
        one.gates.map(gateBadge), one.error ? badge("bad", "error") : null,
        one.finish_reason === "length" ? badge("warn", "cut off") : null),
      element("div", { class: "row" }, element("span", { class: "reward", title: bar || "reward: the number that was compared" }, number(one.reward, digits)),
        element("span", { class: "small muted" }, scores.length > 1 ? scores.map(([arbiter, score]) => `${arbiter} ${number(score, digits)}`).join(", ") : null,
          one.completion_tokens ? ` ${count(one.completion_tokens)} tokens` : null)),
      one.error ? element("p", { class: "bad small others", dir: "auto" }, visible(one.error)) : null,
      one.reasoning ? element("details", {}, element("summary", { class: "small" }, "reasoning"), text(one.reasoning, sample.language, "small")) : null,
      one.completion?.text ? text(one.completion, sample.language) : element("p", { class: "muted" }, one.completion ? "no text" : MISSING));
  }

  function nothing() {
    if (!samples.length) return element("p", { class: "notice info" }, "There is nothing to show yet.");
    const turned = isTurned() ? `No margin can be from ${filters.least} to ${filters.most}: the first is larger. ` : "";
    return element("div", { class: "notice info" },
      element("p", {}, turned, "No sampled prompt has all of: ", append(others("", "b"), [wanted().join("; ")]), "."), clearing());
  }

  function detail() {
    const node = document.getElementById("sample-detail");
    if (!current) {
      replace(node, nothing());
      return;
    }
    const [label, title] = WHY[current.why];
    replace(node,
      element("button", { type: "button", class: "button back", onclick: backToList }, "\u2191 Back to the list"),
      element("section", { class: "card" },
        element("div", { class: "row small" }, badge("accent", label, title), fact("language", tongue(current.language)), fact("family", current.family),
          fact("reward", number(current.reward, digits)), fact("margin", number(current.margin, digits)),
          current.quarantined ? badge("bad", `quarantined: ${current.quarantined}`) : null,
          fact("id", highlighted(current.prompt_id.slice(0, 16))), current.user_id ? fact("your id", highlighted(current.user_id)) : null),
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
    return `${count(samples.length)} prompts from ${part}, as many of every language as there are. ${how}${cut}${unseen}`;
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
      replace(document.getElementById("samples-note"), samples.length ? [note(), element("span", { class: "keys" }, " Keys: j and k move.")] : "");
    }
    const asked = samples.find((sample) => sample.prompt_id === rest);
    if (asked) current = asked;
    filter();
    if (current) detail();
  });
})();
