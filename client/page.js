"use strict";
// Keeps the page up to date: fetches its own address again, takes over what changed (focus, open parts and a selection
// stay where they are), counts down in between, and says so when nothing new can be had.
(() => {
  const line = document.getElementById("live");
  const news = document.getElementById("news");
  const main = () => document.querySelector("main");
  let title = document.title;
  let heard = new Date();
  let since = performance.now();
  let waiting = 0;
  let asking = false;

  const span = (seconds) => {
    for (const [unit, size, smaller, rest] of [["d", 86400, "h", 3600], ["h", 3600, "min", 60], ["min", 60, "s", 1]]) {
      if (seconds >= size) {
        const more = Math.floor((seconds % size) / rest);
        return `${Math.floor(seconds / size)} ${unit}${more ? ` ${more} ${smaller}` : ""}`;
      }
    }
    return `${seconds} s`;
  };

  const tick = () => {
    const gone = (performance.now() - since) / 1000;
    for (const one of document.querySelectorAll("[data-left]")) {
      const left = Math.max(0, Math.round(Number(one.dataset.left) - gone));
      if (one.localName === "meter") one.value = left;
      else one.textContent = left > 0 ? span(left) : "any moment";
    }
  };

  const patch = (old, next) => {
    if (old.nodeName !== next.nodeName || (old.id ?? "") !== (next.id ?? "")) {
      old.replaceWith(next);
      return;
    }
    if (old.nodeType === Node.TEXT_NODE) {
      if (old.data !== next.data) old.data = next.data;
      return;
    }
    for (const { name } of [...old.attributes]) {
      if (name !== "open" && !next.hasAttribute(name)) old.removeAttribute(name);
    }
    for (const { name, value } of next.attributes) {
      if (name !== "open" && old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    let at = old.firstChild;
    const drop = () => ([at] = [at.nextSibling, at.remove()]);
    for (const child of [...next.childNodes]) {
      // What has an id is looked for, so that what comes or goes before it does not take its focus along.
      const same = child.id && [...old.children].find((one) => one.id === child.id);
      while (same && at !== same) drop();
      if (!at || (at.id ?? "") !== (child.id ?? "")) old.insertBefore(child, at);
      else [at] = [at.nextSibling, patch(at, child)];
    }
    while (at) drop();
  };

  const refresh = async () => {
    clearTimeout(waiting);
    if (document.hidden || asking) return;
    asking = true;
    try {
      const here = location.origin + location.pathname + location.search;
      const options = { headers: { Accept: "text/html" }, cache: "no-store", signal: AbortSignal.timeout(30000) };
      const answer = await fetch(here, options);
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const next = page.querySelector("main");
      if (!next) throw new Error(`the answer was ${answer.status}, and no page`);
      if (next.dataset.failed) throw new Error(next.dataset.failed);
      [heard, since] = [new Date(), performance.now()];
      if (main().dataset.news !== next.dataset.news) news.textContent = next.dataset.news;
      patch(main(), next);
      document.title = title = page.title;
      delete document.body.dataset.stale;
      line.textContent = "";
      tick();
    } catch (trouble) {
      const why = trouble instanceof TypeError ? "nobody answers" : trouble.message.replace(/\.$/, "");
      const words = `Not live: this is of ${heard.toLocaleTimeString([], { hourCycle: "h23" })}. Asked since: ${why}.`;
      document.body.dataset.stale = "";
      document.title = `(not live) ${title}`;
      if (line.textContent !== words) line.textContent = words; // it is read out when it changes, and not each time
    } finally {
      asking = false;
      waiting = setTimeout(refresh, Number(main().dataset.every) * 1000);
    }
  };

  setInterval(() => document.hidden || tick(), 1000);
  document.addEventListener("visibilitychange", refresh);
  waiting = setTimeout(refresh, Number(main().dataset.every) * 1000);
})();
