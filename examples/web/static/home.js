import { show } from "./token.js";

const session = await (await fetch("/api/session")).json();
if (session.name) {
  document.getElementById("name").textContent = session.name;
  document.getElementById("signed-in").hidden = false;
  document.getElementById("signed-out").hidden = true;
}

document.getElementById("start").onclick = async () => {
  const flow = await (await fetch("/demo/flows", { method: "POST" })).json();
  const link = document.getElementById("flow");
  link.href = flow.link;
  link.hidden = false;
  link.focus();
};

show("home");
