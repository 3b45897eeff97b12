"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const KEY = "dlm.key", GROUPS = ["blocks", "cache", "drafting"];
  const NAME = /^<[|｜].*[|｜]>$|^<\/?(s|pad|unk)>$/;
  const ELSEWHERE = ["temperature", "constraint", "exit", "stop"]; // a field of its own, or no plain value
  const working = new Set(); // what Stop ends
  let settings = null, turns = [], pickers = {};

  // What comes from a model or a person is text, never markup.
  function make(tag, attributes = {}, ...inside) {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...inside);
    return node;
  }
  const many = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
  const percent = (p) => `${(100 * p).toFixed(1)} %`;
  function visible(text) {
    if (NAME.test(text)) return "∎";
    const shown = text.replace(/\r?\n/g, "⏎").replace(/\t/g, "⇥").replace(/ /g, "\u00a0");
    return shown.replace(/[\u0000-\u001f\u007f\u202a-\u202e\u2066-\u2069]/g, "·");
  }

  // The server.
  async function call(path, options = {}) {
    const key = sessionStorage.getItem(KEY), headers = { "Content-Type": "application/json" };
    if (key) headers.Authorization = `Bearer ${key}`;
    let answer;
    try {
      answer = await fetch(path, { ...options, headers, cache: "no-store" });
    } catch (error) {
      throw error.name === "AbortError" ? error : new Error("The server cannot be reached: is it still running?");
    }
    if (answer.ok) return answer;
    if (answer.status === 401) {
      $("key").hidden = false;
      $("key-text").focus();
      throw new Error(key ? "The server does not know this API key." : "This server asks for an API key.");
    }
    const told = await answer.json().catch(() => null);
    throw new Error(told?.error?.message || `The server answered ${answer.status} ${answer.statusText}`);
  }

  // Chunks of a stream. One that ends before it says so has broken off.
  async function* chunksOf(path, body, signal) {
    const answer = await call(path, { method: "POST", body: JSON.stringify(body), signal });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ;) {
      const { value, done } = await reader.read().catch((error) => {
        throw signal.aborted ? error : new Error("The connection was lost: the answer is not whole.");
      });
      if (done) throw new Error("The stream broke off: the answer is not whole.");
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        if (!event.startsWith("data: ")) continue;
        if (event === "data: [DONE]") return;
        const told = JSON.parse(event.slice(6));
        if (told.error) throw new Error(told.error.message);
        yield told;
      }
    }
  }

  // An answer: its canvas after each forward, and what can be done with it.
  class Run {
    constructor(name, body) {
      Object.assign(this, { name, body, frames: [], at: 0, cells: [], edges: new Set(), chips: [], chosen: new Set(),
        text: "", prompt: null, length: 0, busy: false, whole: false, timer: null });
      this.step = make("p", { class: "step" });
      this.canvas = make("div", { class: "canvas", role: "group", "aria-label": `Canvas of ${name}` });
      this.slider = make("input", { type: "range", min: 0, max: 0, value: 0, step: 1, "aria-label": `Forward of ${name}`, autocomplete: "off" });
      this.player = make("button", { type: "button", "aria-label": "Play" }, "▶");
      this.again = make("button", { type: "button", class: "again" }, "Fill again");
      this.hint = make("span", { class: "quiet" }, "click tokens to mask them");
      this.answer = make("p", { class: "text" });
      this.error = make("p", { class: "error", role: "alert" });
      this.bar = make("div", { class: "row" }, this.player, this.slider);
      this.refill = make("div", { class: "row" }, this.again, this.hint);
      this.bar.hidden = this.refill.hidden = true;
      this.box = make("section", { class: "run card", "aria-label": name }, make("div", { class: "head" }, make("h2", {}, name), this.step),
        this.error, this.canvas, this.bar, this.answer, this.refill);
      this.slider.oninput = () => { this.pause(); this.go(+this.slider.value); };
      this.player.onclick = () => (this.timer ? this.pause() : this.play());
      this.again.onclick = () => this.fillAgain();
      this.canvas.onclick = (event) => this.choose(this.chips.indexOf(event.target));
      this.canvas.onkeydown = (event) => this.move(event);
    }

    async ask(path, body) {
      const control = new AbortController();
      working.add(control);
      this.busy = true; this.whole = false; this.text = ""; this.error.textContent = ""; this.counts = null;
      this.chosen.clear();
      $("legend").hidden = false;
      refresh();
      this.step.textContent = "waiting for a place";
      try {
        for await (const chunk of chunksOf(path, { ...body, stream: true, stream_options: { canvas: true } }, control.signal)) {
          const choice = chunk.choices[0];
          this.text += choice?.delta?.content ?? choice?.text ?? "";
          this.answer.textContent = this.text;
          if (chunk.canvas) this.take(chunk.canvas);
        }
        this.whole = true;
        $("told").textContent = `${this.name}: done. ${this.text}`;
      } catch (error) {
        const stopped = error.name === "AbortError";
        this.error.textContent = stopped ? "Stopped: the answer is not whole." : error.message;
      }
      working.delete(control);
      this.busy = false;
      this.go(this.at);
      refresh();
      return this.whole || this.frames.length > 0;
    }

    take(frame) {
      this.counts = frame.counts ?? null;
      this.prompt ??= frame.prompt;
      this.length = frame.length;
      if (frame.done && !frame.set.length && !frame.masked.length) return this.tell();
      const follows = this.at === this.frames.length;
      this.frames.push(frame);
      this.slider.max = this.frames.length;
      this.bar.hidden = false;
      if (follows) this.go(this.frames.length); else this.tell();
      if (this.frames.length === 1) this.box.scrollIntoView({ block: "nearest" });
    }

    // The canvas after so many forwards.
    go(to) {
      if (to < this.at || !this.cells.length) {
        this.cells = blank(this.frames[0]?.length ?? 0);
        this.edges = new Set();
        this.at = 0;
      }
      while (this.at < to) this.apply(this.frames[this.at++]);
      if (to < this.frames.length) this.chosen.clear();
      this.slider.value = to;
      this.slider.setAttribute("aria-valuetext", `${to} of ${this.frames.length}`);
      this.draw();
    }

    apply(frame) {
      if (frame.length !== this.cells.length) { this.cells = blank(frame.length); this.edges = new Set(); }
      for (const cell of this.cells) cell.news = cell.guess = null;
      for (const [place, id, text, p] of frame.set) {
        const cell = this.cells[place];
        if (cell.id !== id) Object.assign(cell, { id, text: text || `${id} `, p, k: p === null ? 0 : this.at, forward: frame.step + 1, news: p === null ? null : "new" });
      }
      for (const place of frame.masked) Object.assign(this.cells[place], { id: null, news: "back" });
      for (const [place, id, text, p] of frame.guess) this.cells[place].guess = { text: text || `${id} `, p };
      if (frame.block) frame.block.forEach((place) => this.edges.add(place));
    }

    draw() {
      const now = this.frames[this.at - 1], [from, end] = now?.block ?? [0, 0];
      while (this.chips.length > this.cells.length) this.chips.pop().parentNode.remove();
      while (this.chips.length < this.cells.length) {
        const chip = make("button", { type: "button", class: "chip", tabindex: this.chips.length ? -1 : 0 });
        this.chips.push(chip);
        this.canvas.append(make("span", { class: "cell" }, chip));
      }
      this.canvas.classList.toggle("ended", this.whole && !this.busy && this.at === this.frames.length);
      this.canvas.style.setProperty("--last", Math.max(1, this.frames.length - 1));
      this.cells.forEach((cell, place) => {
        const open = cell.id === null, text = open ? cell.guess?.text ?? "" : cell.text, p = open ? cell.guess?.p ?? 0 : cell.p;
        const classes = ["chip", open ? "open" : p === null ? "given" : "done"];
        if (cell.news) classes.push(cell.news);
        if (open && place >= from && place < end) classes.push("active");
        if (NAME.test(text)) classes.push("name");
        if (this.chosen.has(place)) classes.push("chosen");
        const spelled = text ? `${NAME.test(text) ? text : `“${text}”`}, ` : "";
        const state = open ? (text ? `provisional, ${percent(p)}` : "masked") : p === null ? "given" : `forward ${cell.forward}, ${percent(p)}`;
        const label = `position ${place}: ${spelled}${this.chosen.has(place) ? "to be filled again" : state}`;
        const edge = place > 0 && this.edges.has(place), look = `${classes.join(" ")} ${edge} ${cell.k} ${label}`, chip = this.chips[place];
        if (chip.look === look) return;
        chip.look = look;
        chip.className = classes.join(" ");
        chip.textContent = visible(text) || "\u00a0";
        chip.title = label;
        chip.setAttribute("aria-label", label);
        chip.setAttribute("aria-pressed", this.chosen.has(place));
        chip.style.setProperty("--p", p ?? 1);
        chip.style.setProperty("--k", cell.k);
        chip.parentNode.className = `cell${edge ? " edge" : ""}${!open && text.endsWith("\n") ? " eol" : ""}`;
      });
      this.tell();
    }

    tell() {
      const { counts } = this, last = this.frames[this.frames.length - 1], ends = this.at === this.frames.length;
      const filled = this.cells.filter((cell) => cell.id !== null).length;
      this.step.replaceChildren();
      if (ends && !this.busy && this.whole) {
        // Without counts it ended at a stop text, in the middle of the canvas.
        this.step.append(make("b", {}, many(counts?.forwards ?? (last?.step ?? 0) + 1, "forward")));
        this.step.append(counts ? `, ${counts.seconds.toFixed(3)} s, ${counts.tokens_per_forward.toFixed(1)} tokens a forward` : ", ended at a stop text");
      } else if (this.frames.length) {
        const now = this.frames[this.at - 1];
        const where = !now ? "before the first forward" : now.hand ? "masked by hand" : `forward ${now.step + 1}`;
        this.step.append(make("b", {}, where), `, ${filled} of ${this.cells.length} filled`);
      }
      const fillable = this.whole && !this.busy && !working.size && this.prompt?.length > 0;
      this.refill.hidden = !fillable;
      this.canvas.classList.toggle("fillable", fillable && ends);
      this.again.disabled = !this.chosen.size;
      this.hint.textContent = this.chosen.size ? `${many(this.chosen.size, "token")} masked` : ends ? "click tokens to mask them" : "at the slider's end tokens can be masked";
    }

    choose(place) {
      if (place < 0 || !this.canvas.classList.contains("fillable") || this.cells[place].id === null) return;
      if (!this.chosen.delete(place)) this.chosen.add(place);
      this.draw();
    }

    // The same prompt, with everything given but what was masked.
    async fillAgain() {
      const { frames, text, counts } = this, masked = [...this.chosen].sort((a, b) => a - b);
      const kept = this.cells.map((cell, place) => [place, cell.id]).filter(([place, id]) => id !== null && !this.chosen.has(place));
      const { prompt, messages, stop, ...body } = this.body;
      frames.push({ hand: true, step: frames[frames.length - 1].step, length: this.length, set: [], guess: [], masked });
      this.slider.max = frames.length;
      this.chosen.clear();
      this.go(frames.length);
      Object.assign(body, { prompt: this.prompt, max_tokens: this.length });
      if (kept.length) body.pinned = Object.fromEntries(kept);
      const hand = frames.length;
      await this.ask("/v1/completions", body);
      if (this.whole || frames.length > hand) return;
      frames.pop(); // refused: all is as it was
      Object.assign(this, { text, counts, whole: true });
      this.slider.max = frames.length;
      this.answer.textContent = text;
      this.at = 0;
      this.cells = [];
      this.go(frames.length);
    }

    move(event) {
      const place = this.chips.indexOf(event.target), by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      const next = by && this.chips[place + by];
      if (!next) return;
      event.preventDefault();
      this.chips[place].tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    }

    play() {
      if (this.at >= this.frames.length) this.go(0);
      this.timer = setInterval(() => (this.at < this.frames.length ? this.go(this.at + 1) : this.pause()), 300);
      this.player.textContent = "❚❚";
      this.player.setAttribute("aria-label", "Pause");
    }
    pause() {
      clearInterval(this.timer);
      this.timer = null;
      this.player.textContent = "▶";
      this.player.setAttribute("aria-label", "Play");
    }
  }
  const blank = (length) => Array.from({ length }, () => ({ id: null, text: "", p: null, k: 0, forward: 0, news: null, guess: null }));

  // The settings: what a choice offers, with the defaults standing where nothing is typed.
  function picker(group, label) {
    const choices = settings.groups[group], select = make("select"), fields = make("div", { class: "pair" });
    const more = make("details", {}, make("summary", {}, "its settings"), fields);
    const rare = (key) => Object.values(choices).filter((known) => key in known).length;
    select.append(make("option", { value: "" }, `${settings.chosen[group]} (as started)`));
    select.append(...Object.keys(choices).map((name) => make("option", { value: name }, name)));
    select.onchange = () => {
      const known = Object.entries(choices[select.value] ?? {}).filter(([key]) => group !== "sampler" || !ELSEWHERE.includes(key));
      known.sort(([a], [b]) => rare(a) - rare(b)); // what only this one has comes first
      more.hidden = !known.length;
      fields.replaceChildren(...known.map(([key, value]) => make("label", {}, key.replaceAll("_", " "), field(key, value))));
    };
    select.onchange();
    const value = () => {
      const given = {};
      for (const each of fields.querySelectorAll("[data-key]")) {
        const text = each.value.trim();
        if (text) given[each.dataset.key] = /^(true|false|null)$/.test(text) ? JSON.parse(text) : Number.isNaN(Number(text)) ? text : Number(text);
      }
      return select.value ? { name: select.value, ...given } : undefined;
    };
    const name = () => select.value || settings.chosen[group];
    return { node: make("div", {}, make("label", {}, label, select), more), value, name, select };
  }
  function field(key, value) {
    if (typeof value !== "boolean") return make("input", { "data-key": key, placeholder: value ?? "none", autocomplete: "off" });
    const options = [["", `${value}`], [`${!value}`, `${!value}`]];
    return make("select", { "data-key": key }, ...options.map(([to, text]) => make("option", { value: to }, text)));
  }
  function common() {
    const body = {};
    for (const group of GROUPS) body[group] = pickers[group].value();
    for (const name of ["max_tokens", "temperature", "seed"]) if ($(name).value) body[name] = Number($(name).value);
    const stops = $("stops").value.split("\n").filter(Boolean).map((text) => text.replace(/\\n/g, "\n").replace(/\\t/g, "\t"));
    if (stops.length) body.stop = stops;
    return body;
  }

  async function load() {
    $("error").textContent = "";
    try {
      settings = await (await call("/v1/settings")).json();
    } catch (error) {
      $("error").textContent = error.message;
      $("shown").textContent = "";
      return;
    }
    $("key").hidden = true;
    $("shown").textContent = `${settings.model}, context ${settings.context}`;
    document.title = `dlm: ${settings.model}`;
    $("kinds").hidden = !settings.chat;
    document.querySelector("[name=kind][value=chat]").checked = settings.chat;
    $("max_tokens").max = settings.max_tokens.most;
    $("max_tokens").placeholder = settings.max_tokens.default;
    $("started").textContent = settings.started_with.length ? `Started with ${settings.started_with.join(" ")}` : "";
    pickers = { first: picker("sampler", "sampler"), second: picker("sampler", "second sampler") };
    for (const group of GROUPS) pickers[group] = picker(group, group);
    $("first").replaceChildren(pickers.first.node);
    $("second").replaceChildren(pickers.second.node, make("p", { class: "quiet" }, "A chat goes on with the first one's answer."));
    $("parts").replaceChildren(...GROUPS.map((group) => pickers[group].node));
    refresh();
  }

  function send() {
    const text = $("prompt").value, chat = settings?.chat && document.querySelector("[name=kind]:checked").value === "chat";
    const wrong = document.querySelector("#form :invalid");
    if (wrong) {
      $("settings").open = true;
      wrong.reportValidity();
    }
    if (wrong || !text || !settings || working.size) return;
    // The chat so far: of two side by side, the first.
    const before = turns.filter((turn) => turn.chat && turn.runs[0].whole)
      .flatMap((turn) => [{ role: "user", content: turn.text }, { role: "assistant", content: turn.runs[0].text }]);
    const asked = chat ? { messages: [...before, { role: "user", content: text }] } : { prompt: text };
    const samplers = $("beside").checked ? [pickers.first, pickers.second] : [pickers.first];
    const runs = samplers.map((sampler) => new Run(sampler.name(), { ...asked, ...common(), sampler: sampler.value() }));
    turns.push({ chat, text, runs });
    const box = make("div", { class: "runs" }, ...runs.map((run) => run.box));
    $("thread").append(make("article", { class: "turn" }, make("p", { class: "said" }, text), box));
    $("prompt").value = "";
    box.parentNode.scrollIntoView({ block: "nearest" });
    Promise.all(runs.map((run) => run.ask(chat ? "/v1/chat/completions" : "/v1/completions", run.body))).then((began) => {
      if (!began.some(Boolean) && !$("prompt").value) $("prompt").value = text; // refused: to be changed and sent again
    });
  }

  function refresh() {
    $("stop").hidden = !working.size;
    $("send").disabled = !settings || working.size > 0;
    if (!working.size) for (const run of turns.flatMap((turn) => turn.runs)) run.tell();
  }
  const stop = () => working.forEach((control) => control.abort());
  const theme = (dark) => { document.documentElement.dataset.theme = dark ? "dark" : "light"; };

  const darkness = matchMedia("(prefers-color-scheme: dark)");
  theme(darkness.matches);
  darkness.onchange = () => theme(darkness.matches);
  $("theme").onclick = () => theme(document.documentElement.dataset.theme !== "dark");
  $("settings").open = innerWidth > 820;
  $("beside").onchange = () => { $("second").hidden = !$("beside").checked; };
  $("paint").onchange = () => {
    const sure = $("paint").value === "sure";
    document.body.className = sure ? "paint-sure" : "paint-order";
    [$("from").textContent, $("to").textContent] = sure ? ["0", "1"] : ["early", "late"];
  };
  $("new").onclick = () => {
    stop();
    turns = [];
    $("thread").replaceChildren();
    $("legend").hidden = true;
    $("prompt").focus();
  };
  $("stop").onclick = stop;
  $("ask").onsubmit = (event) => { event.preventDefault(); send(); };
  $("form").onsubmit = (event) => event.preventDefault();
  $("key").onsubmit = (event) => {
    event.preventDefault();
    sessionStorage.setItem(KEY, $("key-text").value);
    $("key-text").value = "";
    $("key").hidden = true;
    if (settings) $("prompt").focus(); else load();
  };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); send(); }
  });
  load();
})();
