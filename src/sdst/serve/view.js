"use strict";

/** A time as text: "2:05.3", or "0:07" for whole seconds. */
function clock(seconds) {
  const tenths = Math.round(seconds * 10);
  const rest = ((tenths % 600) / 10).toFixed(tenths % 10 ? 1 : 0);
  return `${Math.floor(tenths / 600)}:${rest.padStart(tenths % 10 ? 4 : 2, "0")}`;
}

const TICK_UNITS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200]; // seconds

/** Up to seven times that are round on a clock. */
function clockTicks(duration) {
  const unit = TICK_UNITS.find((seconds) => duration / seconds <= 6) ?? 14400;
  return Array.from({ length: Math.floor(duration / unit) + 1 }, (_, i) => i * unit);
}

/** Distribute moments over as few rows as possible, so that none covers another; the best is in the first row. */
function lanes(moments) {
  const rows = [];
  moments.forEach((moment, rank) => {
    const free = rows.find((row) => row.every(([other]) => moment.end <= other.start || other.end <= moment.start));
    if (free) free.push([moment, rank]);
    else rows.push([[moment, rank]]);
  });
  return rows;
}

const SHOWN_MOMENTS = 5; // moments shown of each query; the model ranks many more

/** One video: its player, and one time axis with the moments and the saliency of every query. */
class View {
  /** @param video {id, name} of an upload. */
  constructor(video) {
    this.url = `videos/${encodeURIComponent(video.id)}`;
    this.player = makePlayer(`${this.url}/file`, video.name);
    this.player.video.muted = false;
    this.stage = el("div", { class: "stage" }, this.player.video);
    this.timeline = el("div", { class: "timeline", hidden: true });
    this.answers = el("div", {});
    this.element = el("div", {}, this.timeline);
    this.duration = 0; // seconds; 0 until it is known
    this.isDrawn = false;
    this.selected = null; // {query, rank}
    this.entries = []; // {query, moments, element}, the newest first
    const { video: media } = this.player;
    media.addEventListener("error", () => {
      media.replaceWith(el("p", {}, "This browser cannot play this file; finding and saving moments works."));
    });
    const follow = () => {
      this.timeline.style.setProperty("--now", Math.min(1, media.currentTime / this.duration || 0));
      if (!media.paused) requestAnimationFrame(follow);
    };
    for (const event of ["play", "seeked", "timeupdate"]) media.addEventListener(event, follow);
  }

  /** Draw the axis, once the duration is known. Thumbnails need the element to be in the document. */
  begin(duration) {
    if (this.duration) return;
    this.duration = duration;
    const thumbnails = track([], "thumbnails");
    thumbnails.setAttribute("role", "img");
    thumbnails.setAttribute("aria-label", "Frames of the video along the time axis");
    this.pointer = el("span", { class: "pointer", hidden: true });
    const scale = axis(duration, clockTicks(duration), clock);
    this.timeline.append(row("video", thumbnails), scale, this.answers);
    const note = "Saliency is scaled to its own range for each query.";
    this.timeline.append(el("div", { class: "playhead" }), this.pointer);
    this.element.append(el("p", { class: "note" }, note));
    this.timeline.addEventListener("click", (event) => this.#seekTo(event));
    this.timeline.addEventListener("pointermove", (event) => this.#showTime(event));
    this.timeline.addEventListener("pointerleave", () => (this.pointer.hidden = true));
    this.timeline.hidden = false;
    this.thumbnails = thumbnails;
    this.scale = scale.querySelector(".track");
    this.show();
  }

  /** Draw what needs a width, when the view is in the document. */
  show() {
    if (this.isDrawn || !this.thumbnails?.isConnected) return;
    this.isDrawn = true;
    drawThumbnails(this.thumbnails, `${this.url}/file`, this.duration);
  }

  /** Show the answers of a request above the others; a query that was there already is replaced. */
  add(answers, clipSeconds) {
    const added = answers.map((answer) => this.#entry(answer, clipSeconds));
    const asked = new Set(added.map((entry) => entry.query));
    this.entries = [...added, ...this.entries.filter((entry) => !asked.has(entry.query))];
    this.answers.replaceChildren(...this.entries.map((entry) => entry.element));
    this.select(added[0], 0, false);
  }

  /** Select a moment, and play it. */
  select(entry, rank, plays = true) {
    this.timeline.querySelectorAll("[aria-pressed=true]").forEach((b) => b.setAttribute("aria-pressed", "false"));
    const moment = entry?.moments[rank];
    this.selected = moment ? { entry, rank } : null;
    if (!moment) return;
    entry.element.querySelectorAll(`[data-rank="${rank}"]`).forEach((b) => b.setAttribute("aria-pressed", "true"));
    if (plays) this.player.play(moment.start, moment.end);
    else this.seek(moment.start);
  }

  /** Select the next or previous moment, across queries; step is 1 or -1. */
  step(step) {
    const all = this.entries.flatMap((entry) => entry.moments.map((_, rank) => [entry, rank]));
    if (!all.length) return;
    const { entry, rank } = this.selected ?? {};
    const now = all.findIndex(([other, at]) => other === entry && at === rank);
    const [next, at] = all[(now + step + all.length) % all.length];
    this.select(next, at);
    next.element.querySelector(`.moments [data-rank="${at}"]`).focus({ preventScroll: true });
    next.element.scrollIntoView({ block: "nearest" });
  }

  seek(seconds) {
    this.player.video.currentTime = Math.max(0, Math.min(this.duration, seconds));
  }

  #entry(answer, clipSeconds) {
    const entry = { query: answer.query, moments: answer.moments.slice(0, SHOWN_MOMENTS) };
    const choose = (rank) => () => this.select(entry, rank);
    const rows = lanes(entry.moments).map((lane, index) => {
      const bars = lane.map(([{ start, end, score }, rank]) => {
        const text = `Moment ${rank + 1}: ${clock(start)}–${clock(end)}, score ${score.toFixed(2)}`;
        const bar = moment([start, end], this.duration, "run-0", text, choose(rank));
        bar.dataset.rank = rank;
        bar.style.opacity = Math.max(0.45, score / entry.moments[0].score); // the weaker, the paler
        bar.append(String(rank + 1));
        return bar;
      });
      return row(index ? "" : "moments", track(bars));
    });
    const saliency = answer.saliency.length ? answer.saliency : null;
    const sample = { duration: this.duration, answers: [{ saliency }] };
    const [strip] = saliencyRow(sample, { runs: [{ name: "the model" }], clip_seconds: clipSeconds });
    const remove = el("button", { type: "button", class: "remove", "aria-label": "Remove this query" }, "×");
    remove.addEventListener("click", () => this.#remove(entry));
    const head = el("div", { class: "answer" }, el("h2", {}, answer.query), remove, ...warning(answer.unseen_words));
    const items = entry.moments.map((found, rank) => this.#item(found, rank, choose(rank)));
    head.append(el("ol", { class: "moments" }, ...items));
    entry.element = el("section", {}, head, ...rows, ...(strip ? [strip] : []));
    return entry;
  }

  /** A moment as a button with its times, and a link that saves it. */
  #item({ start, end, score }, rank, onclick) {
    const times = `${rank + 1} · ${clock(start)}–${clock(end)} `;
    const chosen = { "data-rank": rank, "aria-pressed": "false" };
    const button = el("button", { type: "button", ...chosen, onclick }, times, el("small", {}, score.toFixed(2)));
    const href = `${this.url}/cut?start=${start}&end=${end}`;
    const label = `Save moment ${rank + 1} as mp4`;
    const named = { title: label, "aria-label": label };
    return el("li", {}, button, el("a", { class: "download", href, download: true, ...named }, "↓"));
  }

  #remove(entry) {
    this.entries = this.entries.filter((other) => other !== entry);
    entry.element.remove();
    if (this.selected?.entry === entry) this.selected = null;
  }

  /** The time below the pointer on a track; null elsewhere. */
  #timeAt(event) {
    const { left, width } = this.scale.getBoundingClientRect();
    const share = (event.clientX - left) / width;
    return event.target.closest(".answer") || share < 0 || share > 1 ? null : share * this.duration;
  }

  #seekTo(event) {
    const time = this.#timeAt(event);
    if (time !== null && !event.target.closest("button")) this.seek(time);
  }

  #showTime(event) {
    const time = this.#timeAt(event);
    this.pointer.hidden = time === null;
    if (time === null) return;
    const box = this.timeline.getBoundingClientRect();
    this.pointer.textContent = clock(time);
    this.pointer.style.left = `${event.clientX - box.left}px`;
    this.pointer.style.top = `${event.clientY - box.top - 24}px`;
  }
}

function warning(words) {
  if (!words.length) return [];
  const quoted = words.map((word) => `“${word}”`).join(", ");
  return [el("p", { class: "unseen" }, `The model has never seen ${quoted}; its answer may mean nothing.`)];
}
