// The playground: conversations with one model or two, streamed from the data plane with a short-lived key that only this page's memory has.
// Everything a model says is put into the page as text; nothing of it becomes markup.

const form = document.getElementById("playground");
if (form) start();

function start() {
  const models = JSON.parse(document.getElementById("models").textContent);
  const find = (id) => document.getElementById(id);
  const panes = [...document.querySelectorAll("[data-pane]")].map((element) => ({
    element,
    select: element.querySelector("[data-model]"),
    talk: element.querySelector("[data-talk]"),
    meter: element.querySelector("[data-meter]"),
    messages: [],
  }));
  let stopping = null;
  let key = null;

  // -- The key: asked for when it is first needed, and again shortly before it ends.

  async function getKey() {
    if (!key || performance.now() > key.until) {
      const until = performance.now();
      const asking = fetch(form.dataset.keyAddress, {
        method: "POST",
        headers: { "X-CSRFToken": form.elements.csrfmiddlewaretoken.value },
      }).then(async (answer) => {
        if (!answer.ok) throw new Error("This page got no key. Load it again, or ask whether your role may use keys.");
        const given = await answer.json();
        key.until = until + (given.lasts_seconds - 60) * 1000;
        return given.key;
      });
      key = { secret: asking, until: Infinity };
      asking.catch(() => { key = null; });
    }
    return key.secret;
  }

  // -- What is asked.

  function settings() {
    const asked = { max_tokens: Number(find("most").value) };
    if (find("set-temperature").checked) asked.temperature = Number(find("temperature").value);
    return asked;
  }

  function request(pane, extra) {
    const system = find("system").value.trim();
    const messages = [...(system ? [{ role: "system", content: system }] : []), ...pane.messages, ...extra];
    const most = Math.min(settings().max_tokens, models[pane.select.value].most);
    return { model: pane.select.value, messages, ...settings(), max_tokens: most };
  }

  const shown = () => panes.filter((pane) => !pane.element.hidden);

  // -- Asking.

  async function send() {
    const prompt = find("prompt");
    const text = prompt.value.trim();
    if (!text || stopping) return;
    stopping = new AbortController();
    prompt.value = "";
    find("send").disabled = true;
    find("stop").hidden = false;
    try {
      await Promise.all(shown().map((pane) => ask(pane, text, stopping.signal)));
    } finally {
      stopping = null;
      find("send").disabled = false;
      find("stop").hidden = true;
      prompt.focus();
    }
  }

  async function ask(pane, text, signal) {
    pane.element.querySelector("[data-hint]")?.remove();
    say(pane, "user").write(text);
    const question = { role: "user", content: text };
    const asked = request(pane, [question]);
    const bubble = say(pane, "assistant");
    let figures = null;
    pane.talk.setAttribute("aria-busy", "true");
    let answer = "";
    try {
      const secret = await getKey();
      figures = meter(pane, asked);
      const response = await fetch("/v1/chat/completions", {
        method: "POST",
        headers: { "Content-Type": "application/json", Authorization: `Bearer ${secret}` },
        body: JSON.stringify({ ...asked, stream: true, stream_options: { include_usage: true } }),
        signal,
      });
      if (!response.ok) throw Object.assign(new Error("refused"), { said: (await response.json()).error, status: response.status });
      for await (const event of events(response.body)) {
        if (event.error) throw Object.assign(new Error("cut"), { said: event.error });
        const delta = event.choices?.[0]?.delta;
        if (delta?.reasoning_content) { bubble.think(delta.reasoning_content); figures.count(delta.reasoning_content); }
        for (const call of delta?.tool_calls ?? []) {
          const part = (call.function?.name ? `${call.function.name} ` : "") + (call.function?.arguments ?? "");
          answer += part; bubble.write(answer); figures.count(part);
        }
        if (delta?.content) { answer += delta.content; bubble.write(answer); figures.count(delta.content); }
        if (event.usage) figures.end(event.usage);
      }
    } catch (error) {
      if (error.name === "AbortError") bubble.note("Stopped. What was delivered is charged.");
      else if (error.said) { if (error.status === 401) key = null; bubble.fail(error.said); }
      else bubble.fail({ message: error.message || "The gateway cannot be reached." });
    } finally {
      figures?.stop();
      pane.talk.removeAttribute("aria-busy");
      if (answer) pane.messages.push(question, { role: "assistant", content: answer });
    }
  }

  async function* events(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      rest += value;
      const lines = rest.split("\n");
      rest = lines.pop();
      for (const line of lines) {
        const data = line.startsWith("data:") ? line.slice(5).trim() : "";
        if (data && data !== "[DONE]") yield JSON.parse(data);
      }
    }
  }

  // -- Tokens and cost: about, while they come; exactly, as charged, at the end.

  function meter(pane, asked) {
    const began = performance.now();
    const price = models[asked.model];
    const about = (text) => Math.ceil(text.length / 4);
    const before = asked.messages.reduce((sum, message) => sum + about(message.content) + 4, 0);
    let output = 0, first = 0, ended = false, said = 0;
    const cost = () => (before * price.input + output * price.output) / 1e6;
    const seconds = (from, to) => `${((to - from) / 1000).toFixed(1)} s`;
    const show = () => {
      pane.meter.textContent = `about ${before} tokens in, ${Math.round(output)} out · about ${dollars(cost())} · ${seconds(began, performance.now())}`;
    };
    const ticking = setInterval(show, 200);
    show();
    return {
      count(text) { first ||= performance.now(); output += text.length / 4; },
      end(usage) {
        ended = true; said = performance.now();
        const rate = first && said - first > 250 ? ` · ${Math.round(usage.completion_tokens / ((said - first) / 1000))} tokens/s` : "";
        const start = first ? ` · first token ${seconds(began, first)}` : "";
        const charged = usage.cost === undefined ? `about ${dollars(cost())}` : dollars(usage.cost);
        pane.meter.textContent = `${usage.prompt_tokens} tokens in, ${usage.completion_tokens} out · ${charged}${start} · ${seconds(began, said)}${rate}`;
      },
      stop() { clearInterval(ticking); if (!ended) show(); },
    };
  }

  function dollars(amount) {
    return amount === 0 ? "$0" : amount < 0.000001 ? "<$0.000001" : `$${Number(amount.toPrecision(4)).toFixed(8).replace(/0+$/, "").replace(/\.$/, "")}`;
  }

  // -- The conversation, as text.

  function say(pane, role) {
    const box = make("div", `said ${role}`);
    box.append(make("span", "visually-hidden", role === "user" ? "You: " : `${pane.select.value}: `));
    const body = make("div", "words");
    box.append(body);
    pane.talk.append(box);
    let thoughts = null;
    const follow = () => { pane.talk.scrollTop = pane.talk.scrollHeight; };
    return {
      write(text) { body.replaceChildren(...blocks(text)); follow(); },
      think(text) {
        if (!thoughts) {
          const details = make("details", "thoughts");
          thoughts = make("div", "words");
          details.append(make("summary", "", "Thoughts"), thoughts);
          box.insertBefore(details, body);
        }
        thoughts.textContent += text; follow();
      },
      note(text) { box.append(make("p", "muted small", text)); follow(); },
      fail(error) {
        const notice = make("p", "notice bad", error.message ?? "Something went wrong.");
        if (error.help_url) {
          const link = make("a", "", "What helps");
          link.href = error.help_url;
          notice.append(" ", link);
        }
        box.append(notice); follow();
      },
    };
  }

  function blocks(text) {
    return text.split(/^```/m).map((part, place) => {
      if (place % 2 === 0) return make("p", "", part.replace(/^\n|\n$/g, ""));
      const end = part.indexOf("\n");
      const pre = make("pre", "");
      pre.append(make("code", "", end < 0 ? "" : part.slice(end + 1).replace(/\n$/, "")));
      return pre;
    }).filter((element) => element.tagName === "PRE" || element.textContent);
  }

  function make(tag, name, text) {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  // -- The same as a program.

  function code(language) {
    const origin = form.dataset.origin;
    const text = find("prompt").value.trim();
    const pane = panes[0];
    const asked = request(pane, text || !pane.messages.length ? [{ role: "user", content: text || "Hello" }] : []);
    const json = JSON.stringify({ ...asked, stream: true }, null, 2);
    if (language === "curl") {
      return `curl ${origin}/v1/chat/completions \\\n  -H "Authorization: Bearer $TOLLGATE_API_KEY" \\\n  -H "Content-Type: application/json" \\\n  -d '${json.replaceAll("'", "'\\''")}'`;
    }
    const rows = Object.entries(asked);
    if (language === "python") {
      const given = rows.map(([name, value]) => `    ${name}=${JSON.stringify(value, null, 4).replaceAll("\n", "\n    ")},`).join("\n");
      return `import os\nfrom openai import OpenAI\n\nclient = OpenAI(base_url="${origin}/v1", api_key=os.environ["TOLLGATE_API_KEY"])\nstream = client.chat.completions.create(\n${given}\n    stream=True,\n)\nfor chunk in stream:\n    if chunk.choices:\n        print(chunk.choices[0].delta.content or "", end="")`;
    }
    const given = rows.map(([name, value]) => `  ${name}: ${JSON.stringify(value, null, 2).replaceAll("\n", "\n  ")},`).join("\n");
    return `import OpenAI from "openai";\n\nconst client = new OpenAI({ baseURL: "${origin}/v1", apiKey: process.env.TOLLGATE_API_KEY });\nconst stream = await client.chat.completions.create({\n${given}\n  stream: true,\n});\nfor await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta?.content ?? "");`;
  }

  function showCode(language) {
    for (const tab of document.querySelectorAll("[data-language][role=tab]")) tab.setAttribute("aria-selected", String(tab.dataset.language === language));
    find("code-panel").setAttribute("aria-labelledby", `tab-${language}`);
    find("code-text").textContent = code(language);
  }

  // -- Buttons.

  form.addEventListener("submit", (event) => { event.preventDefault(); send(); });
  find("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
  });
  find("stop").addEventListener("click", () => stopping?.abort());
  find("compare").addEventListener("change", (event) => {
    panes[1].element.hidden = !event.target.checked;
    if (event.target.checked) panes[1].messages = [...panes[0].messages];
  });
  find("set-temperature").addEventListener("change", (event) => { find("temperature").disabled = !event.target.checked; });
  for (const slider of form.querySelectorAll("input[type=range]")) {
    slider.addEventListener("input", () => { slider.parentElement.querySelector("output").textContent = slider.value; });
  }
  find("new-chat").addEventListener("click", () => {
    stopping?.abort();
    for (const pane of panes) { pane.messages = []; pane.talk.replaceChildren(); pane.meter.textContent = ""; }
    find("prompt").focus();
  });
  find("show-code").addEventListener("click", () => { showCode("curl"); find("code-dialog").showModal(); });
  for (const tab of document.querySelectorAll("[data-language][role=tab]")) tab.addEventListener("click", () => showCode(tab.dataset.language));

  const wanted = new URLSearchParams(location.search).get("model");
  if (wanted in models) panes[0].select.value = wanted;
  if (panes[1].select.options.length > 1) panes[1].select.selectedIndex = panes[0].select.selectedIndex === 1 ? 0 : 1;
}
