
"use strict";
// Frames are callers first. What a name holds is text, and never anything else.
const ROW = 18;
const LEAST_PIXELS = 0.5;
const frames = JSON.parse(document.getElementById("frames").textContent);
const graph = document.getElementById("graph");
const tooltip = document.getElementById("tooltip");
const search = document.getElementById("search");
const found = document.getElementById("found");
let zoomed = 0;
let wanted = "";

function isFound(frame) {
  return wanted !== "" && frame.name.toLowerCase().includes(wanted);
}

function callersOf(index) {
  const callers = new Set();
  while (index !== 0) {
    index = frames[index].parent;
    callers.add(index);
  }
  return callers;
}

function draw() {
  const view = frames[zoomed];
  const callers = callersOf(zoomed);
  const least = LEAST_PIXELS / Math.max(1, graph.clientWidth);
  const drawn = [];
  let deepest = 0;
  frames.forEach((frame, index) => {
    const isCaller = callers.has(index);
    let left = 0;
    let width = 1;
    if (!isCaller) {
      left = (frame.left - view.left) / view.width;
      width = frame.width / view.width;
      // a share of rounding error, so that a neighbour's edge is not inside
      const isInside = left > -1e-9 && left + width < 1 + 1e-9;
      if (!isInside || frame.depth < view.depth || width < least) return;
    }
    const element = document.createElement("button");
    element.type = "button";
    element.className = "frame";
    element.classList.toggle("above", isCaller);
    element.classList.toggle("found", isFound(frame));
    element.textContent = frame.name;
    element.dataset.index = String(index);
    element.style.left = `${100 * left}%`;
    element.style.width = `${100 * width}%`;
    element.style.top = `${ROW * frame.depth}px`;
    element.style.background = frame.colour;
    drawn.push(element);
    deepest = Math.max(deepest, frame.depth);
  });
  graph.replaceChildren(...drawn);
  graph.style.height = `${ROW * (deepest + 1)}px`;
}

function tellFound() {
  if (wanted === "") {
    found.textContent = "";
    return;
  }
  // a frame below one that was found is in its width already
  const inside = new Array(frames.length).fill(false);
  let count = 0;
  let share = 0;
  frames.forEach((frame, index) => {
    const isBelow = index !== 0 && inside[frame.parent];
    inside[index] = isBelow || isFound(frame);
    if (isFound(frame)) count += 1;
    if (inside[index] && !isBelow) share += frame.width;
  });
  found.textContent = `${count} frames found, ${(100 * share).toFixed(2)} % of all`;
}

function frameAt(event) {
  const element = event.target instanceof Element ? event.target.closest(".frame") : null;
  return element === null ? null : Number(element.dataset.index);
}

function zoom(index) {
  zoomed = index;
  tooltip.hidden = true;
  draw();
}

function tell(index, x, y) {
  const frame = frames[index];
  tooltip.textContent = [frame.name, ...frame.figures].join("\n");
  tooltip.hidden = false;
  const box = tooltip.getBoundingClientRect();
  tooltip.style.left = `${Math.max(0, Math.min(x + 12, window.innerWidth - box.width))}px`;
  const isRoomBelow = y + 20 + box.height < window.innerHeight;
  tooltip.style.top = `${isRoomBelow ? y + 20 : Math.max(0, y - box.height - 8)}px`;
}

graph.addEventListener("click", (event) => {
  const index = frameAt(event);
  if (index === null) return;
  zoom(index);
  // the button that was pressed is gone: keys go on from its successor
  graph.querySelector(`[data-index="${index}"]`).focus({ preventScroll: true });
});
graph.addEventListener("mousemove", (event) => {
  const index = frameAt(event);
  if (index === null) tooltip.hidden = true;
  else tell(index, event.clientX, event.clientY);
});
graph.addEventListener("focusin", (event) => {
  const index = frameAt(event);
  if (index === null) return;
  const box = event.target.getBoundingClientRect();
  tell(index, box.left, box.top);
});
graph.addEventListener("mouseleave", () => { tooltip.hidden = true; });
document.getElementById("reset").addEventListener("click", () => zoom(0));
search.addEventListener("input", () => {
  wanted = search.value.trim().toLowerCase();
  tellFound();
  draw();
});
window.addEventListener("resize", draw);
draw();
