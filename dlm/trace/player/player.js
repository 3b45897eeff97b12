"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const GIVEN = -1, FILLED = -2;
  const NAME = /^<[|｜].*[|｜]>$|^<\/?(s|pad|unk)>$/;
  let row = null, at = 0, picked = null, pinned = false, timer = null;

  // Everything a canvas was, before the first forward and after each.
  function frames(trace) {
    const { mask_id: mask, canvas: given } = trace;
    let tokens = given.slice(), when = given.map((t) => (t === mask ? 0 : GIVEN)), prob = given.map(() => null);
    const all = [{ tokens, when, prob }];
    trace.steps.forEach((step, k) => {
      tokens = tokens.slice(); when = when.slice(); prob = prob.slice();
      if (step.grown) {
        const [at, length] = step.grown, rooms = tokens.length - length;
        [[tokens, mask], [when, 0], [prob, null]].forEach(([line, value]) => {
          line.splice(rooms, length); line.splice(at, 0, ...Array(length).fill(value));
        });
      }
      step.positions.forEach((p, i) => { tokens[p] = step.tokens[i]; when[p] = k + 1; prob[p] = step.probs[i]; });
      for (const p of step.remasked || []) { tokens[p] = mask; when[p] = 0; prob[p] = null; }
      if (step.filled !== undefined && step.filled !== null) {
        const cut = step.cut ?? null, kept = cut === null ? tokens.slice() : given;
        for (let p = cut ?? 0; p < tokens.length; p++) {
          if (kept[p] === mask) { tokens[p] = step.filled; when[p] = FILLED; prob[p] = null; }
        }
      }
      all.push({ tokens, when, prob });
    });
    return all;
  }

  const piece = (token) => row.trace.pieces?.[token] ?? `${token}`;
  function visible(token) {
    const text = piece(token);
    if (NAME.test(text)) return { text: "∎", name: true };
    const shown = text.replace(/\r?\n/g, "⏎").replace(/\t/g, "⇥").replace(/ /g, "\u00a0");
    return { text: shown.replace(/[\u0000-\u001f\u007f\u202a-\u202e\u2066-\u2069]/g, "·") || "·", name: false };
  }
  const percent = (p) => (p >= 0.9995 ? "100 %" : p >= 0.001 ? `${(100 * p).toFixed(1)} %` : p > 0 ? "< 0.1 %" : "0 %");
  const spell = (token) => (NAME.test(piece(token)) ? piece(token) : `“${piece(token)}”`);
  const many = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
  function make(tag, attributes = {}, text) {
    const svg = ["rect", "line", "text", "path", "circle", "title", "polygon"].includes(tag);
    const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return node;
  }

  function open(index) {
    pause();
    const trace = data.rows[index];
    row = { index, trace, frames: frames(trace), steps: trace.steps, edges: new Set(), chips: [] };
    for (const step of trace.steps) { row.edges.add(step.block[0]); row.edges.add(step.block[1]); }
    row.most = Math.max(1, ...trace.steps.map((s) => s.positions.length));
    $("row").value = index;
    picked = null; pinned = false; $("inspector").hidden = true;
    const about = trace.about || {};
    const known = { task: "task", score: "score", model: "model", sampler: "sampler", cache: "cache", drafting: "drafting",
      seed: "seed", tokens_per_forward: "tokens per forward" };
    const facts = Object.entries(known).filter(([key]) => about[key] !== undefined && about[key] !== null)
      .map(([key, word]) => [word, about[key]]);
    facts.unshift(["forwards", trace.steps.length]);
    $("facts").replaceChildren(...facts.map(([word, value]) => {
      const pair = make("div");
      pair.append(make("dt", {}, word), make("dd", {}, typeof value === "number" ? +value.toFixed(3) : value));
      return pair;
    }));
    const prompt = about.prompt ?? trace.canvas.slice(0, trace.start).map((t) => trace.pieces?.[t] ?? `${t} `).join("");
    $("prompt").textContent = prompt;
    $("prompt-box").hidden = !prompt;
    $("scrub").max = trace.steps.length;
    $("fed").hidden = !trace.steps.some((s) => s.cache?.recomputed);
    lay();
    drawTime();
    go(0);
  }

  // One chip a position, as wide as the token it will hold, so that nothing moves while it plays.
  function lay() {
    const last = row.frames[row.frames.length - 1], box = $("canvas"), parts = [];
    for (let p = row.trace.start; p < last.tokens.length; p++) {
      if (row.edges.has(p) && p > row.trace.start) {
        parts.push(make("span", { class: "border", "data-at": p, title: `a block begins at position ${p - row.trace.start}` }));
      }
      const chip = make("button", { type: "button", class: "chip", "data-position": p, tabindex: -1 });
      chip.style.setProperty("--n", Math.min(24, [...visible(last.tokens[p]).text].length));
      row.chips.push(chip);
      parts.push(chip);
      if (piece(last.tokens[p]).endsWith("\n")) parts.push(make("br"));
    }
    if (row.chips.length) row.chips[0].tabIndex = 0;
    box.replaceChildren(...parts);
    row.borders = [...box.querySelectorAll(".border")];
  }

  function go(step) {
    at = Math.max(0, Math.min(row.steps.length, step));
    const frame = row.frames[at], before = row.frames[Math.max(0, at - 1)], now = at ? row.steps[at - 1] : null;
    // Before a forward what shows is the block that it will fill.
    const block = (now || row.steps[0] || { block: [0, 0] }).block, taken = new Set(now?.remasked || []);
    const fed = now?.cache?.recomputed || [];
    for (const chip of row.chips) {
      const p = +chip.dataset.position, token = frame.tokens[p], when = frame.when[p], isOpen = token === row.trace.mask_id;
      const { text, name } = isOpen ? { text: "", name: false } : visible(token);
      const fresh = when === at && at > 0;
      const classes = ["chip"];
      if (isOpen) classes.push("open"); else classes.push(when === GIVEN ? "given" : when === FILLED ? "filled" : "done");
      if (fresh) classes.push("new");
      if (fresh && before.when[p] > 0) classes.push("rewritten");
      if (taken.has(p)) classes.push("back");
      if (name) classes.push("name");
      if (p >= block[0] && p < block[1]) classes.push("active");
      if (fed.some(([first, end]) => p >= first && p < end)) classes.push("fed");
      if (p === picked) classes.push("picked");
      chip.className = classes.join(" ");
      chip.textContent = text;
      chip.style.setProperty("--t", row.steps.length > 1 ? (when - 1) / (row.steps.length - 1) : 0);
      chip.style.setProperty("--p", frame.prob[p] ?? 0);
      chip.style.setProperty("--sure", isOpen ? now?.confidence?.[p] ?? 0 : 0);
      const state = isOpen ? "masked" : when === GIVEN ? "given" : when === FILLED ? "filled by a rule" : `forward ${when}`;
      chip.setAttribute("aria-label", `position ${p - row.trace.start}, ${isOpen ? "" : `${spell(token)}, `}${state}`);
    }
    for (const border of row.borders) border.classList.toggle("active", block.includes(+border.dataset.at));
    $("scrub").value = at;
    $("scrub").setAttribute("aria-valuetext", `forward ${at} of ${row.steps.length}`);
    tell(now, block);
    moveTime();
    if (picked !== null) inspect(picked);
    // A long canvas moves along with what happens on it.
    const news = at && row.chips.find((chip) => chip.classList.contains("new") || chip.classList.contains("back"));
    if (news) news.scrollIntoView({ block: "nearest" });
  }

  function tell(step, block) {
    const line = $("step"), say = (text, cls) => line.append(make("span", cls ? { class: cls } : {}, text));
    line.replaceChildren(make("b", {}, `Forward ${at} of ${row.steps.length}`));
    if (!step) { say(": nothing decided yet"); return; }
    say(`: block ${block[0] - row.trace.start} to ${block[1] - row.trace.start - 1}, ${step.positions.length} committed`);
    if (step.remasked?.length) say(`, ${step.remasked.length} taken back`, "taken");
    if (step.filled !== undefined && step.filled !== null) say(step.cut !== undefined ? ", the row ends here" : ", the rest filled");
    if (step.drafts) say(`, ${step.accepted || 0} of ${many(step.drafts, "draft")} accepted`, "draft");
    if (step.cache) say(`, ${many(step.cache.fed, "position")} fed`);
    if (step.cache?.refresh) say(", cache refreshed", "refresh");
  }

  // The time line: commits as bars, what happened beside them as marks, and where each commit was below.
  function drawTime() {
    const svg = $("time"), n = row.steps.length, wide = svg.clientWidth || 900, small = innerWidth <= 820;
    const pad = 8, top = 12, bars = small ? 22 : 30, first = row.trace.start, size = row.trace.canvas.length - first;
    const map = small ? 0 : Math.max(24, Math.min(72, size)), under = top + bars + 8, height = under + map + (map ? 4 : 0);
    // The middle of a forward lies where the thumb of the slider below stands.
    const x = (k) => pad + (n ? (k / n) * (wide - 2 * pad) : 0), bar = Math.max(1.5, Math.min(18, ((wide - 2 * pad) / Math.max(1, n)) * 0.7));
    row.x = x; row.bar = bar;
    svg.setAttribute("viewBox", `0 0 ${wide} ${height}`);
    svg.style.height = `${height}px`;
    const parts = [make("rect", { class: "now", x: 0, y: 0, width: bar + 2, height, rx: 3 }),
      make("line", { class: "base", x1: 0, x2: wide, y1: top + bars, y2: top + bars })];
    const count = { refresh: 0, accepted: 0, drafts: 0, taken: 0, blocks: new Set(row.steps.map((s) => s.block[0])).size };
    row.steps.forEach((step, i) => {
      const k = i + 1, mid = x(k), tall = (step.positions.length / row.most) * bars;
      if (i && step.block[0] !== row.steps[i - 1].block[0]) {
        const edge = (x(i) + mid) / 2;
        parts.push(make("line", { class: "edge", x1: edge, x2: edge, y1: 0, y2: height }));
      }
      parts.push(make("rect", { class: "commit", "data-step": k, x: mid - bar / 2, y: top + bars - tall, width: bar, height: tall, rx: 1.5 }));
      if (step.remasked?.length) {
        count.taken += step.remasked.length;
        parts.push(make("rect", { class: "taken", x: mid - bar / 2, y: top + bars, width: bar, height: Math.max(2, Math.min(7, step.remasked.length)) }));
      }
      if (step.cache?.refresh) {
        count.refresh += 1;
        parts.push(make("polygon", { class: "refresh", points: `${mid},1 ${mid + 4},5 ${mid},9 ${mid - 4},5` }));
      }
      count.drafts += step.drafts || 0;
      count.accepted += step.accepted || 0;
      for (let d = 0; d < (step.accepted || 0); d++) {
        parts.push(make("circle", { class: "draft", cx: mid, cy: top + bars - 3.5 - (d * 6) % bars, r: Math.min(2.4, bar / 2) }));
      }
      if (!map) return;
      const cell = map / size; // positions run downwards
      const dot = (p, cls) => parts.push(make("rect", { class: cls, x: mid - bar / 2, y: under + (p - first) * cell, width: bar, height: Math.max(1, cell * 0.85) }));
      step.positions.forEach((p) => dot(p, "dot"));
      (step.remasked || []).forEach((p) => dot(p, "dot taken"));
    });
    if (map) {
      parts.push(make("text", { x: -3, y: under + 7, "text-anchor": "end" }, 0), make("text", { x: -3, y: height - 4, "text-anchor": "end" }, size - 1));
    }
    svg.replaceChildren(...parts);
    row.bars = [...svg.querySelectorAll("rect.commit")];
    const marks = [["edge", many(count.blocks, "block")]];
    if (row.steps.some((s) => s.cache)) marks.push(["refresh", many(count.refresh, "cache refresh").replace(/hs$/, "hes")]);
    if (count.drafts) marks.push(["draft", `${count.accepted} of ${many(count.drafts, "draft")} accepted`]);
    if (count.taken) marks.push(["taken", `${count.taken} taken back`]);
    $("marks").replaceChildren(...marks.map(([cls, text]) => make("span", { class: cls }, text)));
  }
  function moveTime() {
    const now = $("time").querySelector(".now");
    now.setAttribute("x", row.x(at) - row.bar / 2 - 1);
    row.bars.forEach((bar, i) => bar.classList.toggle("on", i + 1 === at));
  }

  function inspect(p) {
    const before = picked;
    picked = p;
    for (const old of [before, p]) row.chips[old - row.trace.start]?.classList.toggle("picked", old === p);
    const frame = row.frames[at], token = frame.tokens[p], when = frame.when[p], isOpen = token === row.trace.mask_id;
    $("inspector").hidden = false;
    $("where").textContent = `Position ${p - row.trace.start}`;
    $("what").textContent = isOpen ? "masked"
      : when === GIVEN ? `${spell(token)}, given` : when === FILLED ? `${spell(token)}, filled by a rule`
      : `${spell(token)}, committed in forward ${when} at ${percent(frame.prob[p])}`;
    showCandidates(p, token);
    drawCurve(p);
  }
  function showCandidates(p, token) {
    const holds = row.steps.map((s, i) => (s.candidates?.[p] ? i + 1 : 0)).filter(Boolean);
    const past = holds.filter((k) => k <= at), k = past.length ? past[past.length - 1] : holds[0];
    $("candidates-of").textContent = k === undefined ? "Candidates" : `Candidates in forward ${k}${k > at ? " (still to come)" : ""}`;
    if (k === undefined) {
      const none = row.steps.some((s) => s.candidates) ? "none were kept for this position" : "not recorded: record=[order,candidates]";
      $("candidates").replaceChildren(make("li", { class: "none" }, none));
      return;
    }
    const step = row.steps[k - 1], logits = step.logits?.[p], i = step.positions.indexOf(p);
    $("candidates").replaceChildren(...step.candidates[p].map(([id, prob], nth) => {
      const line = make("li", { class: i >= 0 && step.tokens[i] === id ? "taken" : "", title: `token ${id}` });
      line.style.setProperty("--p", prob);
      const figure = logits ? `${percent(prob)}  ${logits[nth].toFixed(2)}` : percent(prob);
      line.append(make("span", {}, NAME.test(piece(id)) ? piece(id) : visible(id).text), make("span", {}, figure));
      return line;
    }));
  }
  function drawCurve(p) {
    const svg = $("curve"), n = row.steps.length, left = 26, right = 274, x = (k) => left + (n > 1 ? (k - 1) / (n - 1) : 0.5) * (right - left);
    const y = (value) => 66 - value * 58, parts = [], points = [];
    for (const value of [0, 0.5, 1]) {
      parts.push(make("line", { class: "axis", x1: left, x2: right, y1: y(value), y2: y(value) }),
        make("text", { x: left - 4, y: y(value) + 3, "text-anchor": "end" }, value));
    }
    row.steps.forEach((step, i) => {
      const taken = step.positions.indexOf(p), sure = step.confidence?.[p] ?? (taken >= 0 ? step.probs[taken] : undefined);
      if (sure !== undefined) points.push({ k: i + 1, sure, taken: taken >= 0 });
      if (step.remasked?.includes(p)) parts.push(make("circle", { class: "away", cx: x(i + 1), cy: y(0), r: 3.5 }));
    });
    parts.push(make("path", { d: points.map((q, i) => `${i ? "L" : "M"}${x(q.k)} ${y(q.sure)}`).join("") }));
    if (points.length < 60) points.forEach((q) => parts.push(make("circle", { cx: x(q.k), cy: y(q.sure), r: 1.8 })));
    points.filter((q) => q.taken).forEach((q) => parts.push(make("circle", { class: "commit", cx: x(q.k), cy: y(q.sure), r: 4 })));
    if (at) parts.push(make("line", { class: "now", x1: x(at), x2: x(at), y1: 4, y2: 70 }));
    parts.push(make("text", { x: left, y: 80 }, "forward 1"), make("text", { x: right, y: 80, "text-anchor": "end" }, `${n}`));
    const last = points[points.length - 1];
    svg.setAttribute("aria-label", last ? `${many(points.length, "value")}, the last ${percent(last.sure)} in forward ${last.k}` : "nothing recorded");
    svg.replaceChildren(...parts);
  }
  function leave() {
    if (picked !== null) row.chips[picked - row.trace.start]?.classList.remove("picked");
    picked = null; pinned = false;
    $("inspector").hidden = true;
  }

  function play() {
    if (at >= row.steps.length) go(0);
    clearInterval(timer);
    timer = setInterval(() => { if (at >= row.steps.length) pause(); else go(at + 1); }, 1000 / $("speed").value);
    showPlaying(true);
  }
  function pause() { clearInterval(timer); timer = null; showPlaying(false); }
  function showPlaying(on) {
    $("play").querySelector("path").setAttribute("d", on ? "M4 2h3v12H4zM9 2h3v12H9z" : "M4 2v12l9-6z");
    $("play").setAttribute("aria-label", on ? "Pause" : "Play");
    $("step").setAttribute("aria-live", on ? "off" : "polite");
  }
  const halt = (step) => { pause(); go(step); };

  function paint(how) {
    document.body.className = `paint-${how}`;
    const [from, , to] = $("scale").children;
    [from.textContent, to.textContent] = how === "sure" ? ["0", "1"] : ["early", "late"];
  }
  function theme(name) { document.documentElement.dataset.theme = name; }

  function keys(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const target = event.target, inForm = target.matches("select, input, summary");
    const moves = { ArrowLeft: () => halt(at - 1), ArrowRight: () => halt(at + 1), Home: () => halt(0), End: () => halt(row.steps.length),
      ArrowUp: () => step(-1), ArrowDown: () => step(1), Escape: leave, n: () => turn(1), p: () => turn(-1) };
    const step = (by) => {
      const first = row.trace.start, next = picked === null ? first : picked + by, chip = row.chips[next - first];
      if (chip) { pinned = true; inspect(next); chip.focus(); }
    };
    if (event.key === " " && !inForm && !target.matches("button:not(.chip)")) {
      event.preventDefault();
      if (timer) pause(); else play();
    } else if (moves[event.key] && !inForm) {
      event.preventDefault();
      moves[event.key]();
    }
  }
  const turn = (by) => { const next = row.index + by; if (data.rows[next]) open(next); };

  function start() {
    const count = data.rows.length, of = new Intl.NumberFormat("en");
    $("shown").textContent = data.total > count
      ? `the first ${of.format(count)} of ${of.format(data.total)} rows (limit= shows more)` : many(count, "row");
    $("rows").hidden = count < 2;
    $("row").append(...data.rows.map((trace, i) => {
      const about = trace.about || {}, score = about.score === undefined || about.score === null ? "" : ` · score ${+about.score.toFixed(2)}`;
      const name = about.prompt || about.instance_id || "";
      return make("option", { value: i }, `${i + 1}${about.task ? ` · ${about.task}` : ""}${score}${name ? ` · ${name.slice(-60)}` : ""}`);
    }));
    $("prompt-box").open = innerWidth > 820;
    theme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    paint("order");
    $("theme").onclick = () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
    $("paint").onchange = (event) => paint(event.target.value);
    $("row").onchange = (event) => open(+event.target.value);
    $("row-back").onclick = () => turn(-1);
    $("row-next").onclick = () => turn(1);
    $("scrub").oninput = (event) => halt(+event.target.value);
    $("back").onclick = () => halt(at - 1);
    $("next").onclick = () => halt(at + 1);
    $("play").onclick = () => (timer ? pause() : play());
    $("speed").onchange = () => { if (timer) play(); };
    $("close").onclick = leave;
    const chipOf = (event) => event.target.closest("#canvas .chip");
    const canvas = $("canvas");
    canvas.addEventListener("pointerover", (event) => { const chip = chipOf(event); if (chip && !pinned && event.pointerType !== "touch") inspect(+chip.dataset.position); });
    canvas.addEventListener("focusin", (event) => { const chip = chipOf(event); if (chip && !pinned) inspect(+chip.dataset.position); });
    canvas.addEventListener("click", (event) => {
      const chip = chipOf(event), p = chip && +chip.dataset.position;
      if (!chip) return;
      if (pinned && p === picked) { pinned = false; return; }
      pinned = true;
      inspect(p);
    });
    $("time").addEventListener("click", (event) => {
      const box = $("time").getBoundingClientRect();
      halt(Math.round(((event.clientX - box.left - 8) / Math.max(1, box.width - 16)) * row.steps.length));
    });
    document.addEventListener("keydown", keys);
    new ResizeObserver(() => document.documentElement.style.setProperty("--dock", `${document.querySelector(".dock").offsetHeight}px`))
      .observe(document.querySelector(".dock"));
    addEventListener("resize", () => { drawTime(); moveTime(); });
    open(0);
  }
  start();
})();
