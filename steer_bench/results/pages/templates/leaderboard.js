"use strict";
// Text that others wrote enters the page through textContent only; there is no markup in a string anywhere.
const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 25;
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g;
const visible = text => String(text).replace(HIDDEN, c => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
const line = text => visible(text).replace(/\s+/g, " ");
const byId = id => document.getElementById(id);

function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") made.textContent = visible(value);
    else if (name === "click") made.addEventListener("click", value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter(child => child !== null));
  return made;
}
const show = value => value === null || value === undefined ? "n/a" : Math.abs(value) < 10 ? value.toFixed(2) : value.toFixed(1);

// Tables: sorted by a click on a heading, filtered by words.
function sortBy(table, column) {
  const head = table.tHead.rows[0].cells[column];
  const numeric = head.dataset.numeric === "yes";
  const up = head.getAttribute("aria-sort") ? head.getAttribute("aria-sort") === "descending" : !numeric;
  for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = row => numeric ? Number.parseFloat(row.cells[column].dataset.sort) : row.cells[column].textContent.trim();
  const compare = (a, b) => {
    const x = key(a), y = key(b);
    if (!numeric) return (up ? 1 : -1) * x.localeCompare(y);
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
    return (up ? 1 : -1) * (x - y);
  };
  const rows = [...table.tBodies[0].rows].sort(compare);
  for (const row of rows) row.classList.remove("first");
  table.tBodies[0].append(...rows);
}
for (const table of document.querySelectorAll("table.sorts")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => sortBy(table, column));
  });
}
const filter = byId("filter");
filter.addEventListener("input", () => {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const section of document.querySelectorAll("section[data-title]")) {
    for (const row of section.querySelectorAll("tbody tr")) {
      const text = (section.dataset.title + " " + row.textContent).toLowerCase();
      row.hidden = !words.every(word => text.includes(word));
      shown += !row.hidden;
    }
  }
  byId("count").textContent = words.length ? shown + " rows" : "";
});

// The address holds what is shown: #concept=…&arm=… is a link to it.
const read = () => new URLSearchParams(location.hash.slice(1));
function go(changes, quiet = false) {
  const state = read();
  for (const [key, value] of Object.entries(changes)) {
    if (value === null || value === "") state.delete(key); else state.set(key, value);
  }
  const hash = "#" + state.toString();
  // Drawn at once, so that what comes next can take the focus; going back in history fires hashchange.
  if (quiet) history.replaceState(null, "", hash); else history.pushState(null, "", hash);
  render();
}

// A click on an arm shows its replies.
for (const button of document.querySelectorAll("button[data-entry]")) {
  button.addEventListener("click", () => {
    const entry = data.entries[button.dataset.entry];
    go({run: entry.run, target: entry.target, source: entry.source, arm: entry.arm, at: null, prompt: null, page: null});
    byId("samples").scrollIntoView();
  });
}

// Samples: replies of all arms to one prompt stand side by side.
const groups = [];
data.runs.forEach((run, place) => {
  const {keys, codes} = run, found = new Map();
  for (let i = 0; i < run.reply.length; i++) {
    const key = codes.task[i] + "|" + codes.target[i] + "|" + codes.concept[i] + "|" + codes.item[i];
    let group = found.get(key);
    if (!group) {
      const of = name => keys[name][codes[name][i]];
      group = {run, place, task: of("task"), target: of("target"), concept: of("concept"), item: of("item"), role: of("role"), prompt: of("prompt"), members: [], unscored: 0};
      found.set(key, group);
      groups.push(group);
    }
    group.members.push(i);
    group.unscored += run.value[i] === null;
  }
});
const text = (run, name, i) => run.keys[name][run.codes[name][i]];
// Arms stand side by side where they do the same damage, or on a grid where they have the same factor; "" is at every dose.
const dose = (run, i) => run.level[i] ? `damage ${run.level[i]}` : run.factor[i] ? `factor ${run.factor[i]}` : "";
const byNumber = (a, b) => a.localeCompare(b, undefined, {numeric: true});
const kinds = new Map(data.entries.map(e => [e.arm, e.kind]));
// Repeats with other seeds (random-0, random-1) are one arm in the tables.
const shownAs = arm => kinds.has(arm) ? arm : arm.replace(/-\d+$/, "");
const isArm = (arm, name) => arm === name || shownAs(arm) === name;
const RANK = ["unsteered", "baseline", "transfer", "control", "ceiling"];
const FIELDS = ["run", "target", "task", "concept", "arm", "source", "dose", "role"];
const fields = Object.fromEntries(FIELDS.map(name => [name, byId("by-" + name)]));

function options() {
  const found = Object.fromEntries(FIELDS.map(name => [name, new Set()]));
  for (const run of data.runs) {
    found.run.add(run.run);
    for (const name of ["target", "task", "concept", "arm", "source", "role"]) run.keys[name].forEach(value => found[name].add(value));
    run.factor.forEach((_, i) => found.dose.add(dose(run, i)));
  }
  found.source.delete("");
  found.dose.delete("");
  for (const name of FIELDS) {
    const values = [...found[name]].sort(byNumber);
    fields[name].append(el("option", {value: "", text: "all"}), ...values.map(v => el("option", {value: v, text: line(v)})));
    fields[name].parentElement.hidden = values.length < 2;
    fields[name].addEventListener("change", () => go({[name]: fields[name].value, page: null}));
  }
}
function matching(state) {
  const want = name => state.get(name) || "";
  const find = want("find").toLowerCase(), unscored = want("unscored") === "1";
  const arm = want("arm"), source = want("source"), wanted = want("dose");
  return groups.filter(group => {
    for (const name of ["target", "task", "concept", "role"]) if (want(name) && group[name] !== want(name)) return false;
    if (want("run") && group.run.run !== want("run")) return false;
    if (!find && !unscored && !arm && !source && !wanted) return true;
    const asked = find && group.prompt.toLowerCase().includes(find);
    return group.members.some(i => {
      const {run} = group;
      if (unscored && run.value[i] !== null) return false;
      if (arm && !isArm(text(run, "arm", i), arm)) return false;
      if (source && !["", source].includes(text(run, "source", i))) return false;
      if (wanted && !["", wanted].includes(dose(run, i))) return false;
      return !find || asked || run.reply[i].toLowerCase().includes(find);
    });
  });
}
let listed = [], current = null;
const link = group => ({run: data.runs.length > 1 ? group.run.run : null, target: group.target, task: group.task, concept: group.concept, prompt: group.item});
// Opening a prompt must not change which prompts are listed: what it shows stands in `at`.
const pointer = group => JSON.stringify([group.run.run, group.task, group.target, group.concept, group.item]);
function opened(state) {
  const at = state.get("at");
  if (at) return groups.find(group => pointer(group) === at) ?? null;
  if (state.get("prompt") !== null) return listed.find(group => group.item === state.get("prompt")) ?? null;
  return state.get("concept") !== null || state.get("arm") !== null ? listed[0] ?? null : null;
}
function drawList(state) {
  listed = matching(state);
  const pages = Math.max(1, Math.ceil(listed.length / PAGE));
  current = opened(state);
  const asked = state.get("page") === null && current ? Math.floor(Math.max(0, listed.indexOf(current)) / PAGE) : Number(state.get("page") ?? 1) - 1;
  const page = Math.min(Math.max(0, Math.trunc(asked) || 0), pages - 1);
  const several = name => new Set(groups.map(group => name === "run" ? group.place : group[name])).size > 1;
  const extra = ["task", "target", "run"].filter(several);
  byId("groups-head").replaceChildren(...["concept", "prompt", ...extra, "replies", "unscored"].map(h => el("th", {scope: "col", class: extra.includes(h) ? "task" : null, text: h})));
  byId("groups").replaceChildren(...listed.slice(page * PAGE, (page + 1) * PAGE).map(group => {
    const open = el("button", {type: "button", class: "link", text: line(group.prompt).slice(0, 120), click: () => { go({at: pointer(group), page: page + 1}); byId("prompt-title")?.focus(); }});
    return el("tr", {"aria-current": group === current ? "true" : null}, el("td", {text: line(group.concept)}), el("td", {}, open),
      ...extra.map(name => el("td", {class: "task", text: name === "task" ? line(group.task).replaceAll("_", " ") : line(name === "run" ? group.run.run : group[name])})),
      el("td", {text: group.members.length}), el("td", {class: group.unscored ? "unscored" : null, text: group.unscored}));
  }));
  const replies = listed.reduce((sum, group) => sum + group.members.length, 0);
  byId("pages").textContent = `page ${page + 1} of ${pages}: ${listed.length} prompts, ${replies} replies`;
  byId("back").disabled = page === 0;
  byId("forth").disabled = page + 1 === pages;
  byId("back").dataset.page = page;
  byId("forth").dataset.page = page + 2;
}
function card(group, i, state) {
  const {run} = group, arm = text(run, "arm", i), source = text(run, "source", i), reason = text(run, "reason", i);
  const value = run.value[i] === null ? el("span", {class: "unscored", text: "unscored: " + (reason || "no reason given")}) : el("span", {class: "value", text: "score " + show(run.value[i])});
  const chips = Object.entries(run.ratings).filter(([, values]) => values[i] !== null).map(([aspect, values]) => el("span", {text: `${aspect} ${show(values[i])}`}));
  const said = Object.entries(run.words).filter(([, values]) => values[i]);
  const chosen = isArm(arm, state.get("arm")) && (!state.get("source") || ["", state.get("source")].includes(source));
  return el("article", {class: "card" + (chosen ? " chosen" : ""), "data-arm": arm},
    el("header", {}, el("h3", {text: line(arm) + (source ? " from " + line(source) : "")}), value),
    el("div", {class: "chips"}, run.factor[i] ? el("span", {text: `${kinds.get(shownAs(arm)) ?? "arm"}, factor ${run.factor[i]}`}) : null, ...chips),
    el("p", {class: "text reply", text: run.reply[i] || "(an empty reply)"}),
    said.length ? el("details", {open: run.value[i] === null}, el("summary", {text: "The judge's own words"}), ...said.flatMap(([aspect, values]) => [el("h4", {text: aspect}), el("p", {class: "text", text: values[i]})])) : null);
}
function drawPrompt(state) {
  const place = byId("prompt");
  byId("browser").classList.toggle("open", current !== null);
  place.hidden = current === null;
  if (current === null) return place.replaceChildren();
  const group = current, {run} = group, origin = run.concepts[group.concept];
  const doses = [...new Set(group.members.map(i => dose(run, i)))].filter(Boolean).sort(byNumber);
  const wanted = state.get("unscored") === "1" ? group.members.find(i => run.value[i] === null && dose(run, i)) : undefined;
  const shown = doses.includes(state.get("dose")) ? state.get("dose") : wanted !== undefined ? dose(run, wanted) : doses[0];
  const rank = i => RANK.indexOf(kinds.get(shownAs(text(run, "arm", i))) ?? "transfer");
  const cards = group.members.filter(i => ["", shown].includes(dose(run, i))).sort((a, b) => rank(a) - rank(b) || text(run, "arm", a).localeCompare(text(run, "arm", b)) || a - b);
  const at = listed.indexOf(group);
  const step = (name, next) => el("button", {type: "button", class: "plain", text: name, disabled: listed[next] === undefined, click: () => turn(next - at)});
  const steps = doses.map(d => el("button", {type: "button", class: "step", "aria-pressed": String(d === shown), "data-dose": d, text: d, click: () => {
    go({at: pointer(group), dose: d});
    place.querySelector(`[data-dose="${d}"]`)?.focus();
  }}));
  const side = (title, texts) => texts.length ? [el("h4", {text: title}), ...texts.map(t => el("p", {class: "text quote", text: t}))] : [];
  place.replaceChildren(
    el("h3", {id: "prompt-title", tabindex: "-1", text: line(group.concept) + (origin ? ": " + line(origin.description) : "")}),
    el("p", {class: "soft", text: `${group.task} on ${group.target}${group.role ? `, ${group.role === "select" ? "selection" : "scored"} prompt ${group.item}` : ""}${data.runs.length > 1 ? `, run ${run.run}` : ""}`}),
    el("p", {class: "text quote", id: "prompt-text", text: group.prompt}),
    origin ? el("details", {id: "origin"}, el("summary", {text: "The texts the concept came from"}), ...side("texts that show it", origin.texts), ...side("texts of the same genre that do not", origin.negatives)) : null,
    el("div", {class: "steps"}, ...steps, step("Previous", at - 1), step("Next", at + 1), el("button", {type: "button", class: "plain", text: "Close", click: close})),
    el("div", {class: "cards"}, ...cards.map(i => card(group, i, state))));
}
function turn(by) {
  const next = listed[listed.indexOf(current) + by];
  if (next === undefined) return;
  go({at: pointer(next), page: null});
  byId("prompt-title").focus();
}
const close = () => { go({at: null, prompt: null, concept: null, arm: null}); byId("groups").querySelector("button")?.focus(); };

function render() {
  const state = read();
  if (groups.length) {
    for (const name of FIELDS) fields[name].value = state.get(name) ?? "";
    if (byId("find") !== document.activeElement) byId("find").value = state.get("find") ?? "";
    byId("unscored").checked = state.get("unscored") === "1";
    drawList(state);
    drawPrompt(state);
  }
}
if (groups.length) {
  options();
  let wait = 0;
  byId("find").addEventListener("input", () => {
    clearTimeout(wait);
    wait = setTimeout(() => go({find: byId("find").value, page: null, at: null}, true), 150);
  });
  byId("unscored").addEventListener("change", () => go({unscored: byId("unscored").checked ? "1" : null, page: null}));
  for (const name of ["back", "forth"]) byId(name).addEventListener("click", () => go({page: byId(name).dataset.page}));
}
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, select, textarea")) { if (event.key === "Escape") event.target.blur(); return; }
  if (event.key === "/") { event.preventDefault(); (groups.length ? byId("find") : filter).focus(); }
  else if (event.key === "Escape" && current) close();
  else if (event.key === "j" && current) turn(1);
  else if (event.key === "k" && current) turn(-1);
});
addEventListener("hashchange", () => { if (location.hash.includes("=") || location.hash === "") render(); });
render();
if (/[#&](concept|prompt|at)=/.test(location.hash) && current) byId("samples").scrollIntoView();
document.documentElement.dataset.ready = "yes";
