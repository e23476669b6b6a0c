"use strict";

const PAGE = 40; // queries added to the list at a time

/** A form that filters and sorts queries, and the list of queries, each of which opens its details. */
function showExplorer(container, data) {
  const search = el("input", { type: "search", oninput: apply, placeholder: "words in the query" });
  const [kind, kindLabel] = choice("error type", kindChoices(data), apply);
  const [group, groupLabel] = choice("moment length", [["", "any"], ...Object.entries(data.groups)], apply);
  const [order, orderLabel] = choice("order", orderChoices(data.runs), apply);
  const [outcome, outcomeLabel] = choice("first prediction", outcomeChoices(data.runs), apply);
  const count = el("p", { role: "status" });
  const list = el("ol", { class: "samples" });
  const more = el("button", { type: "button", class: "more", onclick: extend }, `Show ${PAGE} more`);
  let found = [];

  function apply() {
    const words = search.value.toLowerCase();
    const wanted = (sample) =>
      sample.query.toLowerCase().includes(words) &&
      isOfKind(sample, kind.value) &&
      (!group.value || sample.groups.includes(group.value)) &&
      (!outcome.value || outcome.value === sample.answers.map(isRight).join());
    found = data.samples.filter(wanted);
    const key = orderKey(order.value);
    if (key) found.sort((a, b) => key(a) - key(b));
    const total = data.samples.length === 1 ? "1 query" : `${data.samples.length.toLocaleString("en")} queries`;
    count.textContent = `${found.length.toLocaleString("en")} of ${total}`;
    list.replaceChildren();
    extend();
  }

  function extend() {
    const next = found.slice(list.children.length, list.children.length + PAGE);
    list.append(...next.map((sample) => listItem(sample, data)));
    more.hidden = list.children.length === found.length;
  }

  const searchLabel = el("label", {}, el("span", {}, "query"), search);
  const labels = [searchLabel, kindLabel, groupLabel, ...(data.runs.length > 1 ? [outcomeLabel] : []), orderLabel];
  const form = el("form", { onsubmit: (event) => event.preventDefault() }, ...labels);
  container.replaceChildren(form, count, list, more);
  apply();
}

const firstIou = (answer) => answer.ious[0] ?? 0;
const isRight = (answer) => answer.kinds.includes("right");

/** Sort key of a query; none for the order of the annotations. */
function orderKey(order) {
  const index = Number(order.slice(-1));
  if (order.startsWith("worst")) return (sample) => firstIou(sample.answers[index]);
  if (order.startsWith("ahead")) return (sample) => -lead(sample, index);
  return null;
}

/** IoU of a run's first prediction minus that of the best other run. */
function lead(sample, index) {
  const others = sample.answers.filter((_, other) => other !== index).map(firstIou);
  return firstIou(sample.answers[index]) - Math.max(...others);
}

function orderChoices(runs) {
  const worst = runs.map((run, index) => [`worst${index}`, `${run.name}: lowest IoU first`]);
  const ahead = runs.map((run, index) => [`ahead${index}`, `${run.name}: largest lead first`]);
  return [["", "annotation order"], ...worst, ...(runs.length > 1 ? ahead : [])];
}

/** The value of a choice says for each run whether its first prediction is right. */
function outcomeChoices(runs) {
  const outcome = (isOne) => runs.map((_, index) => isOne(index)).join();
  return [
    ["", "any"],
    [outcome(() => true), runs.length === 2 ? "both right" : "all right"],
    ...runs.map((run, right) => [outcome((index) => index === right), `only ${run.name} right`]),
    [outcome(() => false), runs.length === 2 ? "neither right" : "none right"],
  ];
}

/** The value of a choice has the run's index before the kind, as in "0:too short". */
function kindChoices(data) {
  const groups = data.runs.map((run, index) => [
    run.name,
    data.kinds.map((kind) => {
      const value = `${index}:${kind}`;
      return [value, `${kind} (${data.samples.filter((sample) => isOfKind(sample, value)).length})`];
    }),
  ]);
  return [["", "any"], ...(groups.length === 1 ? groups[0][1] : groups)];
}

function isOfKind(sample, value) {
  const [index, kind] = value.split(":");
  return !value || sample.answers[index].kinds.includes(kind);
}

function listItem(sample, data) {
  const item = el("li", {});
  const verdicts = sample.answers.map((answer, index) => verdict(answer, data.runs[index], index));
  const button = el(
    "button",
    { type: "button", class: "sample", "aria-expanded": "false", onclick: toggle },
    el("span", { class: "query" }, sample.query),
    overview(sample),
    el("span", { class: "verdicts" }, ...verdicts),
  );
  function toggle() {
    const isOpen = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!isOpen));
    if (isOpen) item.lastChild.remove();
    else item.append(showSample(sample, data));
  }
  item.append(button);
  return item;
}

/** A small preview: true moments above the first prediction of each run. */
function overview(sample) {
  const bar = ([start, end], className) => place(el("span", { class: className }), start, end, sample.duration);
  const line = (windows, className) =>
    el("span", { class: "line" }, ...windows.map((window) => bar(window, className)));
  const lines = sample.answers.map((answer, index) => line(answer.windows.slice(0, 1), `run-${index}`));
  return el("span", { class: "overview", "aria-hidden": "true" }, line(sample.moments ?? [], "true"), ...lines);
}

function verdict(answer, run, index) {
  const iou = answer.ious.length ? ` ${answer.ious[0].toFixed(2)}` : "";
  const mark = answer.kinds.length ? `${isRight(answer) ? "✓" : "✗"} ` : "";
  const text = mark + (answer.kinds.join(", ") || "no labels") + iou;
  const title = `${run.name}: error types, and IoU of the first prediction`;
  return el("span", { class: `verdict run-${index}${isRight(answer) ? " right" : ""}`, title }, text);
}

const data = JSON.parse(document.getElementById("data").textContent);
showCharts(document.getElementById("charts"), data.runs);
showExplorer(document.getElementById("explorer"), { ...data, runs: data.runs.slice(0, data.compared) });
