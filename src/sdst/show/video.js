"use strict";

const THUMBNAIL_HEIGHT = 56; // pixels, must match page.css

/** A video player; play(start, end) plays one moment. */
function makePlayer(url, name) {
  const attributes = { src: url, controls: true, preload: "metadata", playsinline: true };
  const video = el("video", { ...attributes, "aria-label": `Video ${name}` });
  video.muted = true;
  let stopAt = Infinity;
  video.addEventListener("timeupdate", () => {
    if (video.currentTime >= stopAt) {
      stopAt = Infinity;
      video.pause();
    }
  });
  const play = (start, end) => {
    stopAt = end;
    video.currentTime = start;
    video.play().catch(() => {}); // if the browser refuses to play from a script, it has still jumped to start
  };
  return { video, play };
}

/** Fill a track with frames from the middle of equal parts of a video file. */
async function drawThumbnails(track, url, duration) {
  const video = el("video", { src: url, preload: "auto", playsinline: true });
  video.muted = true;
  try {
    await once(video, "loadeddata");
    const width = Math.round((THUMBNAIL_HEIGHT * video.videoWidth) / video.videoHeight);
    const count = Math.max(1, Math.floor(track.clientWidth / width));
    for (let i = 0; i < count && track.isConnected; i++) {
      const time = ((i + 0.5) * duration) / count;
      video.currentTime = Math.min(time, video.duration);
      await once(video, "seeked");
      const canvas = el("canvas", { width, height: THUMBNAIL_HEIGHT });
      canvas.getContext("2d").drawImage(video, 0, 0, width, THUMBNAIL_HEIGHT);
      canvas.style.left = `${(100 * time) / duration}%`;
      track.append(canvas);
    }
  } catch {
    track.replaceChildren(el("p", { class: "note" }, "This browser cannot play the video file."));
  }
  video.removeAttribute("src"); // otherwise the browser keeps the file open
  video.load();
}

function once(video, event) {
  return new Promise((resolve, reject) => {
    video.addEventListener(event, resolve, { once: true });
    video.addEventListener("error", reject, { once: true });
  });
}
