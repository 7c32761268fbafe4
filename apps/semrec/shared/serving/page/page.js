"use strict";
(() => {
  const SHOWN = 10, MATCHES = 30, TOKEN = "semrec-token";
  const by = (id) => document.getElementById(id);
  const state = {
    history: [], denied: [], seen: false, ranking: "", run: null, // items are {id, title}
    columns: new Set(), open: new Set(), looked: null, answer: null,
  };

  const element = (tag, css, text) => {
    const made = document.createElement(tag);
    if (css) made.className = css;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const button = (css, text, label, act) => {
    const made = element("button", css, text);
    made.type = "button";
    if (label) made.setAttribute("aria-label", label);
    made.addEventListener("click", act);
    return made;
  };
  const say = (words) => { by("status").textContent = words; };

  // Numbers.
  const score = (value) => (Math.abs(value) < 10 ? value.toFixed(3) : value.toFixed(1)).replace("-", "−");
  const percent = (share) => {
    const value = 100 * share;
    if (value > 0 && value < 0.001) return "< 0.001 %";
    return `${value >= 10 ? value.toFixed(1) : value >= 0.1 ? value.toFixed(2) : value.toFixed(3)} %`;
  };
  const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
  const ordinal = (number) => {
    const teen = number % 100 >= 11 && number % 100 <= 13;
    return `${number}${teen ? "th" : ["th", "st", "nd", "rd"][number % 10] || "th"}`;
  };

  // The service. The user enters a token once; it is kept in this tab.
  let asking = null;
  const askToken = (words) => {
    asking = asking || new Promise((resolve) => {
      const dialog = by("token-dialog");
      if (words) by("token-words").textContent = words;
      by("token").value = "";
      dialog.addEventListener("close", () => {
        asking = null;
        sessionStorage.setItem(TOKEN, by("token").value.trim());
        resolve();
      }, { once: true });
      dialog.showModal();
    });
    return asking;
  };
  const call = async (path, { body, signal } = {}) => {
    const headers = body ? { "Content-Type": "application/json" } : {};
    const token = sessionStorage.getItem(TOKEN);
    if (document.body.dataset.needsToken === "yes") {
      if (!token) {
        await askToken();
        return call(path, { body, signal });
      }
      headers.Authorization = `Bearer ${token}`;
    }
    const response = await fetch(path, {
      method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body),
    });
    const content = await response.json();
    if (response.status === 401) {
      if (sessionStorage.getItem(TOKEN) === token) sessionStorage.removeItem(TOKEN);
      if (!sessionStorage.getItem(TOKEN)) await askToken("This token is wrong. Please try again.");
      return call(path, { body, signal });
    }
    if (!response.ok) throw new Error(content.detail);
    return content;
  };
  const failed = (error) => {
    if (error.name === "AbortError") return;
    by("alert").firstElementChild.textContent = `${error.message}.`;
    by("alert").hidden = false;
  };

  // The state in the address, so that a page can be stored and sent.
  const keep = () => {
    const kept = new URLSearchParams();
    state.history.forEach(({ id }) => kept.append("item", id));
    state.denied.forEach(({ id }) => kept.append("deny", id));
    if (state.seen) kept.set("seen", "out");
    if (state.ranking) kept.set("ranking", state.ranking);
    history.replaceState(null, "", `#${kept}`);
  };
  const recall = async () => {
    const { hash } = location, kept = new URLSearchParams(hash.slice(1));
    const known = (ids) => Promise.all(ids.map((id) =>
      call(`items/${encodeURIComponent(id)}`).catch(() => ({ id, title: `${id} (not known here)` }))));
    const [items, denied] = await Promise.all([known(kept.getAll("item")), known(kept.getAll("deny"))]);
    if (location.hash !== hash) return; // the address has changed meanwhile
    [state.history, state.denied] = [items, denied];
    state.seen = by("seen").checked = kept.get("seen") === "out";
    const ranking = kept.get("ranking") || "";
    const isOther = ranking !== state.run.answers_by && state.run.rankings.some(({ name }) => name === ranking);
    state.ranking = isOther ? ranking : "";
    by("ranking").value = state.ranking;
  };

  // Search.
  let searching = new AbortController(), waiting = 0;
  const search = async () => {
    searching.abort();
    searching = new AbortController();
    const query = by("search").value.trim();
    if (!query) {
      by("results").replaceChildren();
      by("matches").textContent = "";
      return;
    }
    const path = `items?${new URLSearchParams({ query, limit: MATCHES })}`;
    const { items, total } = await call(path, { signal: searching.signal });
    by("results").replaceChildren(...items.map((item) => {
      const line = element("li"), add = button("add", "", `Add ${item.title}`, () => push(item));
      add.append(element("bdi", "title", item.title || item.id));
      add.title = `${item.title} (${item.id})`;
      const why = button("why", "Why?", `Where is ${item.title}?`, () => lookUp(item));
      line.append(add, why);
      return line;
    }));
    by("matches").textContent = !total ? "No id begins with this, and no title holds all of these words"
      : total > items.length ? `First ${items.length} of ${count(total, "item")}` : count(total, "item");
  };

  // History.
  const changed = () => { keep(); drawHistory(); return refresh(); };
  const push = (item) => {
    state.history.push({ id: item.id, title: item.title });
    say(`${item.title} added, ${count(state.history.length, "item")} in the history`);
    changed();
  };
  const remove = (place) => {
    const [item] = state.history.splice(place, 1);
    say(`${item.title} removed`);
    changed();
    const handles = by("history").querySelectorAll(".handle");
    (handles[Math.min(place, handles.length - 1)] || by("search")).focus();
  };
  const move = (from, to) => {
    if (to < 0 || to >= state.history.length || from === to) return;
    state.history.splice(to, 0, ...state.history.splice(from, 1));
    say(`${state.history[to].title}: place ${to + 1} of ${state.history.length}`);
    changed();
    by("history").children[to].querySelector(".handle").focus();
  };
  const drag = (line, start) => {
    const list = by("history"), handle = start.currentTarget;
    if (start.button) return;
    start.preventDefault();
    handle.focus();
    handle.setPointerCapture(start.pointerId);
    const from = [...list.children].indexOf(line);
    line.classList.add("dragged");
    const middle = (other) => {
      const box = other.getBoundingClientRect();
      return box.top + box.height / 2;
    };
    // Moves the other lines: a line that leaves the document loses focus and pointer.
    const follow = ({ clientY }) => {
      for (let other = line.previousElementSibling; other && clientY < middle(other); other = line.previousElementSibling) line.after(other);
      for (let other = line.nextElementSibling; other && clientY > middle(other); other = line.nextElementSibling) line.before(other);
    };
    const end = (event) => {
      handle.removeEventListener("pointermove", follow);
      line.classList.remove("dragged");
      const to = [...list.children].indexOf(line);
      if (event.type === "pointerup") move(from, to);
      else drawHistory();
    };
    handle.addEventListener("pointermove", follow);
    handle.addEventListener("pointerup", end, { once: true });
    handle.addEventListener("pointercancel", end, { once: true });
  };
  const drawHistory = () => {
    const { history: items, denied } = state;
    by("history").replaceChildren(...items.map((item, place) => {
      const line = element("li"), handle = element("button", "handle");
      handle.type = "button";
      handle.setAttribute("aria-label", `${item.title}, place ${place + 1} of ${items.length}`);
      handle.setAttribute("aria-describedby", "history-help");
      handle.append(element("b", "", place + 1));
      handle.addEventListener("pointerdown", (event) => drag(line, event));
      handle.addEventListener("keydown", (event) => {
        const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
        if (step) move(place, place + step);
        else if (event.key === "Delete" || event.key === "Backspace") remove(place);
        else return;
        event.preventDefault();
      });
      const title = element("bdi", "title", item.title || item.id);
      title.title = `${item.title} (${item.id})`;
      line.append(handle, title, button("icon", "×", `Remove ${item.title}`, () => remove(place)));
      return line;
    }));
    by("history-empty").hidden = items.length > 0;
    by("history-help").hidden = by("clear").hidden = items.length === 0;
    by("denied-part").hidden = denied.length === 0;
    by("denied").replaceChildren(...denied.map((item, place) => {
      const line = element("li");
      line.append(element("bdi", "title", item.title || item.id));
      line.append(button("icon", "×", `Show ${item.title} again`, () => {
        state.denied.splice(place, 1);
        changed();
        by("search").focus();
      }));
      return line;
    }));
  };

  // Recommendations.
  const level = (made, number) => { made.style.setProperty("--level", `var(--level-${number % 6})`); return made; };
  const code = (value, number) => level(element("span", "code", value), number);
  const bar = (share) => {
    const made = element("span", "bar"), filled = element("i");
    filled.style.setProperty("--share", `${100 * share}%`);
    made.append(filled);
    return made;
  };
  const chance = (path) => path.reduce((product, { probability }) => product * probability, 1);
  const STRUCK = {
    seen: "in the history", denied: "never shown", not_allowed: "not allowed", never_had: "no interactions",
  };
  const reason = ({ struck, path }) => {
    if (struck !== "not_generated") return STRUCK[struck];
    const lost = path.findIndex(({ kept }) => kept === false);
    return lost < 0 ? "generation did not reach it" : `not in the beams from code ${lost + 1} on`;
  };

  const steps = (path) => {
    const part = element("div"), list = element("ol", "plain");
    part.append(element("h4", "", "The path in the tree: the probability of each code, given the codes before it"));
    path.forEach(({ code: value, probability, choices, kept }, number) => {
      const line = level(element("li", kept === false ? "step lost" : "step"), number);
      line.append(code(value, number), bar(probability), element("span", "number", percent(probability)));
      line.append(element("span", "small", kept === false ? "no beam" : choices === 1 ? "only code" : `of ${count(choices, "code")}`));
      list.append(line);
    });
    const sum = element("li", "sum");
    sum.append(element("span", "", "All codes together"), element("span", "number", percent(chance(path))));
    list.append(sum);
    part.append(list);
    return part;
  };
  const sums = (parts, ranked) => {
    const part = element("div"), list = element("ul", "plain");
    part.append(element("h4", "", "The score is a sum"));
    const most = Math.max(...Object.values(parts).map(Math.abs), 1e-9);
    Object.entries(parts).forEach(([name, value]) => {
      const line = element("li", "part"), balance = element("span", value < 0 ? "balance less" : "balance");
      const filled = element("i"), share = (50 * Math.abs(value)) / most;
      filled.style.setProperty("--share", `${share}%`);
      filled.style.setProperty("--from", `${value < 0 ? 50 - share : 50}%`);
      balance.append(filled);
      const words = name.replaceAll("_", " ");
      line.append(element("span", "", words), balance, element("span", "number", score(value)));
      list.append(line);
    });
    const total = Object.values(parts).reduce((sum, value) => sum + value, 0), sum = element("li", "sum");
    sum.append(element("span", "", ranked ? "Score" : "Score if not excluded"), element("span", "number", score(total)));
    list.append(sum);
    part.append(list);
    return part;
  };
  const reasons = (item) => {
    const part = element("div", "reasons"), actions = element("div", "actions");
    if (item.path) part.append(steps(item.path));
    if (item.parts) part.append(sums(item.parts, item.rank !== null));
    if (!item.path) part.append(element("p", "note", state.answer.popular ? "Ranked by its number of interactions." : "This ranking uses no tree of codes."));
    actions.append(element("span", "small", item.id));
    actions.append(button("link", "Add to the history", "", () => push(item)));
    if (item.struck !== "denied") {
      actions.append(button("link", "Never show it", "", () => {
        state.denied.push({ id: item.id, title: item.title });
        say(`${item.title} is never shown`);
        changed();
        by("answer").focus();
      }));
    }
    part.append(actions);
    return part;
  };
  const row = (item) => {
    const made = element("li", "item"), line = element("div", "row"), open = button("open", "", "", () => {
      const isOpen = !state.open.delete(item.id);
      if (isOpen) state.open.add(item.id);
      unfold(isOpen);
    });
    const unfold = (isOpen) => {
      open.setAttribute("aria-expanded", isOpen);
      if (made.children.length > 1) made.lastChild.remove();
      if (isOpen) made.append(reasons(item));
    };
    made.dataset.id = item.id;
    open.dataset.rank = item.rank ?? "–";
    open.dataset.hasPath = item.path && item.rank !== null ? "yes" : "no";
    open.append(element("bdi", "name", item.title || item.id));
    const codes = element("span", "codes");
    (item.codes || []).forEach((value, number) => codes.append(code(value, number)));
    open.append(codes);
    if (item.rank === null) {
      const tags = element("span", "tags");
      if (item.free_rank !== null) tags.append(element("span", "number score", `would be ${ordinal(item.free_rank)}`));
      tags.append(element("span", "tag", reason(item)));
      open.append(tags);
    } else {
      if (item.path) {
        const likely = element("span", "likely");
        likely.append(bar(chance(item.path) / Math.max(state.likeliest, 1e-12)), element("span", "number", percent(chance(item.path))));
        open.append(likely);
      }
      open.append(element("span", "number score", score(item.score)));
    }
    line.append(open, button("icon", "+", `Add ${item.title} to the history`, () => push(item)));
    made.append(line);
    unfold(state.open.has(item.id));
    return made;
  };
  // The focused button of an item keeps the focus when the list is drawn again.
  const keepingFocus = (draw) => {
    const line = document.activeElement.closest(".item"), list = line && line.parentElement;
    const place = line ? [...line.querySelectorAll("button")].indexOf(document.activeElement) : -1;
    draw();
    if (!line) return;
    const same = [...list.children].find((other) => other.dataset.id === line.dataset.id) || list.firstElementChild;
    ((same && same.querySelectorAll("button")[place]) || by("answer")).focus({ preventScroll: true });
  };
  const drawAnswer = () => keepingFocus(() => {
    const { items, left_out: leftOut, popular } = state.answer, looked = state.looked;
    state.likeliest = Math.max(...items.filter(({ path }) => path).map(({ path }) => chance(path)), 0);
    by("head").hidden = !items.some(({ path }) => path);
    by("items").replaceChildren(...items.map(row));
    by("popular").hidden = !popular && items.length > 0;
    by("popular").textContent = !popular ? "Nothing can be recommended: all items are excluded."
      : `${state.history.length ? "No item of the history is known" : "The history is empty"}, so these are the most popular items.`;
    by("left-out").replaceChildren(...leftOut.map(row));
    by("left-out-part").hidden = leftOut.length === 0;
    by("looked").replaceChildren(...(looked && looked.answer ? looked.answer.map(row) : []));
    by("looked-part").hidden = by("looked").children.length === 0;
  });
  const lookUp = async (item) => {
    state.looked = { id: item.id, answer: null };
    state.open.add(item.id);
    await refresh();
    const line = by("looked").firstElementChild;
    if (!line) return;
    line.querySelector("button").focus({ preventScroll: true });
    line.scrollIntoView({ block: "center" });
  };

  // Other rankings.
  const drawColumn = (column, items) => {
    const places = new Map(state.answer.items.map(({ id, rank }) => [id, rank]));
    column.list.replaceChildren(...items.map(({ id, title, score: value }, place) => {
      const line = element("li"), name = element("bdi", "title", title || id);
      line.dataset.rank = place + 1;
      line.dataset.id = id;
      name.title = `${title} (${id})`;
      const above = places.has(id) ? element("span", "place", places.get(id)) : element("span");
      if (places.has(id)) above.setAttribute("aria-label", `place ${places.get(id)} above`);
      line.append(name, above, element("span", "number score", score(value)));
      return line;
    }));
    const same = items.length === state.answer.items.length && items.every(({ id }, place) => places.get(id) === place + 1);
    column.note.textContent = same ? "The same items in the same order as above." : "";
  };
  const drawChoices = () => {
    by("choices").replaceChildren(...state.run.rankings.map(({ name }) => {
      const made = button("", name, "", () => {
        if (!state.columns.delete(name)) state.columns.add(name);
        made.setAttribute("aria-pressed", state.columns.has(name));
        refresh();
      });
      made.setAttribute("aria-pressed", state.columns.has(name));
      return made;
    }));
  };
  const light = (id) => document.querySelectorAll(".column li").forEach((line) =>
    line.classList.toggle("same", line.dataset.id === id));

  // Asks all rankings at once for one history; a later request replaces an earlier one.
  let working = new AbortController();
  const refresh = async () => {
    working.abort();
    working = new AbortController();
    const { signal } = working;
    const body = {
      history: state.history.map(({ id }) => id), deny: state.denied.map(({ id }) => id),
      exclude_seen: state.seen, top_k: SHOWN,
    };
    const ranked = { ...body, ranking: state.ranking || null };
    by("alert").hidden = true;
    by("answer").setAttribute("aria-busy", "true");
    by("others").setAttribute("aria-busy", "true");
    const names = state.run.rankings.map(({ name }) => name).filter((name) => state.columns.has(name));
    try {
      const [answer, looked, ...columns] = await Promise.all([
        call("explain", { body: ranked, signal }),
        state.looked && call("explain", { body: { ...ranked, items: [state.looked.id] }, signal }),
        ...names.map((name) => call("recommend", { body: { ...body, ranking: name }, signal })),
      ]);
      state.answer = answer;
      if (looked) state.looked.answer = looked.items;
      drawAnswer();
      by("others").replaceChildren(...names.map((name, place) => {
        const column = { made: element("div", "column"), list: element("ol", "plain"), note: element("p", "note") };
        column.made.append(element("h3", "", name), column.list, column.note);
        drawColumn(column, columns[place].answers[0].items);
        return column.made;
      }));
    } catch (error) {
      failed(error);
    } finally {
      if (!signal.aborted) {
        by("answer").setAttribute("aria-busy", "false");
        by("others").setAttribute("aria-busy", "false");
      }
    }
  };

  const describe = () => {
    const { run, app, items, levels, rankings, answers_by: answersBy } = state.run;
    const title = { prorec: "PRORec", cocorec: "CoCoRec", tssr: "TSSR" }[app] || app;
    by("title").textContent = document.title = `${title}: ${run}`;
    by("facts").textContent = [count(items, "item"), levels && count(levels, "code") + " per item"].filter(Boolean).join(" · ");
    const choice = (name, words) => {
      const option = element("option", "", words);
      option.value = name;
      return option;
    };
    by("ranking").append(
      choice("", answersBy ? `${answersBy} (used by the run)` : "used by the run"),
      ...rankings.filter(({ name }) => name !== answersBy).map(({ name }) => choice(name, name)),
    );
    document.documentElement.style.setProperty("--codes", `${Math.min(levels || 0, 5) * 2.25}rem`);
    // At first the models are compared, and the last floor, which is usually the strongest.
    const floors = rankings.filter(({ is_floor: isFloor }) => isFloor);
    rankings.filter((ranking) => (!ranking.is_floor || ranking === floors.at(-1)) && ranking.name !== answersBy)
      .forEach(({ name }) => state.columns.add(name));
    drawChoices();
  };
  const start = async () => {
    by("alert").hidden = true;
    try {
      if (!state.run) {
        state.run = await call("run");
        describe();
        await recall();
      }
    } catch (error) {
      failed(error);
      return;
    }
    drawHistory();
    await refresh();
  };

  by("search").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => search().catch(failed), 120);
  });
  by("search").addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "Enter") {
      const first = by("results").querySelector(".add");
      if (!first) return;
      if (event.key === "Enter") first.click();
      else first.focus();
      event.preventDefault();
    }
  });
  by("results").addEventListener("keydown", (event) => {
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key], lines = [...by("results").children];
    if (event.key === "Escape") by("search").focus();
    if (!step) return;
    const next = lines[lines.indexOf(event.target.closest("li")) + step];
    (next ? next.querySelector(".add") : step < 0 ? by("search") : event.target).focus();
    event.preventDefault();
  });
  by("seen").addEventListener("change", ({ target }) => { state.seen = target.checked; changed(); });
  by("ranking").addEventListener("change", ({ target }) => { state.ranking = target.value; changed(); });
  by("clear").addEventListener("click", () => { state.history = []; say("History cleared"); changed(); by("search").focus(); });
  by("forget").addEventListener("click", () => { state.looked = null; drawAnswer(); by("search").focus(); });
  by("alert").querySelector("button").addEventListener("click", start);
  // Another address in an open tab; changes by `keep` itself raise no event.
  addEventListener("hashchange", async () => {
    if (!state.run) return;
    await recall();
    drawHistory();
    await refresh();
  });
  for (const list of ["items", "left-out", "looked", "others"]) {
    for (const kind of ["pointerover", "focusin"]) {
      by(list).addEventListener(kind, ({ target }) => {
        const line = target.closest("[data-id]");
        light(line && line.dataset.id);
      });
    }
  }
  start();
})();
