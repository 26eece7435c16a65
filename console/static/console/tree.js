// The org tree on a canvas: thousands of boxes, drawn anew at every move and every 10 seconds.
"use strict";
(() => {
  const canvas = document.getElementById("tree");
  const count = document.getElementById("tree-count");
  const COLOURS = { well: "#15803d", coming: "#1d4ed8", asleep: "#6b7280", worried: "#b45309", broken: "#b91c1c" };
  const COLUMN = 96, LEVEL = 72, WIDTH = 84, HEIGHT = 34, REFRESH_MS = 10000, STEP = 60;
  const pen = canvas.getContext("2d");
  let boxes = [], scale = 1, left = 0, top = 0, isFitted = false, drag = null;

  document.querySelectorAll("[data-kind]").forEach((one) => one.setAttribute("fill", COLOURS[one.dataset.kind]));

  const isDark = () => document.documentElement.classList.contains("dark");
  const place = (box) => [box[4] * COLUMN * scale + left, box[5] * LEVEL * scale + top];

  function fit() {
    const widest = Math.max(1, ...boxes.map((one) => one[4] + 1)), deepest = Math.max(1, ...boxes.map((one) => one[5] + 1));
    scale = Math.min(1.5, canvas.clientWidth / (widest * COLUMN + 24), canvas.clientHeight / (deepest * LEVEL + 24));
    left = (canvas.clientWidth - (widest * COLUMN - COLUMN + WIDTH) * scale) / 2;
    top = 12;
  }

  function draw() {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * ratio;
    canvas.height = canvas.clientHeight * ratio;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
    pen.strokeStyle = isDark() ? "#4b5563" : "#9ca3af";
    pen.beginPath();
    for (const box of boxes) {
      if (box[6] < 0) continue;
      const [x, y] = place(box), [px, py] = place(boxes[box[6]]), middle = (WIDTH * scale) / 2;
      pen.moveTo(px + middle, py + HEIGHT * scale);
      pen.lineTo(x + middle, y);
    }
    pen.stroke();
    pen.font = `${Math.max(10, 12 * scale)}px sans-serif`;
    for (const box of boxes) {
      const [x, y] = place(box);
      if (x > canvas.clientWidth || y > canvas.clientHeight || x + WIDTH * scale < 0 || y + HEIGHT * scale < 0) continue;
      pen.fillStyle = COLOURS[box[3]];
      pen.fillRect(x, y, Math.max(2, WIDTH * scale), Math.max(2, HEIGHT * scale));
      if (scale < 0.6) continue;
      pen.fillStyle = "#ffffff";
      pen.fillText(box[1].slice(0, 13), x + 5 * scale, y + 15 * scale, (WIDTH - 8) * scale);
      pen.fillText(box[2], x + 5 * scale, y + 29 * scale, (WIDTH - 8) * scale);
    }
    canvas.dataset.drawn = boxes.length;
  }

  function zoom(by, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
    const wanted = Math.min(4, Math.max(0.005, scale * by)), real = wanted / scale;
    left = x - (x - left) * real;
    top = y - (y - top) * real;
    scale = wanted;
    draw();
  }

  function move(dx, dy) {
    left += dx;
    top += dy;
    draw();
  }

  function boxAt(x, y) {
    return boxes.find((one) => {
      const [bx, by] = place(one);
      return x >= bx && y >= by && x <= bx + Math.max(2, WIDTH * scale) && y <= by + Math.max(2, HEIGHT * scale);
    });
  }

  async function load() {
    try {
      const answer = await fetch(canvas.dataset.url, { headers: { Accept: "application/json" } });
      if (answer.redirected) return location.reload(); // logged out meanwhile
      if (!answer.ok) throw new Error(answer.status);
      const told = await answer.json();
      boxes = told.boxes;
      const broken = boxes.filter((one) => one[3] === "broken").length;
      count.textContent = `${boxes.length} workspaces, ${broken} broken` + (told.is_cut ? "; the others are in the list" : "");
      if (!isFitted) fit();
      isFitted = true;
      draw();
    } catch {
      count.textContent = "The server does not answer; this is what it said last.";
    }
    setTimeout(load, REFRESH_MS);
  }

  canvas.addEventListener("pointerdown", (event) => {
    drag = { x: event.offsetX, y: event.offsetY, moved: 0 };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (drag === null) return;
    const dx = event.offsetX - drag.x, dy = event.offsetY - drag.y;
    drag = { x: event.offsetX, y: event.offsetY, moved: drag.moved + Math.abs(dx) + Math.abs(dy) };
    move(dx, dy);
  });
  canvas.addEventListener("pointerup", (event) => {
    const box = drag !== null && drag.moved < 4 ? boxAt(event.offsetX, event.offsetY) : undefined;
    drag = null;
    if (box) location.href = canvas.dataset.page.replace("ID", box[0]);
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, event.offsetX, event.offsetY);
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const keys = {
      ArrowLeft: () => move(STEP, 0), ArrowRight: () => move(-STEP, 0), ArrowUp: () => move(0, STEP), ArrowDown: () => move(0, -STEP),
      "+": () => zoom(1.2), "=": () => zoom(1.2), "-": () => zoom(1 / 1.2), 0: () => { fit(); draw(); },
    };
    if (!(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  });
  window.addEventListener("resize", draw);
  new MutationObserver(draw).observe(document.documentElement, { attributes: true, attributeFilter: ["class"] });
  load();
})();
