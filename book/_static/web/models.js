/* Runs the models of edgelab.web.models on the reader's picture. Nothing leaves the browser, nothing comes from another host. */
"use strict";

(() => {
  const SIDE = 32;
  const LARGEST = 4096; // pixels a side; more than some phones' canvases hold
  const SHOWN = 5;
  const WARM_UP = 20;
  const SAMPLES = 31;
  const SURE = 10; // the 10th smallest and 10th largest of 31 hold their median with 97 % (binomial)
  const SAMPLE_MS = 6;
  const here = document.currentScript.src;
  const app = document.getElementById("edgelab-models");
  const given = JSON.parse(document.getElementById("edgelab-models-data").textContent);

  /* Of one axis: for each of SIDE new pixels, the old ones it covers and by how many SIDE-ths of a pixel. */
  function overlaps(size) {
    return Array.from({ length: SIDE }, (_, i) => {
      const first = Math.floor((i * size) / SIDE);
      const last = Math.ceil(((i + 1) * size) / SIDE) - 1;
      const shares = [];
      for (let p = first; p <= last; p++) {
        shares.push(Math.min((i + 1) * size, (p + 1) * SIDE) - Math.max(i * size, p * SIDE));
      }
      return { first, shares };
    });
  }

  /* Square RGBA bytes (size * size * 4) to RGB bytes (SIDE * SIDE * 3): the mean over each new pixel's area, rounded half
     up, in whole numbers. The twin is to_pixels in edgelab/web/pixels.py. */
  function toPixels(rgba, size) {
    const axis = overlaps(size);
    const rows = new Float64Array(size * SIDE * 3); // every old row, already narrowed
    for (let y = 0; y < size; y++) {
      axis.forEach(({ first, shares }, j) => {
        for (let c = 0; c < 3; c++) {
          let sum = 0;
          for (let k = 0; k < shares.length; k++) sum += shares[k] * rgba[(y * size + first + k) * 4 + c];
          rows[(y * SIDE + j) * 3 + c] = sum;
        }
      });
    }
    const pixels = new Uint8Array(SIDE * SIDE * 3);
    const area = size * size;
    axis.forEach(({ first, shares }, i) => {
      for (let place = 0; place < SIDE * 3; place++) {
        let sum = 0;
        for (let k = 0; k < shares.length; k++) sum += shares[k] * rows[(first + k) * SIDE * 3 + place];
        pixels[i * SIDE * 3 + place] = Math.floor((2 * sum + area) / (2 * area));
      }
    });
    return pixels;
  }

  /* RGB bytes to the input of the networks: (pixel - 128) / 128, channel after channel. */
  function toInput(pixels) {
    const input = new Float32Array(pixels.length);
    const plane = SIDE * SIDE;
    for (let place = 0; place < plane; place++) {
      for (let c = 0; c < 3; c++) input[c * plane + place] = (pixels[place * 3 + c] - 128) / 128;
    }
    return input;
  }

  function softmax(logits) {
    const most = Math.max(...logits);
    const powers = Array.from(logits, (value) => Math.exp(value - most));
    const total = powers.reduce((sum, value) => sum + value, 0);
    return powers.map((value) => value / total);
  }

  const ordered = (values) => [...values].sort((a, b) => a - b);

  function median(values) {
    const sorted = ordered(values);
    const middle = sorted.length >> 1;
    return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
  }

  const pause = (ms = 0) => new Promise((resolve) => setTimeout(resolve, ms));
  const digits = (value) => (value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2));
  const percent = (share) => `${(100 * share).toFixed(1)} %`;

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else if (value !== false) made.setAttribute(key, value === true ? "" : value);
    }
    made.append(...children);
    return made;
  }

  /* What the reader sees. */

  const status = element("p", { class: "edgelab-status", role: "status" });
  const progress = element("progress", { max: 1, value: 0, hidden: true, "aria-label": "Loading" });
  const seen = element("canvas", { width: SIDE, height: SIDE, role: "img", "aria-label": "No picture yet" });
  const taken = element("canvas", { width: 320, height: 320, role: "img", "aria-label": "No picture yet" });
  const video = element("video", { playsinline: true, muted: true });
  const cards = given.models.map(card);

  function card(model, index) {
    const bars = element("ol", { class: "edgelab-bars", "aria-label": `Most probable classes, ${model.label}` });
    for (let k = 0; k < SHOWN; k++) {
      const bar = element("span", { class: "edgelab-bar", "aria-hidden": "true" }, element("span"));
      bars.append(element("li", {}, element("span", { class: "name" }, "\u2013"), bar, element("span", { class: "value" })));
    }
    const base = given.models[0];
    const interval = `${(100 * model.accuracy_low).toFixed(1)} to ${(100 * model.accuracy_high).toFixed(1)}, ${model.data}`;
    const latency = fact("not measured yet", "");
    latency.classList.add("edgelab-latency");
    const facts = element("dl", {});
    const against = (column) => (index ? compared(base[column] / model[column], "less", "more") : "");
    facts.append(element("dt", {}, "File"), fact(`${model.bytes.toLocaleString("en")} bytes`, against("bytes")));
    facts.append(element("dt", {}, "Gzipped"), fact(`${model.gzip_bytes.toLocaleString("en")} bytes`, against("gzip_bytes")));
    facts.append(element("dt", {}, "MACs"), fact(`${(model.macs / 1e6).toFixed(1)} million`, against("macs")));
    facts.append(element("dt", {}, "Accuracy"), fact(percent(model.accuracy), interval));
    facts.append(element("dt", {}, "Latency here"), latency);
    const answer = element("p", { class: "edgelab-answer" }, "\u2013");
    const made = element("section", { class: "edgelab-card", "data-file": model.file, "aria-label": model.label });
    made.append(element("h3", {}, model.label), element("p", { class: "about" }, model.about), answer, bars, facts);
    return { made, bars, latency, answer };
  }

  /* A value and below it what is to be said about it, a line each, so that the cards stay level. */
  function fact(value, about) {
    return element("dd", {}, element("span", {}, value), element("small", {}, about || "\u00a0"));
  }

  /* Such as "3.16x less" for a ratio of the first model's value to another's. */
  function compared(value, better, worse) {
    if (digits(value) === "1.00") return "the same";
    return value > 1 ? `${digits(value)}x ${better}` : `${digits(1 / value)}x ${worse}`;
  }

  function show(logits) {
    const answers = given.models.map((model, index) => {
      const shares = softmax(logits[model.file]);
      const order = shares.map((_, k) => k).sort((a, b) => shares[b] - shares[a]);
      cards[index].answer.textContent = given.classes[order[0]];
      [...cards[index].bars.children].forEach((line, place) => {
        const [name, bar, value] = line.children;
        name.textContent = given.classes[order[place]];
        bar.firstChild.style.width = `${100 * shares[order[place]]}%`;
        value.textContent = percent(shares[order[place]]);
      });
      return `${model.label} says ${given.classes[order[0]]}, ${percent(shares[order[0]])}`;
    });
    status.textContent = `${answers.join("; ")}.`;
  }

  function showLatency(times) {
    times.forEach((values, index) => {
      const middle = median(values);
      const sorted = ordered(values);
      const range = `${digits(sorted[SURE - 1])} to ${digits(sorted[SAMPLES - SURE])}`;
      const [value, about] = cards[index].latency.children;
      value.textContent = `${digits(middle)} ms (${range})`;
      about.textContent = index ? faster(times[0], values) : "\u00a0";
      cards[index].latency.dataset.ms = middle;
    });
  }

  /* How much faster the second is than the first, from samples taken in pairs, or that this cannot be told. */
  function faster(first, second) {
    const ratios = ordered(first.map((value, k) => value / second[k]));
    const [low, high] = [ratios[SURE - 1], ratios[SAMPLES - SURE]];
    const { label } = given.models[0];
    if (low <= 1 && high >= 1) {
      return `${digits(median(ratios))}x as fast (${digits(low)} to ${digits(high)}): cannot be told from ${label}`;
    }
    const [least, most] = low > 1 ? [low, high] : [1 / high, 1 / low];
    return `${compared(median(ratios), "faster", "slower")} (${digits(least)} to ${digits(most)})`;
  }

  /* Pictures. */

  /* The largest square in the middle, on white where it is transparent, as RGBA bytes. */
  function square(source, width, height) {
    const size = Math.min(width, height);
    const side = Math.min(size, LARGEST);
    const canvas = element("canvas", { width: side, height: side });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.imageSmoothingEnabled = size !== side;
    context.fillStyle = "#fff";
    context.fillRect(0, 0, side, side);
    const left = (width - size) >> 1;
    const top = (height - size) >> 1;
    context.drawImage(source, left, top, size, size, 0, 0, side, side);
    return { canvas, rgba: context.getImageData(0, 0, side, side).data, side };
  }

  function look(source, width, height, name) {
    const { canvas, rgba, side } = square(source, width, height);
    const pixels = toPixels(rgba, side);
    const context = taken.getContext("2d");
    context.drawImage(canvas, 0, 0, taken.width, taken.height);
    const shown = new ImageData(SIDE, SIDE);
    for (let place = 0; place < SIDE * SIDE; place++) {
      for (let c = 0; c < 3; c++) shown.data[place * 4 + c] = pixels[place * 3 + c];
      shown.data[place * 4 + 3] = 255;
    }
    seen.getContext("2d").putImageData(shown, 0, 0);
    taken.setAttribute("aria-label", `The square taken of ${name}`);
    seen.setAttribute("aria-label", `${name}, as the networks see it: ${SIDE} by ${SIDE} pixels`);
    return { pixels, name };
  }

  async function opened(address, name) {
    const image = new Image();
    image.src = address;
    try {
      await image.decode();
    } catch {
      throw new Error(`${name} cannot be read as a picture: choose a PNG, JPEG, WebP or GIF file.`);
    }
    return look(image, image.naturalWidth, image.naturalHeight, name);
  }

  async function fromFile(file) {
    const address = URL.createObjectURL(file);
    try {
      return await opened(address, file.name);
    } finally {
      URL.revokeObjectURL(address);
    }
  }

  /* The runtime and the models, once. */

  let loading = null;

  async function bytesOf(address, total) {
    const answer = await fetch(address);
    if (!answer.ok) throw new Error(`${new URL(address).pathname} is missing (${answer.status}): build the book again.`);
    if (!answer.body || !total) return new Uint8Array(await answer.arrayBuffer());
    const whole = new Uint8Array(total);
    const reader = answer.body.getReader();
    let at = 0;
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      if (at + part.value.length > total) break;
      whole.set(part.value, at);
      at += part.value.length;
      progress.value = at / total;
    }
    if (at !== total) throw new Error("the runtime is damaged or has not arrived whole: load the page again.");
    return whole;
  }

  async function load() {
    progress.hidden = false;
    status.textContent = `Loading the runtime (${(given.wasmBytes / 1e6).toFixed(1)} MB) and the models, once.`;
    const address = (path) => new URL(`../${path}`, here).href;
    const ort = await import(address("ort/ort.wasm.bundle.min.js"));
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmBinary = await bytesOf(address("ort/ort-wasm-simd-threaded.wasm"), given.wasmBytes);
    const sessions = [];
    for (const model of given.models) {
      const content = await bytesOf(address(`models/${model.file}`));
      sessions.push(await ort.InferenceSession.create(content, { executionProviders: ["wasm"] }));
    }
    progress.hidden = true;
    return { ort, sessions };
  }

  function ready() {
    loading ??= load().catch((problem) => {
      loading = null;
      progress.hidden = true;
      throw problem;
    });
    return loading;
  }

  const feed = (ort, session, pixels) => ({
    [session.inputNames[0]]: new ort.Tensor("float32", toInput(pixels), [1, 3, SIDE, SIDE]),
  });

  const last = { name: null, pixels: null, logits: null, times: null };

  async function classify({ pixels, name }) {
    const { ort, sessions } = await ready();
    const logits = {};
    for (const [index, session] of sessions.entries()) {
      const outputs = await session.run(feed(ort, session, pixels));
      logits[given.models[index].file] = Array.from(outputs[session.outputNames[0]].data);
    }
    show(logits);
    Object.assign(last, { name, pixels: Array.from(pixels), logits });
    if (!last.times) await time(pixels);
  }

  /* The smallest step the browser's clock makes, in ms: browsers make it coarse on purpose. */
  function clockStep() {
    const steps = [];
    while (steps.length < 3) {
      const start = performance.now();
      let now = start;
      while (now === start) now = performance.now();
      steps.push(now - start);
    }
    return Math.min(...steps);
  }

  async function run(session, inputs, runs) {
    const start = performance.now();
    for (let k = 0; k < runs; k++) await session.run(inputs);
    return performance.now() - start;
  }

  /* 0 to n - 1 in an order of chance. */
  function shuffled(n) {
    const order = Array.from({ length: n }, (_, k) => k);
    for (let k = n - 1; k > 0; k--) {
      const other = Math.floor(Math.random() * (k + 1));
      [order[k], order[other]] = [order[other], order[k]];
    }
    return order;
  }

  /* Rounds with a sample of each model, in an order of chance, so that what else the machine does falls on all alike. */
  async function time(pixels) {
    const { ort, sessions } = await ready();
    again.disabled = true;
    for (const { latency } of cards) latency.firstChild.textContent = "measuring";
    const inputs = sessions.map((session) => feed(ort, session, pixels));
    const least = Math.max(SAMPLE_MS, 20 * clockStep());
    const runs = [];
    for (const [index, session] of sessions.entries()) {
      await run(session, inputs[index], WARM_UP);
      runs.push(Math.max(1, Math.ceil((least * WARM_UP) / Math.max(await run(session, inputs[index], WARM_UP), 0.1))));
    }
    const times = sessions.map(() => []);
    for (let sample = 0; sample < SAMPLES; sample++) {
      for (const index of shuffled(sessions.length)) {
        times[index].push((await run(sessions[index], inputs[index], runs[index])) / runs[index]);
      }
      await pause();
    }
    last.times = times;
    showLatency(times);
    again.disabled = false;
  }

  /* One thing after the other: what the reader asks for waits until the one before is done. */
  let queue = Promise.resolve();

  function then(task) {
    queue = queue.then(task).catch((problem) => {
      status.textContent = problem.message || String(problem);
      again.disabled = !last.pixels;
    });
    return queue;
  }

  const use = (source) => then(async () => classify(await source()));

  /* The camera. */

  const camera = element("button", { type: "button", onclick: startCamera }, "Camera");
  const frame = element("button", { type: "button", hidden: true, onclick: takeFrame }, "Take this frame");
  const stop = element("button", { type: "button", hidden: true, onclick: stopCamera }, "Switch off");
  const again = element("button", { type: "button", disabled: true, onclick: measureAgain }, "Measure latency again");
  video.hidden = true;

  function measureAgain() {
    then(() => time(Uint8Array.from(last.pixels)));
  }

  async function startCamera() {
    try {
      if (!navigator.mediaDevices) throw new Error("browsers give pages the camera over https or from localhost only");
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      await video.play();
      for (const each of [video, frame, stop]) each.hidden = false;
      camera.hidden = true;
      frame.focus();
    } catch (problem) {
      status.textContent = `No camera: ${problem.message}.`;
    }
  }

  function takeFrame() {
    use(async () => look(video, video.videoWidth, video.videoHeight, "the camera's frame"));
  }

  function stopCamera() {
    for (const track of video.srcObject?.getTracks() ?? []) track.stop();
    for (const each of [video, frame, stop]) each.hidden = true;
    camera.hidden = false;
    camera.focus();
  }

  /* Putting it together. */

  function sample(name) {
    const address = new URL(`../samples/${name}.svg`, here).href;
    const image = element("img", { src: address, alt: "Drawing of", width: 64, height: 64 });
    const pick = () => use(() => opened(address, `the drawing of ${/^[aeiou]/.test(name) ? "an" : "a"} ${name}`));
    return element("button", { type: "button", class: "edgelab-sample", "data-sample": name, onclick: pick }, image, name);
  }

  function chooser() {
    const choose = element("input", { type: "file", accept: "image/*", id: "edgelab-file" });
    choose.addEventListener("change", () => {
      const [file] = choose.files;
      if (file) use(() => fromFile(file));
      choose.value = "";
    });
    const zone = element("div", { class: "edgelab-drop" });
    zone.append(element("label", { for: "edgelab-file" }, "Your picture: choose a file, or drop one here"), choose, camera);
    zone.append(video, frame, stop);
    zone.addEventListener("dragover", (event) => {
      event.preventDefault();
      zone.classList.add("over");
    });
    zone.addEventListener("dragleave", () => zone.classList.remove("over"));
    zone.addEventListener("drop", (event) => {
      event.preventDefault();
      zone.classList.remove("over");
      const [file] = event.dataTransfer.files;
      if (file) use(() => fromFile(file));
      else status.textContent = "That was no file: save the picture first, then drop the file here.";
    });
    return zone;
  }

  function build() {
    const samples = element("div", { class: "edgelab-samples", role: "group", "aria-label": "Drawings to try" });
    samples.append(...given.samples.map(sample));
    const pictures = element("div", { class: "edgelab-pictures" });
    pictures.append(element("figure", {}, taken, element("figcaption", {}, "the square taken")));
    pictures.append(element("figure", {}, seen, element("figcaption", {}, `what the networks see: ${SIDE} \u00d7 ${SIDE} pixels`)));
    const results = element("div", { class: "edgelab-cards" });
    results.append(...cards.map(({ made }) => made));
    status.textContent = `Choose a drawing. The first one loads ${(given.wasmBytes / 1e6).toFixed(1)} MB from this site.`;
    app.replaceChildren(samples, chooser(), status, progress, pictures, results, again);
  }

  function refuse() {
    const address = `http://localhost:8000/${location.pathname.split("/").slice(-2).join("/")}`;
    app.replaceChildren(
      element("p", { class: "edgelab-status" }, "This page was opened as a file. Browsers let no page load WebAssembly or models from files, so it has to come from a server; Python has one. In the folder of the course, run"),
      element("pre", {}, given.serve),
      element("p", {}, "and open ", element("a", { href: address }, address), "."),
    );
  }

  if (location.protocol === "file:") refuse();
  else build();
  window.edgelabModels = { toPixels, toInput, last };
})();
