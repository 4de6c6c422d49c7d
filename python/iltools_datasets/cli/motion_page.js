// Draws the bodies of clips on a canvas, over time. No library, nothing loaded: the page is one file.
"use strict";
const told = JSON.parse(document.getElementById("motion").textContent);
const unit = told.clips.every((clip) => clip.fps) ? "s" : "states";
const MISSING = 65535;
for (const clip of told.clips) {
  const bytes = Uint8Array.from(atob(clip.data), (letter) => letter.charCodeAt(0));
  clip.numbers = new Uint16Array(bytes.buffer);
  clip.rate = unit === "s" ? clip.fps / clip.step : 1 / clip.step;
}
const longest = Math.max(...told.clips.map((clip) => (clip.frames - 1) / clip.rate));
const [canvas, slider, shown, play, speed, names, follow, hint] =
  ["view", "time", "shown", "play", "speed", "names", "follow", "hint"].map((id) => document.getElementById(id));
const pen = canvas.getContext("2d");
const camera = { yaw: -0.9, pitch: 0.25, distance: 3.5, target: [0, 0, 0.8] };
let at = 0, playing = true, before = null, mouse = null;

// Metres of a body in a frame, or null where it is not known.
function where(clip, frame, body) {
  const first = (frame * clip.names.length + body) * 3;
  if (clip.numbers[first] === MISSING) return null;
  return [0, 1, 2].map((axis) => clip.low[axis] + clip.numbers[first + axis] * clip.scale);
}
function frameAt(clip) {
  return Math.min(clip.frames - 1, Math.max(0, Math.round(at * clip.rate)));
}
function project([x, y, z]) {
  const [dx, dy, dz] = [x - camera.target[0], y - camera.target[1], z - camera.target[2]];
  const [cy, sy, cp, sp] = [Math.cos(camera.yaw), Math.sin(camera.yaw), Math.cos(camera.pitch), Math.sin(camera.pitch)];
  const [right, away] = [-dx * sy + dy * cy, -dx * cy - dy * sy];
  const depth = camera.distance + away * cp - dz * sp;
  if (depth < 0.05) return null;
  const focus = canvas.height * 1.1;
  return [canvas.width / 2 + (right / depth) * focus, canvas.height / 2 - ((away * sp + dz * cp) / depth) * focus, depth];
}
function line(from, to) {
  const [a, b] = [project(from), project(to)];
  if (!a || !b) return;
  pen.beginPath();
  pen.moveTo(a[0], a[1]);
  pen.lineTo(b[0], b[1]);
  pen.stroke();
}
function middle() {
  const points = told.clips.flatMap((clip) => clip.names.map((_, body) => where(clip, frameAt(clip), body))).filter(Boolean);
  return points.length ? [0, 1, 2].map((axis) => points.reduce((sum, point) => sum + point[axis], 0) / points.length) : null;
}
function ground(ink) {
  pen.strokeStyle = ink;
  pen.lineWidth = 1;
  const [x, y] = [Math.round(camera.target[0]), Math.round(camera.target[1])];
  for (let step = -5; step <= 5; step++) {
    for (let part = -5; part < 5; part++) {  // in parts, for what lies behind the eye is left out
      line([x + step, y + part, 0], [x + step, y + part + 1, 0]);
      line([x + part, y + step, 0], [x + part + 1, y + step, 0]);
    }
  }
}
function draw() {
  const style = getComputedStyle(document.documentElement);
  const ink = (name) => style.getPropertyValue(name);
  const ratio = window.devicePixelRatio || 1;
  canvas.width = canvas.clientWidth * ratio;
  canvas.height = canvas.clientHeight * ratio;
  const centre = follow.checked && middle();
  if (centre) camera.target = [centre[0], centre[1], camera.target[2] * 0.9 + centre[2] * 0.1];
  ground(ink("--line"));
  pen.font = `${12 * ratio}px system-ui, sans-serif`;
  let nearest = null;
  for (const clip of told.clips) {
    const frame = frameAt(clip);
    const points = clip.names.map((_, body) => where(clip, frame, body));
    pen.strokeStyle = pen.fillStyle = clip.colour;
    pen.lineWidth = 3 * ratio;
    pen.lineCap = "round";
    for (const [from, to] of clip.links) if (points[from] && points[to]) line(points[from], points[to]);
    points.forEach((point, body) => {
      const spot = point && project(point);
      if (!spot) return;
      pen.beginPath();
      pen.arc(spot[0], spot[1], Math.max(2 * ratio, (0.02 / spot[2]) * canvas.height), 0, 7);
      pen.fill();
      if (names.checked) pen.fillText(clip.names[body], spot[0] + 6 * ratio, spot[1] - 4 * ratio);
      const off = mouse ? Math.hypot(mouse[0] * ratio - spot[0], mouse[1] * ratio - spot[1]) : Infinity;
      if (off < 14 * ratio && (!nearest || off < nearest.off)) nearest = { off, clip, body, point };
    });
  }
  hint.textContent = nearest
    ? `${nearest.clip.names[nearest.body]}: ${nearest.point.map((value) => value.toFixed(2)).join(", ")} m` : "";
  slider.value = at;
  shown.textContent = unit === "s" ? `${at.toFixed(2)} of ${longest.toFixed(2)} s` : `state ${Math.round(at)} of ${longest}`;
}
function tick(now) {
  if (playing && before !== null) {
    const passed = ((now - before) / 1000) * Number(speed.value) * (unit === "s" ? 1 : 30);
    at = at + passed > longest ? 0 : at + passed;
  }
  before = now;
  draw();
  requestAnimationFrame(tick);
}
function setPlaying(wanted) {
  playing = wanted;
  play.textContent = playing ? "Pause" : "Play";
}
function moment() {
  const found = /[#&]t=([\d.]+)/.exec(location.hash);
  if (!found) return;
  at = Math.min(longest, Number(found[1]));
  setPlaying(false);
}
play.onclick = () => setPlaying(!playing);
slider.max = longest;
slider.oninput = () => { at = Number(slider.value); setPlaying(false); };
canvas.onpointerdown = (event) => canvas.setPointerCapture(event.pointerId);
canvas.onpointermove = (event) => {
  mouse = [event.offsetX, event.offsetY];
  if (!event.buttons) return;
  if (event.shiftKey || event.buttons & 2) {
    const move = camera.distance / canvas.clientHeight;
    camera.target[0] += Math.sin(camera.yaw) * event.movementX * move;
    camera.target[1] -= Math.cos(camera.yaw) * event.movementX * move;
    camera.target[2] += event.movementY * move;
    follow.checked = false;
  } else {
    camera.yaw -= event.movementX * 0.01;
    camera.pitch = Math.min(1.5, Math.max(-1.5, camera.pitch + event.movementY * 0.01));
  }
};
canvas.oncontextmenu = (event) => event.preventDefault();
canvas.onwheel = (event) => {
  event.preventDefault();
  camera.distance = Math.min(100, Math.max(0.3, camera.distance * Math.exp(event.deltaY * 0.001)));
};
document.onkeydown = (event) => {
  if (event.target.tagName === "SELECT") return;
  if (event.key === " ") setPlaying(!playing);
  else if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
    const step = (event.key === "ArrowRight" ? 1 : -1) / Math.max(...told.clips.map((clip) => clip.rate));
    at = Math.min(longest, Math.max(0, at + step));
    setPlaying(false);
  } else return;
  event.preventDefault();
};
window.onhashchange = moment;
const start = middle();
if (start) camera.target = start;
const tall = told.clips.map((clip) => clip.names.map((_, body) => where(clip, 0, body)).filter(Boolean)).flat();
if (tall.length) camera.distance = Math.max(0.5, 2.2 * Math.max(...[0, 1, 2].map((axis) =>
  Math.max(...tall.map((point) => point[axis])) - Math.min(...tall.map((point) => point[axis])))));
setPlaying(true);
moment();
draw();  // at once: a browser that shows nothing calls for no frames
requestAnimationFrame(tick);
