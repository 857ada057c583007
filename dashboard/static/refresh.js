// Keeps #live as the server sees it, while the page is looked at; what the reader opened stays open.
"use strict";
(() => {
  const SECONDS = 4;

  async function refresh() {
    if (document.hidden || !document.getSelection().isCollapsed) return; // nobody looks, or somebody copies text
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (answer.redirected) return location.reload(); // the session ended
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("live");
    const live = document.getElementById("live");
    if (!fresh || fresh.innerHTML === live.innerHTML) return;
    for (const open of live.querySelectorAll("details[open][id]")) {
      fresh.querySelector(`#${CSS.escape(open.id)}`)?.setAttribute("open", "");
    }
    const focused = live.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    live.replaceChildren(...fresh.childNodes);
    if (focused) live.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  }

  async function loop() {
    try {
      await refresh();
    } catch {
      // the dashboard does not answer at the moment; what is shown stays
    }
    setTimeout(loop, SECONDS * 1000);
  }
  setTimeout(loop, SECONDS * 1000);
})();
