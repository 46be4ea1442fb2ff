/* What the page does by itself: keys, uploads, downloads. Everything else is asked of the server. */
(function () {
  "use strict";

  const state = () => window.trame.state;
  const act = (name, ...rest) => window.trame.trigger("act", [name, ...rest]);
  const tell = (text, nextStep) => window.trame.trigger("tell", [text, nextStep]);
  const set = (name, value) => state().set(name, value);

  const forControls = /^(Enter|Arrow.*|Page.*|Home|End)$/;

  function isTyping(target) {
    const field = target.closest("input, textarea, [contenteditable=true]");
    return Boolean(field) && !field.readOnly && !/^(checkbox|radio|range)$/.test(field.type || "");
  }

  function isForControl(event) {
    if (event.target.closest("input, [role=slider]")) return forControls.test(event.key);
    return event.key === "Enter" && Boolean(event.target.closest("button, a, [role=option]"));
  }

  function nameOf(event) {
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const isShifted = event.shiftKey && (event.key.length > 1 || /^[a-z]$/.test(key));
    const control = event.ctrlKey || event.metaKey ? "Ctrl+" : "";
    return control + (isShifted ? "Shift+" : "") + key;
  }

  function isOpen() {
    return Boolean(document.querySelector(".v-overlay--active:not(.v-tooltip)"));
  }

  function onKey(event) {
    if (!window.trame || isTyping(event.target) || event.altKey) return;
    const action = (state().get("shortcuts") || {})[nameOf(event)];
    if (!action || isOpen() || isForControl(event)) return;
    event.preventDefault();
    event.stopPropagation();
    if (action === "help") set("help_open", true);
    else if (action === "save") save("seg");
    else act(action);
  }

  function upload(files) {
    const list = Array.from(files || []);
    if (list.length === 0) return;
    const form = new FormData();
    for (const file of list) form.append("file", file, file.webkitRelativePath || file.name);
    const request = new XMLHttpRequest();
    request.open("POST", "upload");
    request.upload.onprogress = (event) => {
      if (event.lengthComputable) set("upload_percent", Math.round((100 * event.loaded) / event.total));
    };
    request.onloadend = () => {
      set("upload_percent", -1);
      if (request.status === 0 || request.status >= 400) {
        tell("The upload was not taken.", "Try again, or start protosam app with the file's name.");
      }
    };
    set("upload_percent", 0);
    request.send(form);
  }

  function pick(wantsFolder) {
    const input = document.createElement("input");
    input.type = "file";
    input.id = "ps-file";
    input.style.display = "none";
    input.multiple = true;
    if (wantsFolder) input.webkitdirectory = true;
    input.onchange = () => {
      upload(input.files);
      input.remove();
    };
    const old = document.getElementById("ps-file");
    if (old) old.remove();
    document.body.appendChild(input);
    input.click();
  }

  const save = (form) => download("download/" + form);
  const saveExample = (id) => download("example/" + id);

  async function download(address) {
    set("saving", true);
    try {
      const answer = await fetch(address);
      if (!answer.ok) return; // the server shows why
      const name = /filename="([^"]+)"/.exec(answer.headers.get("Content-Disposition") || "");
      const link = document.createElement("a");
      link.href = URL.createObjectURL(await answer.blob());
      link.download = name ? name[1] : "segmentation";
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    } catch (error) {
      tell("The file was not saved: the program does not answer.", "Look at the terminal.");
    } finally {
      set("saving", false);
    }
  }

  async function filesOf(transfer) {
    const entries = Array.from(transfer.items || [])
      .map((item) => item.webkitGetAsEntry && item.webkitGetAsEntry())
      .filter(Boolean);
    if (!entries.some((entry) => entry.isDirectory)) return Array.from(transfer.files);
    const found = [];
    async function walk(entry) {
      if (entry.isFile) {
        found.push(await new Promise((done, fail) => entry.file(done, fail)));
        return;
      }
      const reader = entry.createReader();
      for (;;) {
        const some = await new Promise((done, fail) => reader.readEntries(done, fail));
        if (some.length === 0) return;
        for (const one of some) await walk(one);
      }
    }
    for (const entry of entries) await walk(entry);
    return found;
  }

  window.addEventListener("keydown", onKey, true);
  window.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("ps-dropping");
  });
  window.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("ps-dropping");
  });
  window.addEventListener("drop", async (event) => {
    event.preventDefault();
    document.body.classList.remove("ps-dropping");
    upload(await filesOf(event.dataTransfer));
  });

  window.protosam = { act, upload, pick, save, saveExample };
})();
