// The token of a link: taken out of the address bar, kept in this page's memory, sent as a header.

/** Takes the token out of the address bar and the tab's back list, so that neither bookmark nor shoulder has it. Null if there is none.
 *  The browser's own history keeps the address as it was opened: there a short TTL and the one use help. */
export function takeToken() {
  const token = location.hash.slice(1);
  if (token) history.replaceState(null, "", location.pathname);
  return token || null;
}

/** The answer to a request with this token: {ok, status, body}. */
export async function ask(token, method, path, json) {
  const headers = { "X-Temp-Token": token };
  if (json) headers["Content-Type"] = "application/json";
  const body = json && JSON.stringify(json);
  const response = await fetch(path, { method, headers, body, cache: "no-store" });
  return { ok: response.ok, status: response.status, body: await response.json() };
}

/** Why it went no further, in words for the person who clicked: a title and a text. */
export function why(answer) {
  if (answer === null) return ["Please open your link again", "This page keeps nothing of it, so it has to come from the message."];
  if (answer.status !== 401) return ["Something is wrong on our side", "Your link is as good as before. Please try again in a moment."];
  if (answer.body.because === "expired") return ["This link has expired", "It worked for a short time only. Ask for a new one."];
  return ["This link is no longer good", "It has been used, or a newer one has taken its place."];
}

/** Shows the one section of the page with this id. */
export function show(id) {
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== id;
  document.querySelector(`#${id} h1`).focus();
}

/** Shows the section `sorry` with the reason. */
export function sorry(answer) {
  const [title, text] = why(answer);
  document.querySelector("#sorry h1").textContent = title;
  document.querySelector("#sorry p").textContent = text;
  show("sorry");
}

/** Runs `start` with the token of the link, and again when a link to this page is pasted over it. */
export function onLink(start) {
  const run = async () => {
    const token = takeToken();
    if (!token) return sorry(null);
    try {
      await start(token);
    } catch {
      sorry({ status: 0 });
    }
  };
  addEventListener("hashchange", run);
  run();
}

/** Runs `job` when `button` is pressed, once at a time. */
export function onPress(button, job) {
  button.onclick = async () => {
    const buttons = button.parentElement.querySelectorAll("button");
    for (const each of buttons) each.disabled = true;
    try {
      await job();
    } catch {
      sorry({ status: 0 });
    } finally {
      for (const each of buttons) each.disabled = false;
    }
  };
}
