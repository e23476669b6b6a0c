"use strict";

const POLL = 200; // milliseconds between looks at the progress of a video
const MOST_WORDS = 500; // longer vocabularies are counted, not listed
const KEPT = "sdst serve"; // key of the videos of this tab in the browser's storage
const [drop, list, message] = ["drop", "videos", "message"].map((id) => document.getElementById(id));
const [stage, views, queries] = ["player", "view", "queries"].map((id) => document.getElementById(id));
const [form, answered] = ["ask", "answered"].map((id) => document.getElementById(id));
const uploads = []; // {name, tab, uploaded: promise, id and view: null before it is uploaded and after it failed}
let current = null;
let limit = Infinity; // bytes of a video

/** Parse an answer of the server, or throw its message. */
async function read(response) {
  const content = await response.json();
  if (!response.ok) throw new Error(content.error);
  return content;
}

/** An error as one line. A fetch that gets no answer raises a TypeError. */
function explain(error) {
  return error instanceof TypeError ? "The server does not answer; is sdst serve still running?" : error.message;
}

/** Run an action and show its error above the player; resolves to whether it succeeded. */
async function guarded(action) {
  message.textContent = "";
  try {
    await action();
    return true;
  } catch (error) {
    message.textContent = explain(error);
    return false;
  }
}

/** Send a file and report how far it is; resolves to the server's description of the video. */
function send(file, onprogress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.responseType = "json";
    request.upload.onprogress = (event) => onprogress(event.loaded / event.total);
    request.onload = () => {
      if (request.status === 201) resolve(request.response);
      else reject(new Error(request.response?.error));
    };
    request.onerror = () => reject(new TypeError());
    request.open("POST", "videos");
    const content = new FormData();
    content.append("video", file);
    request.send(content);
  });
}

/** Upload a file. */
async function uploadFile(file, report) {
  if (file.size > limit) {
    const advice = "cut it, or restart sdst serve with a larger --max-upload";
    throw new Error(`${file.name}: larger than ${limit / 2 ** 20} MiB; ${advice}`);
  }
  return send(file, (share) => report(`uploading ${Math.round(100 * share)}%`, share));
}

/** Add a video and follow its progress until its features are known. begin(report) resolves to {id, name} of it. */
function add(name, begin) {
  const bar = el("progress", { max: 1, value: 0 });
  const state = el("span", { class: "state" }, "uploading");
  const label = [el("span", { class: "name" }, name), state, bar];
  const tab = el("button", { type: "button", onclick: () => show(upload) }, ...label);
  const upload = { name, tab, view: null, id: null };
  const item = el("li", {}, tab);
  list.append(item);
  document.body.classList.add("has-videos");
  uploads.push(upload);
  const report = (text, share) => {
    state.textContent = text;
    bar.hidden = share === null;
    if (share !== null) bar.value = share;
  };
  const fail = (error) => {
    item.classList.add("failed");
    state.setAttribute("role", "alert");
    report(explain(error), null);
    Object.assign(upload, { view: null, id: null });
    if (current === upload) show(upload);
  };
  upload.uploaded = begin(report).then((video) => {
    upload.id = video.id;
    upload.view = new View(video);
    if (current === upload) show(upload);
  });
  upload.uploaded.then(() => follow(upload, report)).catch(fail);
  show(upload);
  return upload;
}

/** Report the progress of the encoding until it ends. */
async function follow(upload, report) {
  for (;;) {
    const status = await read(await fetch(`videos/${upload.id}`));
    if (status.state === "failed") throw new Error(status.error);
    if (status.state === "ready") {
      report(clock(status.duration), null);
      upload.view.begin(status.duration);
      return;
    }
    const share = status.clips ? status.clips_done / status.clips : 0;
    report(`encoding ${status.clips_done} of ${status.clips ?? "?"} clips`, share);
    await new Promise((resolve) => setTimeout(resolve, POLL));
  }
}

/** Switch to a video. */
function show(upload) {
  current?.view?.player.video.pause();
  current = upload;
  for (const other of uploads) other.tab.setAttribute("aria-current", String(other === upload));
  stage.replaceChildren(upload.view ? upload.view.stage : el("p", {}, "The video plays here."));
  views.replaceChildren(...(upload.view ? [upload.view.element] : []));
  upload.view?.show();
}

/** The queries in the text field. */
const typed = () => queries.value.split("\n").map((line) => line.trim()).filter(Boolean);

async function find() {
  const asked = typed();
  if (!current) throw new Error("Add a video first.");
  if (!asked.length) throw new Error("Type at least one query.");
  const begun = performance.now();
  await ask(current, asked);
  answered.textContent = `Answered in ${((performance.now() - begun) / 1000).toFixed(2)} s`;
  if (typed().join() === asked.join()) queries.value = "";
}

/** Add the answers to queries to a video, which need not be the one that is shown. */
async function ask(upload, asked) {
  await upload.uploaded;
  if (!upload.id) throw new Error(`${upload.name} cannot be used; add another video.`);
  const headers = { "content-type": "application/json" };
  const body = JSON.stringify({ video: upload.id, queries: asked });
  const answer = await read(await fetch("ground", { method: "POST", headers, body }));
  upload.view.begin(answer.duration);
  upload.view.add(answer.answers, answer.clip_seconds);
}

async function submit() {
  const button = form.querySelector(".primary");
  const hasFocus = document.activeElement === button;
  button.disabled = true;
  answered.textContent = "Finding …";
  if (!(await guarded(find))) answered.textContent = "";
  button.disabled = false;
  // So that the keyboard works on the moments at once.
  if (hasFocus) current?.view?.element.querySelector(".moments [aria-pressed=true]")?.focus({ preventScroll: true });
}

/** Keys act on the player unless they are typed into a field; Enter still presses a button. */
function press(event) {
  const isTyping = event.target === queries;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (isTyping && event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    form.requestSubmit();
  }
  if (isTyping && event.key === "Escape") queries.blur();
  if (isTyping) return;
  if (event.key === "q") {
    event.preventDefault();
    queries.focus();
    return;
  }
  const view = current?.view;
  const isControl = event.target.closest("button:not([data-rank]), a, input, summary");
  if (!view || (event.key === " " && isControl)) return;
  const { video } = view.player;
  const second = event.shiftKey ? 10 : 1;
  const action = {
    " ": () => (video.paused ? video.play().catch(() => {}) : video.pause()),
    ArrowLeft: () => view.seek(video.currentTime - second),
    ArrowRight: () => view.seek(video.currentTime + second),
    n: () => view.step(1),
    p: () => view.step(-1),
  }[event.key];
  if (!action) return;
  event.preventDefault();
  action();
}

/** Show what is known about the model, and queries that suit it. */
async function describe() {
  const model = await read(await fetch("model"));
  limit = model.max_upload_bytes;
  const { metrics, words } = model;
  const result = (name) => `${name} ${metrics.values[name]?.toFixed(2) ?? "–"}`;
  const best = metrics && `${result(metrics.selected)} on ${metrics.split}`;
  const parts = [model.name, model.dataset && `trained on ${model.dataset}`, best, `${model.backbone} features`];
  document.querySelector("#about summary").textContent = parts.filter(Boolean).join(" · ");
  const facts = {
    Commit: model.commit,
    [`Metrics on ${metrics?.split}, in %`]: metrics && Object.keys(metrics.values).map(result).join(", "),
    Clips: `${model.clip_seconds} s`,
    "Longest training video": `${model.longest_seconds} s; longer videos are answered in overlapping parts`,
    Words: words && (words.length > MOST_WORDS ? String(words.length) : `${words.length}: ${words.join(", ")}`),
  };
  const known = Object.entries(facts).filter(([, value]) => value);
  const described = known.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]);
  document.querySelector("#about dl").append(...described);
  const onclick = (query) => () => {
    queries.value = query;
    if (current) form.requestSubmit();
  };
  const chips = model.examples.map((query) => el("button", { type: "button", onclick: onclick(query) }, query));
  if (chips.length) document.getElementById("examples").append(el("span", { class: "note" }, "Examples"), ...chips);
}

function addFiles(files) {
  for (const file of files) add(file.name, (report) => uploadFile(file, report));
}

/** Bring back the videos and queries that this tab of the browser had before it was loaded again. */
async function restore() {
  for (const { id, asked } of JSON.parse(sessionStorage.getItem(KEPT) ?? "[]")) {
    const response = await fetch(`videos/${id}`);
    if (!response.ok) continue; // another server has started meanwhile
    const video = await response.json();
    const upload = add(video.name, async () => video);
    if (asked.length) await ask(upload, asked);
  }
}

function keep() {
  const asked = (upload) => upload.view.entries.map((entry) => entry.query);
  const kept = uploads.filter((upload) => upload.id).map((upload) => ({ id: upload.id, asked: asked(upload) }));
  sessionStorage.setItem(KEPT, JSON.stringify(kept));
}

const picker = drop.querySelector("input");
picker.addEventListener("change", () => {
  addFiles(picker.files);
  picker.value = ""; // so that the same file can be chosen again
});
// The whole page takes drops, because a browser would otherwise leave the page and open the file.
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
document.addEventListener("dragleave", () => drop.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  addFiles(event.dataTransfer.files);
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
document.addEventListener("keydown", press);
addEventListener("pagehide", keep);
guarded(describe);
guarded(restore);
