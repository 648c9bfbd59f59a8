import { show } from "./token.js";

if (location.search === "?sent") {
  const list = document.getElementById("mails");
  for (const mail of await (await fetch("/demo/outbox")).json()) {
    const link = document.createElement("a");
    link.href = mail.link;
    link.textContent = `To ${mail.to}: your link to sign in`;
    list.appendChild(document.createElement("li")).append(link);
  }
  show("sent");
} else {
  show("form");
}
