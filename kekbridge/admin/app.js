// The script of every page: theme, times in the viewer's zone, copying, and pages that change in place. Everything works without it.
"use strict";
(() => {
  const root = document.documentElement;

  // ------------------------------------------------------------------------------------------------------ theme
  function storedTheme() {
    try { return localStorage.getItem("theme") || ""; } catch { return ""; }
  }
  function applyTheme(theme) {
    if (theme) root.dataset.theme = theme; else delete root.dataset.theme;
  }
  applyTheme(storedTheme()); // before anything is drawn

  // ------------------------------------------------------------------------------------------------------ times
  const two = (number) => String(number).padStart(2, "0");
  function showTimes(part) {
    const today = new Date().toDateString();
    for (const element of part.querySelectorAll("time[datetime]")) {
      const at = new Date(element.dateTime);
      const day = `${two(at.getMonth() + 1)}-${two(at.getDate())}`;
      const minute = `${two(at.getHours())}:${two(at.getMinutes())}`;
      const full = `${at.getFullYear()}-${day} ${minute}:${two(at.getSeconds())}`;
      const isToday = at.toDateString() === today;
      const short = isToday ? `${minute}:${two(at.getSeconds())}` : `${day} ${minute}`;
      element.textContent = "short" in element.dataset ? short : full;
      element.title = `${at.toISOString().slice(0, 19).replace("T", " ")} UTC`;
    }
  }

  // What only works with a script is hidden in the page.
  function enhance(part) {
    showTimes(part);
    for (const element of part.querySelectorAll("[data-script], [data-copy]")) element.hidden = false;
    for (const plot of part.querySelectorAll("[data-crosshair]")) plot.setAttribute("tabindex", "0");
  }

  // ------------------------------------------------------------------------------------------------------ copying
  async function copy(button) {
    const source = document.querySelector(button.dataset.copy);
    const label = button.textContent;
    try {
      await navigator.clipboard.writeText((source.value ?? source.textContent).trim());
      button.textContent = "Copied";
    } catch {
      button.textContent = "Copy it by hand";
    }
    setTimeout(() => { button.textContent = label; }, 2000);
  }

  // ------------------------------------------------------------------------------------------------------ crosshair
  let crossed = null; // the chart that shows one, and the point that it shows
  let point = 0;

  function hideCrosshair() {
    crossed?.querySelectorAll(":scope > .cross").forEach((part) => part.remove());
    if (crossed) crossed.closest("figure").querySelector("output").textContent = "";
    crossed = null;
  }

  // Shows the point of a curve that `choose` picks from the seconds of all of them.
  function showCrosshair(plot, choose) {
    const numbers = (name) => plot.dataset[name].split(" ").map(Number);
    const [at, values, peaks, [from], [to], [low], [high]] = ["at", "values", "peaks", "from", "to", "low", "high"].map(numbers);
    if (crossed !== plot) { hideCrosshair(); crossed = plot; point = at.length; }
    point = Math.max(0, Math.min(at.length - 1, choose(at, to - from)));
    const x = `${(at[point] / (to - from)) * 100}%`;
    const y = `${(1 - (values[point] - low) / (high - low)) * 100}%`;
    const marks = { line: { x1: x, x2: x, y1: "0", y2: "100%" }, circle: { cx: x, cy: y, r: "4" } };
    for (const [name, attributes] of Object.entries(marks)) {
      const mark = plot.querySelector(`:scope > ${name}.cross`)
        ?? plot.appendChild(document.createElementNS("http://www.w3.org/2000/svg", name));
      for (const [key, value] of Object.entries({ class: "cross", ...attributes })) mark.setAttribute(key, value);
    }
    const time = new Date((from + at[point]) * 1000);
    const day = `${two(time.getMonth() + 1)}-${two(time.getDate())} ${two(time.getHours())}:${two(time.getMinutes())}`;
    const fall = peaks[point] > 0 ? Math.max(0, (1 - values[point] / peaks[point]) * 100) : 0;
    const amount = values[point].toLocaleString("en-US", { minimumFractionDigits: 2 });
    plot.closest("figure").querySelector("output").textContent = `${day}: ${amount} USDC, ${fall.toFixed(2)} % below its peak`;
  }

  function followPointer(event) {
    const plot = event.target.closest?.("[data-crosshair]");
    if (!plot) { hideCrosshair(); return; }
    const box = plot.getBoundingClientRect();
    const share = (event.clientX - box.left) / box.width;
    showCrosshair(plot, (at, length) => {
      const distances = at.map((seconds) => Math.abs(seconds - share * length));
      return distances.indexOf(Math.min(...distances));
    });
  }

  // --------------------------------------------------------------------------------------------- changes in place
  // Makes `old` equal to `fresh`. Elements with an id keep their identity, so that focus, selection and open details stay.
  function update(old, fresh) {
    if (old.nodeName !== fresh.nodeName) { old.replaceWith(fresh); return; }
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.data !== fresh.data) old.data = fresh.data;
      return;
    }
    const kept = old.nodeName === "DETAILS" ? ["open"] : [];
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && !kept.includes(name)) old.removeAttribute(name);
    }
    for (const { name, value } of [...fresh.attributes]) {
      if (old.getAttribute(name) !== value && !kept.includes(name)) old.setAttribute(name, value);
    }
    updateChildren(old, fresh);
  }

  function updateChildren(old, fresh) {
    const wanted = [...fresh.childNodes];
    const ids = new Set(wanted.map((child) => child.id).filter(Boolean));
    for (const child of [...old.childNodes]) if (child.id && !ids.has(child.id)) child.remove();
    const known = new Map([...old.children].filter((child) => child.id).map((child) => [child.id, child]));
    let at = old.firstChild;
    for (const child of wanted) {
      const match = child.id ? known.get(child.id) : at && !at.id ? at : null;
      if (!match) {
        old.insertBefore(child, at);
        if (child.nodeName === "TR") child.classList.add("changed");
        continue;
      }
      if (match === at) at = at.nextSibling; else old.insertBefore(match, at);
      const before = match.textContent;
      update(match, child);
      if (match.nodeName === "TR" && match.textContent !== before) {
        match.classList.remove("changed");
        void match.offsetWidth; // begins the animation again
        match.classList.add("changed");
      }
    }
    while (at) { const next = at.nextSibling; at.remove(); at = next; }
  }

  let since = null; // id of the last event that the page shows or has asked for
  let isLoading = false;
  let timer = null;
  let loadedAt = 0;

  async function load() {
    isLoading = true;
    loadedAt = Date.now();
    try {
      const answer = await fetch(location.href, { cache: "no-store" });
      if (answer.redirected) { location.reload(); return; } // signed out
      if (!answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      enhance(page);
      for (const part of document.querySelectorAll("[data-live]")) {
        const fresh = page.getElementById(part.id);
        const field = part.contains(document.activeElement) && document.activeElement.matches("input, select, textarea");
        if (fresh && !field) update(part, document.importNode(fresh, true));
      }
      document.dispatchEvent(new Event("kekbridge:updated"));
    } catch { /* the dot shows it */ } finally {
      isLoading = false;
    }
  }

  // At most once a second, and never while another answer is awaited.
  function loadSoon() {
    if (timer || document.hidden || !document.querySelector("[data-live]")) return;
    timer = setTimeout(() => {
      timer = null;
      if (isLoading) loadSoon(); else load();
    }, Math.max(0, loadedAt + 1000 - Date.now()));
  }

  let source = null;
  function showState(text) {
    const dot = document.querySelector("[data-dot]");
    dot.hidden = false;
    dot.textContent = text;
    dot.classList.toggle("live", text === "live");
  }

  function connect() {
    if (source || document.hidden) return;
    source = new EventSource(since === null ? "/api/events" : `/api/events?after=${since}`);
    source.onopen = () => showState("live");
    source.onerror = () => {
      showState("reconnecting");
      if (source.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
      source = null;
      setTimeout(connectAgain, 2000);
    };
    for (const name of ["history", "reset", "state"]) {
      source.addEventListener(name, (event) => {
        if (event.lastEventId) since = event.lastEventId;
        loadSoon();
      });
    }
  }

  // After a refused stream: too many are open, or the session has ended. Entries of a form stay on the screen.
  async function connectAgain() {
    const answer = await fetch(location.href, { method: "HEAD", redirect: "manual" }).catch(() => null);
    if (answer?.type !== "opaqueredirect") { connect(); loadSoon(); return; }
    if (document.querySelector("[data-live]")) location.reload(); else showState("signed out");
  }

  function disconnect() { // a browser has few connections to one address for all its tabs
    source?.close();
    source = null;
  }

  // ------------------------------------------------------------------------------------------------------ wallet
  // Has a wallet of this browser (EIP-1193, found by EIP-6963) sign what the daemon prepared; the daemon checks and sends it.
  const refusals = {
    4001: "You rejected it in the wallet. Nothing was registered.",
    4100: "The wallet does not let this page use the account: connect it there, then choose the wallet again.",
    "-32002": "The wallet is waiting for you: open it and answer its request.",
  };

  function registerWithWallet(section) {
    const [form, choices, line, messages] = ["form", "[data-choices]", "[data-say]", "[data-messages]"].map((one) => section.querySelector(one));
    const say = (text, kind = "") => { line.textContent = text; line.className = kind; };
    const explain = (error) => refusals[error.code] || error.message || String(error);
    const again = (text) => new Error(`${text} Choose the wallet again.`);
    let isBusy = false;

    async function post(what, ...fields) {
      const answer = await fetch(`/keys/wallet/${what}`, { method: "POST", body: new URLSearchParams([...new FormData(form), ...fields]) });
      if (answer.status === 401) throw new Error("Your session has ended: sign in again.");
      const found = await answer.json();
      if (!answer.ok) throw new Error(found.error);
      return found;
    }

    // An error ends the attempt: of what is half-signed, nothing is kept.
    async function step(work, attempt) {
      if (isBusy) return;
      isBusy = true;
      try { await work(); } catch (error) {
        messages.replaceChildren();
        if (attempt) await post("cancel", ["attempt", attempt]).catch(() => {});
        say(explain(error), "bad");
      }
      isBusy = false;
    }

    const makeButton = (textContent, ...work) => Object.assign(document.createElement("button"), { textContent, type: "button", onclick: () => step(...work) });

    async function prepare(name, ask) {
      messages.replaceChildren();
      say(`Waiting for ${name}…`);
      const [wallet] = await ask("eth_requestAccounts");
      say("Asking the exchange…");
      const ready = await post("prepare", ["wallet", wallet]);
      ready.until = Date.now() + ready.validForS * 1000;
      say(ready.summary);
      messages.innerHTML = ready.html;
      const go = makeButton(ready.messages.length ? `Sign in ${name}` : "Keep the key", () => sign(ask, ready), ready.attempt);
      messages.append(go);
      go.focus();
    }

    async function sign(ask, ready) {
      const signatures = [];
      for (const { name, typed } of ready.messages) {
        await useChain(ask, ready.chain);
        const [account = "no account"] = await ask("eth_accounts");
        if (account.toLowerCase() !== ready.wallet.toLowerCase()) throw again(`The wallet is on ${account} now, the message is for ${ready.wallet}.`);
        if (Date.now() > ready.until) throw again("The messages have expired.");
        say(`Sign ${name} in the wallet…`);
        signatures.push(["signature", await ask("eth_signTypedData_v4", [ready.wallet, typed])]);
      }
      say("Registering at the exchange…");
      const { html } = await post("register", ["attempt", ready.attempt], ...signatures);
      messages.innerHTML = html;
      say("Registered.", "good");
    }

    // A wallet signs only for the chain that it is on.
    async function useChain(ask, chain) {
      const isThere = async () => Number(await ask("eth_chainId")) === Number(chain.chainId);
      const change = () => ask("wallet_switchEthereumChain", [{ chainId: chain.chainId }]);
      if (await isThere()) return;
      say(`Switch the wallet to ${chain.chainName}…`);
      try { await change(); } catch (error) {
        if (error.code === 4001) throw error;
        const isUnknown = [error.code, error.data?.originalError?.code].includes(4902);
        if (!isUnknown) throw again(`The wallet did not switch (${explain(error)}): switch it to ${chain.chainName} by hand.`);
        await ask("wallet_addEthereumChain", [chain]);
        if (!await isThere()) await change();
      }
      if (!await isThere()) throw again(`The wallet stayed on another chain than ${chain.chainName}.`);
    }

    function offer(name, provider) {
      choices.append(makeButton(name, () => prepare(name, (method, params = []) => provider.request({ method, params }))));
      form.hidden = false;
    }

    const seen = new Set();
    addEventListener("eip6963:announceProvider", ({ detail: { info, provider } }) => {
      if (!seen.has(info.uuid)) offer(info.name, provider);
      seen.add(info.uuid);
    });
    dispatchEvent(new Event("eip6963:requestProvider"));
    setTimeout(() => {
      if (seen.size) return;
      if (window.ethereum) offer("Browser wallet", window.ethereum);
      else say("No wallet was found in this browser. Install or unlock one, such as MetaMask or Rabby, and reload.");
    }, 500);
  }

  // -------------------------------------------------------------------------------------------------------- forms
  // A form with `data-builds` shows what it builds while one types: its own page, with the part of that id.
  let built = 0; // the newest request: an older answer is ignored
  async function build(form) {
    const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => value !== ""));
    const url = `${form.getAttribute("action")}?${query}`;
    const number = ++built;
    try {
      const answer = await fetch(url, { cache: "no-store" });
      if (answer.redirected) { location.reload(); return; } // signed out
      if (answer.status !== 200 && answer.status !== 422) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (number !== built) return;
      enhance(page);
      const fresh = page.querySelector("form[data-builds]");
      const part = page.getElementById(form.dataset.builds);
      if (!fresh || !part) return;
      update(form, document.importNode(fresh, true));
      update(document.getElementById(part.id), document.importNode(part, true));
      history.replaceState(null, "", url);
    } catch { /* the button of the form works, too */ }
  }

  let building = null;
  document.addEventListener("input", (event) => {
    const form = event.target.form;
    if (form && "unsaved" in form.dataset) form.dataset.unsaved = "changed";
    if (!form || !form.dataset.builds) return;
    clearTimeout(building);
    building = setTimeout(() => build(form), 250);
  });

  // A form with `data-unsaved` asks before its changes are lost. A double click sends a form once.
  const sent = new WeakSet();
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.method === "post") {
      if (sent.has(form)) { event.preventDefault(); return; }
      sent.add(form);
      setTimeout(() => sent.delete(form), 3000); // a download leaves the page as it is
    }
    if ("unsaved" in form.dataset) form.dataset.unsaved = "";
  });
  addEventListener("beforeunload", (event) => {
    if (document.querySelector("form[data-unsaved=changed]")) event.preventDefault();
  });

  // -------------------------------------------------------------------------------------------------------- start
  // A link from elsewhere comes without the session's cookie: ask for its page from here before asking for the token.
  async function leaveSignIn(wanted) {
    const answer = await fetch(wanted, { method: "HEAD", redirect: "manual" });
    if (answer.ok) location.replace(wanted);
  }

  document.addEventListener("DOMContentLoaded", () => {
    enhance(document);
    const choice = document.querySelector("[data-theme-choice]");
    if (choice) choice.value = storedTheme();
    const wanted = document.querySelector("form[data-wanted]");
    if (wanted) leaveSignIn(wanted.dataset.wanted).catch(() => {});
    document.querySelectorAll("[data-wallet]").forEach(registerWithWallet);
    if (!document.querySelector("[data-dot]")) return;
    since = document.body.dataset.after ?? null;
    connect();
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) disconnect(); else { connect(); loadSoon(); }
    });
    addEventListener("pagehide", disconnect);
    addEventListener("pageshow", (event) => { if (event.persisted) { connect(); loadSoon(); } });
  });

  document.addEventListener("change", (event) => {
    if (!event.target.matches("[data-theme-choice]")) return;
    applyTheme(event.target.value);
    try { localStorage.setItem("theme", event.target.value); } catch { /* for this page only */ }
  });

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy]");
    if (button) copy(button);
    for (const menu of document.querySelectorAll("details.more[open]")) {
      if (!menu.contains(event.target)) menu.open = false;
    }
  });

  document.addEventListener("pointermove", followPointer);
  document.addEventListener("pointerdown", followPointer);

  document.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (step && event.target.matches("[data-crosshair]")) {
      event.preventDefault();
      showCrosshair(event.target, () => point + step);
    }
    if (event.key !== "Escape") return;
    for (const menu of document.querySelectorAll("details.more[open]")) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  });
})();
