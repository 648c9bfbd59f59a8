import { ask, onLink, onPress, show, sorry } from "./token.js";

onLink(async (token) => {
  const who = await ask(token, "GET", "/api/sign-in");
  if (!who.ok) return sorry(who);
  document.getElementById("email").textContent = who.body.email;
  onPress(document.getElementById("sign-in"), async () => {
    const signedIn = await ask(token, "POST", "/api/sign-in");
    if (!signedIn.ok) return sorry(signedIn);
    location.replace("/");
  });
  show("question");
});
