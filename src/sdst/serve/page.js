"use strict";

const POLL = 200; // milliseconds between looks at the progress of a video
const [drop, list, message] = ["drop", "videos", "message"].map((id) => document.getElementById(id));
const [stage, place_of_view, queries] = ["player", "view", "queries"].map((id) => document.getElementById(id));
const form = document.getElementById("ask");
const uploads = []; // {name, view, id, uploaded: promise, tab}
let current = null;
let limit = Infinity; // bytes of a video

/** Parse an answer of the server, or throw its message. */
async function read(response) {
  const content = await response.json();
  if (!response.ok) throw new Error(content.error);
  return content;
}

/** Run an action and show its error in the one place for errors. */
async function guarded(action) {
  message.textContent = "";
  try {
    return await action();
  } catch (error) {
    // A fetch that fails without an answer raises a TypeError.
    message.textContent = error instanceof TypeError ? "The server does not answer; is sdst serve still running?" : error.message;
    return null;
  }
}

/** Send a file and report how far it is; resolves to the server's description of the video. */
function send(file, onprogress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.responseType = "json";
    request.upload.onprogress = (event) => onprogress(event.loaded / event.total);
    request.onload = () => (request.status === 201 ? resolve(request.response) : reject(new Error(request.response?.error)));
    request.onerror = () => reject(new TypeError());
    request.open("POST", "videos");
    const content = new FormData();
    content.append("video", file);
    request.send(content);
  });
}

/** Upload a file and follow its progress until its features are known. */
function add(file) {
  const bar = el("progress", { max: 1, value: 0 });
  const state = el("span", { class: "state" }, "uploading");
  const tab = el("button", { type: "button", onclick: () => show(upload) }, el("span", { class: "name" }, file.name), state, bar);
  const upload = { name: file.name, tab, view: null, id: null };
  const item = el("li", {}, tab);
  list.append(item);
  document.body.classList.add("has-videos");
  uploads.push(upload);
  const report = (text, share) => {
    state.textContent = text;
    bar.hidden = share === null;
    if (share !== null) bar.value = share;
  };
  upload.uploaded = guarded(async () => {
    try {
      if (file.size > limit) throw new Error(`${file.name}: larger than ${limit / 2 ** 20} MiB; cut it, or restart sdst serve with a larger --max-upload`);
      const sent = await send(file, (share) => report(`uploading ${Math.round(100 * share)}%`, share));
      upload.id = sent.id;
      upload.view = new View(sent);
      if (current === upload) show(upload);
      return sent;
    } catch (error) {
      item.classList.add("failed");
      report("failed", null);
      throw error;
    }
  });
  upload.uploaded.then((sent) => sent && guarded(() => follow(upload, item, report)));
  show(upload);
}

async function follow(upload, item, report) {
  for (;;) {
    const status = await read(await fetch(`videos/${upload.id}`));
    if (status.state === "failed") {
      item.classList.add("failed");
      report("failed", null);
      throw new Error(status.error);
    }
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
  stage.replaceChildren(...(upload.view ? [upload.view.stage] : []));
  place_of_view.replaceChildren(...(upload.view ? [upload.view.element] : []));
  upload.view?.show();
}

async function find() {
  const asked = queries.value.split("\n").map((line) => line.trim()).filter(Boolean);
  if (!current) throw new Error("Add a video first.");
  if (!asked.length) throw new Error("Type at least one query.");
  const upload = current; // the reader may switch to another video meanwhile
  if (!(await upload.uploaded)) throw new Error(`${upload.name} was not uploaded; add it again.`);
  const body = JSON.stringify({ video: upload.id, queries: asked });
  const answer = await read(await fetch("ground", { method: "POST", headers: { "content-type": "application/json" }, body }));
  upload.view.begin(answer.duration);
  upload.view.add(answer.answers, answer.clip_seconds);
  if (queries.value.split("\n").map((line) => line.trim()).filter(Boolean).join() === asked.join()) queries.value = "";
}

async function submit() {
  const button = form.querySelector(".primary");
  const hasFocus = document.activeElement === button;
  button.disabled = true;
  await guarded(find);
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
  const parts = [model.name, model.dataset && `trained on ${model.dataset}`, `${model.backbone} features`];
  document.querySelector("#about summary").textContent = parts.filter(Boolean).join(" · ");
  const results = metrics && Object.entries(metrics.values).map(([name, value]) => `${name} ${value}`);
  const facts = {
    Commit: model.commit,
    [`Metrics on ${metrics?.split}, in %`]: results?.join(", "),
    Clips: `${model.clip_seconds} s`,
    "Longest training video": `${model.longest_seconds} s; longer videos are answered in overlapping parts`,
    Words: words && `${words.length}: ${words.join(", ")}`,
  };
  const known = Object.entries(facts).filter(([, value]) => value);
  document.querySelector("#about dl").append(...known.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
  const ask = (query) => () => {
    queries.value = query;
    if (current) form.requestSubmit();
  };
  const chips = model.examples.map((query) => el("button", { type: "button", onclick: ask(query) }, query));
  if (chips.length) document.getElementById("examples").append(el("span", { class: "note" }, "Examples"), ...chips);
}

const picker = drop.querySelector("input");
picker.addEventListener("change", () => {
  for (const file of picker.files) add(file);
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
  for (const file of event.dataTransfer.files) add(file);
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
document.addEventListener("keydown", press);
guarded(describe);
