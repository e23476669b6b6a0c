"use strict";

const PORTION = 50; // runs added to the table at a time
const MOST_CHOICES = 30; // an option with more values gets no drop-down list

/** A form that filters runs, and their table, which a click on a header sorts; onchange gets the runs shown. */
function showRuns(container, data, onchange) {
  const { columns, runs } = data;
  const search = el("input", { type: "search", oninput: apply, placeholder: "part of a name or value" });
  const filters = data.filters.map((name) => filter(name, columns.indexOf(name), runs, apply)).filter(Boolean);
  const count = el("p", { role: "status" });
  const body = el("tbody", {});
  const headers = columns.map((name, column) => {
    const button = el("button", { type: "button", class: "sort", onclick: () => sortBy(column) }, name);
    return el("th", { scope: "col" }, button);
  });
  const isNumber = columns.map((_, column) => runs.some((run) => run.cells[column].length > 1));
  const more = el("button", { type: "button", class: "more", onclick: extend }, `Show ${PORTION} more`);
  let [found, sorted, isDown] = [[], null, false];

  function apply() {
    const words = search.value.toLowerCase();
    found = runs.filter(
      (run) =>
        filters.every(({ select, column }) => !select.value || `=${run.cells[column][0]}` === select.value) &&
        run.cells.some(([text]) => text.toLowerCase().includes(words)),
    );
    if (sorted !== null) found = inOrder(found, sorted, isDown);
    count.textContent = `${found.length.toLocaleString("en")} of ${runs.length.toLocaleString("en")} runs`;
    body.replaceChildren();
    extend();
    onchange(found);
  }

  function extend() {
    const shown = body.children.length;
    body.append(...found.slice(shown, shown + PORTION).map((run) => runRow(run, columns, isNumber)));
    more.hidden = body.children.length === found.length;
  }

  function sortBy(column) {
    isDown = sorted === column ? !isDown : isNumber[column]; // numbers: the largest first
    sorted = column;
    headers.forEach((header, index) => {
      if (index === column) header.setAttribute("aria-sort", isDown ? "descending" : "ascending");
      else header.removeAttribute("aria-sort");
    });
    apply();
  }

  const searchLabel = el("label", {}, el("span", {}, "search"), search);
  const labels = filters.map(({ label }) => label);
  const form = el("form", { onsubmit: (event) => event.preventDefault() }, searchLabel, ...labels);
  const head = el("thead", {}, el("tr", {}, headers[0], el("th", { scope: "col" }, "curve"), ...headers.slice(1)));
  const table = el("div", { class: "scroll", tabindex: "0" }, el("table", {}, head, body));
  container.replaceChildren(form, count, table, more);
  apply();
}

/** A drop-down list of the values of a column; null if there is nothing or too much to choose. */
function filter(name, column, runs, onchange) {
  const values = [...new Set(runs.map((run) => run.cells[column][0]))].sort(byText);
  if (values.length < 2 || values.length > MOST_CHOICES) return null;
  const choices = values.map((value) => [`=${value}`, value || "none"]);
  const [select, label] = choice(name, [["", "any"], ...choices], onchange);
  return { select, label, column };
}

const byText = (a, b) => a.localeCompare(b, "en", { numeric: true });

/** Runs sorted by a column; those without a value come last either way. */
function inOrder(runs, column, isDown) {
  const key = (run) => run.cells[column][run.cells[column].length - 1] ?? "";
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : byText(String(a), String(b)));
  const present = runs.filter((run) => key(run) !== "");
  present.sort((a, b) => compare(key(a), key(b)) * (isDown ? -1 : 1));
  return [...present, ...runs.filter((run) => key(run) === "")];
}

function runRow(run, columns, isNumber) {
  const [[name], ...cells] = run.cells;
  const named = run.link ? el("a", { href: run.link }, name) : name;
  const curve = el("td", { "data-label": "curve" }, sparkline(run));
  const row = el("tr", {}, el("th", { scope: "row" }, named), curve);
  cells.forEach(([text], index) => {
    const column = index + 1;
    const isState = columns[column] === "state";
    const attributes = { "data-label": columns[column], class: isNumber[column] ? "number" : isState && `state ${text}` };
    row.append(el("td", attributes, text, ...(isState && run.reason ? [el("span", { class: "note" }, run.reason)] : [])));
  });
  return row;
}

/** A small curve of the metric that selected the checkpoint; of a run without one, of the training loss. */
function sparkline(run) {
  const name = run.curves[run.metric] ? run.metric : Object.keys(run.curves).at(-1);
  const [steps, values] = run.curves[name] ?? [[], []];
  if (steps.length < 2) return "";
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const points = values.map((value, index) => {
    const x = (100 * (steps[index] - steps[0])) / (steps[steps.length - 1] - steps[0]);
    return `${x.toFixed(1)},${(22 - (20 * (value - low)) / (high - low || 1)).toFixed(1)}`;
  });
  const label = `${name}: ${values[0]} to ${values[values.length - 1]}`;
  const drawing = { viewBox: "0 0 100 24", preserveAspectRatio: "none", class: "spark", role: "img", "aria-label": label };
  const curve = svg("polyline", { class: `curve run-${run.colour}`, points: points.join(" ") });
  return svg("svg", drawing, svg("title", {}, label), curve);
}

const data = JSON.parse(document.getElementById("data").textContent);
const charts = document.getElementById("charts");
showRuns(document.getElementById("list"), data, (runs) => {
  charts.replaceChildren();
  showCharts(charts, runs);
});
