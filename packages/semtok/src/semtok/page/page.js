"use strict";
(() => {
  const holder = document.getElementById("data");
  if (!holder) return;
  const data = JSON.parse(holder.textContent);
  const levels = data.levels, ids = data.ids, titles = data.titles, codes = data.codes;
  const batch = 300, most = 100;
  const code = (row, level) => codes[row * levels + level];
  const name = (row) => (titles && titles[row]) || ids[row];

  // How many items of the whole table lie below a prefix, by level and first row shown below it.
  const counts = data.counts.map(() => new Map()), words = data.counts.map(() => new Map());
  for (let row = 0, next = data.counts.map(() => 0), opens; row < ids.length; row++) {
    opens = row === 0;
    for (let level = 0; level < levels; level++) {
      opens = opens || code(row, level) !== code(row - 1, level);
      if (!opens) continue;
      if (data.words) words[level].set(row, data.words[level][next[level]]);
      counts[level].set(row, data.counts[level][next[level]++]);
    }
  }

  const element = (tag, css, text) => {
    const made = document.createElement(tag);
    if (css) made.className = css;
    if (text !== undefined) made.textContent = text;
    return made;
  };

  const path = (row, depth) => {
    const line = element("span", "path");
    for (let level = 0; level < depth; level++) {
      const chip = element("span", level < depth - 1 && depth < levels ? "earlier" : "", code(row, level));
      chip.style.setProperty("--chip", `var(--level-${level % 6})`);
      line.append(chip);
    }
    return line;
  };

  const item = (row, tag) => {
    const line = element(tag || "div", "item");
    line.append(path(row, levels), element("bdi", "names", name(row)));
    line.append(element("bdi", "id", titles && titles[row] ? ids[row] : ""));
    line.title = `${name(row)}  (${ids[row]})`;
    line.dataset.row = row;
    return line;
  };

  // The groups that rows lo..hi fall into by their code at a level, each [first row, one past last].
  const groups = (lo, hi, level) => {
    const found = [];
    for (let row = lo, start = lo; row < hi; row++) {
      if (row + 1 === hi || code(row + 1, level) !== code(row, level)) {
        found.push([start, row + 1]);
        start = row + 1;
      }
    }
    return found;
  };

  // A group's typical words, then up to four names in it, each with a direction of its own.
  const names = (lo, hi, level) => {
    const picked = new Set(), line = element("span", "names");
    const typical = words[level].get(lo);
    if (typical) line.append(element("bdi", "typical", typical));
    for (let i = 0; i < 4; i++) picked.add(name(lo + Math.floor(((hi - 1 - lo) * i) / 3)));
    [...picked].forEach((each, place) => line.append(place ? "  ·  " : "", element("bdi", "", each)));
    return line;
  };

  const node = (lo, hi, level, whole) => {
    const count = counts[level].get(lo);
    if (count === 1) return item(lo);
    const made = element("details"), line = element("summary"), size = element("span", "size");
    const bar = element("i");
    bar.style.setProperty("--share", `${(100 * count) / whole}%`);
    bar.style.setProperty("--chip", `var(--level-${level % 6})`);
    size.append(bar, element("b", "", count.toLocaleString("en")));
    line.append(path(lo, level + 1), names(lo, hi, level), size);
    made.append(line);
    made.dataset.row = lo;
    made.dataset.end = hi;
    made.addEventListener("toggle", () => made.open && fill(made, lo, hi, level + 1, count));
    return made;
  };

  // Children are made when a prefix is first opened.
  const fill = (parent, lo, hi, level, count) => {
    if (parent.querySelector(":scope > .below")) return;
    const below = element("div", "below");
    parent.append(below);
    const last = level === levels;
    const parts = last ? null : groups(lo, hi, level);
    const total = last ? hi - lo : parts.length;
    const whole = last ? 1 : Math.max(...parts.map(([start]) => counts[level].get(start)));
    let done = 0;
    const more = () => {
      const stop = Math.min(done + batch, total);
      for (; done < stop; done++) {
        below.append(last ? item(lo + done) : node(...parts[done], level, whole));
      }
      if (done < total) {
        const button = element("button", "", `${(total - done).toLocaleString("en")} more`);
        button.addEventListener("click", () => { button.remove(); more(); });
        below.append(button);
      } else if (hi - lo < count) {
        const rest = (count - (hi - lo)).toLocaleString("en");
        below.append(element("div", "rest", `${rest} further items are not listed`));
      }
    };
    below.more = () => { const button = below.querySelector(":scope > button"); if (button) button.click(); return !!button; };
    more();
  };

  const tree = document.getElementById("tree"), results = document.getElementById("results");
  const search = document.getElementById("search"), found = document.getElementById("found");
  const total = data.counts[0].reduce((sum, count) => sum + count, 0);
  fill(tree, 0, ids.length, 0, ids.length);
  if (total > ids.length) tree.firstChild.style.borderColor = "transparent";

  const reveal = (row) => {
    search.value = "";
    look();
    let at = tree.querySelector(":scope > .below");
    for (;;) {
      const inside = () => [...at.children].find((child) =>
        Number(child.dataset.row) === row ||
        (child.dataset.end && Number(child.dataset.row) <= row && row < Number(child.dataset.end)));
      let child = inside();
      while (!child && at.more()) child = inside();
      if (!child) return;
      if (child.tagName !== "DETAILS") {
        document.querySelectorAll(".here").forEach((old) => old.classList.remove("here"));
        child.classList.add("here");
        child.scrollIntoView({ block: "center" });
        return;
      }
      child.open = true;
      const lo = Number(child.dataset.row), level = child.querySelectorAll(":scope > summary .path span").length;
      fill(child, lo, Number(child.dataset.end), level, counts[level - 1].get(lo));
      at = child.querySelector(":scope > .below");
    }
  };

  let lowered = null;
  const look = () => {
    const wanted = search.value.trim().toLowerCase();
    results.replaceChildren();
    tree.hidden = wanted !== "";
    found.textContent = "";
    if (!wanted) return;
    lowered = lowered || ids.map((id, row) => `${id}\n${(titles && titles[row]) || ""}`.toLowerCase());
    const prefix = /^[\d\s,.·-]+$/.test(wanted) ? wanted.match(/\d+/g) : null;
    const agrees = (row) => prefix && prefix.length <= levels &&
      prefix.every((number, level) => Number(number) === code(row, level));
    let count = 0;
    for (let row = 0; row < ids.length; row++) {
      if (!agrees(row) && !lowered[row].includes(wanted)) continue;
      if (++count > most) continue;
      const line = item(row, "button");
      line.addEventListener("click", () => reveal(row));
      results.append(line);
    }
    const shown = count > most ? `first ${most} of ${count.toLocaleString("en")}` : count.toLocaleString("en");
    found.textContent = count ? `${shown} found` : "nothing found";
  };
  let waiting = 0;
  search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(look, 120); });
})();
