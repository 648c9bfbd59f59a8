import { ask, onLink, onPress, show, sorry } from "./token.js";

const path = location.pathname.replace("/consent/", "/api/flows/");
const put = (id, text) => { document.getElementById(id).textContent = text; };

onLink(async (token) => {
  const flow = await ask(token, "GET", path);
  if (!flow.ok) return sorry(flow);
  put("agent", flow.body.agent);
  put("wish", flow.body.wish);
  const until = new Date(flow.body.expires_at);
  put("until", until.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
  for (const answer of ["approved", "denied"]) {
    onPress(document.getElementById(answer), async () => {
      const decided = await ask(token, "PUT", path, { answer });
      if (!decided.ok) return sorry(decided);
      put("decided", answer === "approved" ? "Access approved" : "Access denied");
      show("done");
    });
  }
  show("question");
});
