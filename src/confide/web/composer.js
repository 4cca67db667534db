// Where a message is written: text, images, the model, the lock.

import { byId, h, icon, iconButton, say } from "./dom.js";
import { asImage, filesIn, MOST_IMAGES } from "./images.js";

/** The form at the foot of the conversation. */
export class Composer {
  #chat;
  #trust;
  #options;
  #models = [];
  #images = [];
  #prompt = byId("prompt");
  #select = byId("model");
  #send = byId("send");

  constructor({ chat, trust, options }) {
    this.#chat = chat;
    this.#trust = trust;
    this.#options = options;
    byId("composer").addEventListener("submit", (event) => this.#submit(event));
    this.#prompt.addEventListener("keydown", (event) => this.#key(event));
    this.#prompt.addEventListener("input", () => this.#fit());
    this.#select.addEventListener("change", () => this.#chosen());
    this.#wireImages();
    chat.addEventListener("change", () => this.refresh());
    chat.addEventListener("mistake", ({ detail }) => this.note(detail));
    trust.addEventListener("change", () => this.refresh());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && chat.running && !document.querySelector("dialog[open]")) chat.stop();
    });
    this.refresh();
  }

  /** The id of the chosen model. */
  get model() {
    return this.#select.value;
  }

  /** The models that the server offers. */
  offer(models) {
    this.#models = models;
    this.#select.replaceChildren(...models.map(({ id, name }) => h("option", { value: id, title: name ?? id }, id)));
    this.#select.disabled = models.length === 0;
    this.#chosen();
  }

  /** Write something into the field, for the person to send. */
  write(text) {
    this.#prompt.value = text;
    this.#fit();
    this.#prompt.focus();
    this.refresh();
  }

  #chosen() {
    const model = this.#models.find(({ id }) => id === this.#select.value);
    this.#options.offer(model);
    byId("attach").hidden = !model?.input_modalities?.includes("image");
    if (byId("attach").hidden) this.#images = [];
    this.#showImages();
    this.refresh();
  }

  /** Show what can be done now. */
  refresh() {
    const running = this.#chat.running !== null;
    const something = this.#prompt.value.trim() || this.#images.length;
    this.#send.replaceChildren(icon(running ? "stop" : "arrow"));
    this.#send.dataset.does = running ? "stop" : "send";
    this.#send.title = running ? "Stop (Escape)" : "Send (Enter)";
    this.#send.setAttribute("aria-label", running ? "Stop" : "Send");
    this.#send.disabled = !running && !(something && this.#trust.maySend && this.model && !this.#select.disabled);
  }

  #key(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!this.#chat.running) byId("composer").requestSubmit();
  }

  /** As high as what is in it. An empty field is not measured: that would lay out the whole page. */
  #fit() {
    const { style } = this.#prompt;
    style.height = "auto";
    if (this.#prompt.value) style.height = `${Math.min(this.#prompt.scrollHeight, innerHeight * 0.4)}px`;
    this.refresh();
  }

  #submit(event) {
    event.preventDefault();
    if (this.#chat.running) {
      this.#chat.stop();
      return;
    }
    const text = this.#prompt.value.trim();
    if (this.#send.disabled || !this.#chat.send(text, this.#images)) return;
    this.#images = [];
    this.#prompt.value = "";
    this.note("");
    this.#showImages();
    this.#fit();
  }

  /** A word under the field, for a mistake of the person. */
  note(text) {
    byId("note").textContent = text;
    if (text) say(text);
  }

  // Images ------------------------------------------------------------------------------------------------------------

  #wireImages() {
    const attach = byId("attach");
    const file = byId("file");
    attach.append(icon("image"));
    attach.title = "Add images";
    attach.setAttribute("aria-label", "Add images");
    attach.addEventListener("click", () => file.click());
    file.addEventListener("change", () => {
      this.#addImages([...file.files]);
      file.value = "";
    });
    this.#prompt.addEventListener("paste", (event) => {
      const files = filesIn(event.clipboardData);
      if (files.length) event.preventDefault();
      this.#addImages(files);
    });
    const floor = document.querySelector(".talk");
    floor.addEventListener("dragover", (event) => {
      event.preventDefault();
      floor.classList.toggle("dropping", !attach.hidden);
    });
    floor.addEventListener("dragleave", () => floor.classList.remove("dropping"));
    floor.addEventListener("drop", (event) => {
      event.preventDefault();
      floor.classList.remove("dropping");
      this.#addImages(filesIn(event.dataTransfer));
    });
  }

  async #addImages(files) {
    if (!files.length) return;
    if (byId("attach").hidden) {
      this.note(`${this.model} doesn't see: it takes text only.`);
      return;
    }
    this.note("");
    for (const file of files) {
      if (this.#images.length >= MOST_IMAGES) {
        this.note(`At most ${MOST_IMAGES} images go with one message.`);
        break;
      }
      try {
        this.#images.push(await asImage(file));
      } catch (wrong) {
        this.note(wrong.message);
      }
    }
    this.#showImages();
    this.refresh();
  }

  #showImages() {
    const list = byId("pictures");
    list.hidden = !this.#images.length;
    list.replaceChildren(
      ...this.#images.map((image) =>
        h(
          "li",
          {},
          h("img", { src: image.url, alt: image.name }),
          iconButton("cross", `Remove ${image.name}`, () => this.#removeImage(image)),
        ),
      ),
    );
  }

  #removeImage(image) {
    this.#images = this.#images.filter((one) => one !== image);
    this.#showImages();
    this.refresh();
    this.#prompt.focus();
  }
}
