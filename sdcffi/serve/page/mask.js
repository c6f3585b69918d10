// The input image, and the mask that is painted on it. Both are fitted to the size of the result, so that what the
// page shows is what the server gets. Strokes are kept in pixels of the image, so another size does not move them.

const TINT = "rgb(255 64 129 / 0.62)";
const MULTIPLE = 64; // of the sides, which suits every model, when an image is too large to be used as it is
const STEP = 0.02; // of an arrow key, as a part of the longer side

const canvasOf = (width, height) => Object.assign(document.createElement("canvas"), { width, height });

export class InputImage extends EventTarget {
  #bitmap = null;
  #history = [[]]; // of lists of strokes; the last one is shown

  get given() { return this.#bitmap !== null; }
  get masked() { return this.#strokes.some((stroke) => !stroke.erases); }
  get #strokes() { return this.#history.at(-1); }
  get sides() { return [this.#bitmap.width, this.#bitmap.height]; }

  /** Take an image file; transparent parts become white. */
  async set(blob) {
    this.#bitmap = await createImageBitmap(blob).catch(() => {
      throw new Error("This file is no image that the browser can read. Choose a PNG, JPEG or WebP.");
    });
    this.#restart();
  }

  remove() {
    this.#bitmap = null;
    this.#restart();
  }

  /** The size of the result for this image: its own, or less if it has far more pixels than `pixels`. */
  goodSize(pixels) {
    const [width, height] = this.sides;
    const scale = Math.sqrt(pixels / (width * height));
    if (scale > 0.9) return [width, height];
    return [width, height].map((side) => Math.max(MULTIPLE, Math.round((side * scale) / MULTIPLE) * MULTIPLE));
  }

  #changed() { this.dispatchEvent(new Event("change")); }

  #restart() {
    this.#history = [[]];
    this.#changed();
  }

  #add(strokes) {
    this.#history.push(strokes);
    this.#changed();
  }

  begin(point, size, erases) { this.#add([...this.#strokes, { points: [point], size, erases }]); }

  extend(point) {
    this.#strokes.at(-1).points.push(point);
    this.#changed();
  }

  clear() { if (this.#strokes.length) this.#add([]); }

  undo() {
    if (this.#history.length > 1) this.#history.pop();
    this.#changed();
  }

  /** Scale and offsets that fill a width and height with the image, cut equally on both sides. */
  #fit(width, height) {
    const [ownWidth, ownHeight] = this.sides;
    const scale = Math.max(width / ownWidth, height / ownHeight);
    return [scale, (width - ownWidth * scale) / 2, (height - ownHeight * scale) / 2];
  }

  /** The point of the image that is at a point of the result. */
  pointAt(x, y, width, height) {
    const [scale, left, top] = this.#fit(width, height);
    return [(x - left) / scale, (y - top) / scale];
  }

  scale(width, height) { return this.#fit(width, height)[0]; }

  image(width, height) {
    const canvas = canvasOf(width, height);
    const context = canvas.getContext("2d");
    const [scale, left, top] = this.#fit(width, height);
    context.fillStyle = "white";
    context.fillRect(0, 0, width, height);
    context.imageSmoothingQuality = "high";
    context.drawImage(this.#bitmap, left, top, this.sides[0] * scale, this.sides[1] * scale);
    return canvas;
  }

  #marks(width, height) {
    const canvas = canvasOf(width, height);
    const context = canvas.getContext("2d");
    const [scale, left, top] = this.#fit(width, height);
    context.setTransform(scale, 0, 0, scale, left, top);
    context.lineCap = context.lineJoin = "round";
    context.strokeStyle = context.fillStyle = "white";
    for (const { points, size, erases } of this.#strokes) {
      context.globalCompositeOperation = erases ? "destination-out" : "source-over";
      context.lineWidth = size;
      context.beginPath();
      context.arc(...points[0], size / 2, 0, 2 * Math.PI);
      context.fill();
      context.beginPath();
      for (const point of points) context.lineTo(...point);
      context.stroke();
    }
    return canvas;
  }

  /** White is generated anew, black is kept. */
  mask(width, height) {
    const canvas = canvasOf(width, height);
    const context = canvas.getContext("2d");
    context.fillRect(0, 0, width, height);
    context.drawImage(this.#marks(width, height), 0, 0);
    return canvas;
  }

  /** Draw image and mask on a canvas, which gets the size. */
  show(canvas, width, height) {
    Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    context.drawImage(this.image(width, height), 0, 0);
    const marks = this.#marks(width, height);
    const tint = marks.getContext("2d");
    tint.setTransform(1, 0, 0, 1, 0, 0);
    tint.globalCompositeOperation = "source-in";
    tint.fillStyle = TINT;
    tint.fillRect(0, 0, width, height);
    context.drawImage(marks, 0, 0);
  }
}

/** Let the user paint on a canvas with mouse, pen, finger or keys. `size` returns width and height of the result. */
export function makePaintable({ canvas, brush, erases, input, size }) {
  let cursor = null; // in pixels of the result
  let painting = false;
  let due = false;

  const draw = () => {
    due = false;
    if (!input.given || !canvas.checkVisibility()) return;
    const [width, height] = size();
    canvas.style.setProperty("--ratio", width / height);
    const scale = Math.max(1, (canvas.clientWidth * devicePixelRatio) / width); // a small image is shown enlarged
    input.show(canvas, Math.round(width * scale), Math.round(height * scale));
    if (!cursor) return;
    const context = canvas.getContext("2d");
    for (const [colour, thickness] of [["black", 3], ["white", 1.5]]) {
      context.beginPath();
      context.arc(cursor[0] * scale, cursor[1] * scale, (diameter() / 2) * scale, 0, 2 * Math.PI);
      context.strokeStyle = colour;
      context.lineWidth = (thickness * canvas.width) / canvas.clientWidth;
      context.stroke();
    }
  };
  const drawSoon = () => {
    if (!due) requestAnimationFrame(draw);
    due = true;
  };
  const diameter = () => Math.max(1, (Math.max(...size()) * brush.valueAsNumber) / 200);
  const paint = (goesOn) => {
    const point = input.pointAt(...cursor, ...size());
    if (goesOn) input.extend(point);
    else input.begin(point, diameter() / input.scale(...size()), erases());
  };
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    const [width, height] = size();
    return [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
  };

  canvas.addEventListener("pointerdown", (event) => {
    if (!event.isPrimary || event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    cursor = at(event);
    painting = true;
    paint(false);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!event.isPrimary) return;
    for (const part of event.getCoalescedEvents?.() ?? []) {
      cursor = at(part);
      if (painting) paint(true);
    }
    cursor = at(event);
    if (painting) paint(true);
    drawSoon();
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { painting = false; });
  canvas.addEventListener("pointerleave", () => {
    cursor = null;
    drawSoon();
  });
  canvas.addEventListener("keydown", (event) => {
    const [width, height] = size();
    const far = Math.max(width, height) * STEP;
    const move = { ArrowLeft: [-far, 0], ArrowRight: [far, 0], ArrowUp: [0, -far], ArrowDown: [0, far] }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey || !(move || event.key === " ")) return;
    event.preventDefault();
    cursor ??= [width / 2, height / 2];
    if (move) {
      cursor = [Math.min(width, Math.max(0, cursor[0] + move[0])), Math.min(height, Math.max(0, cursor[1] + move[1]))];
      if (painting) paint(true);
    } else if (!event.repeat) {
      painting = true;
      paint(false);
    }
    drawSoon();
  });
  canvas.addEventListener("keyup", (event) => { if (event.key === " ") painting = false; });
  canvas.addEventListener("focus", drawSoon);
  canvas.addEventListener("blur", () => {
    cursor = null;
    painting = false;
    drawSoon();
  });
  input.addEventListener("change", drawSoon);
  brush.addEventListener("input", drawSoon);
  return drawSoon;
}
