/** Calls to a worker as promises. */

export class WorkerClient {
  #worker;
  #calls = new Map();
  #last = 0;

  /** @param {string} file module of the worker, next to this one */
  constructor(file) {
    this.#worker = new Worker(new URL(file, import.meta.url), { type: "module" });
    this.#worker.onmessage = ({ data: { id, reply, error } }) => {
      const { resolve, reject } = this.#calls.get(id);
      this.#calls.delete(id);
      if (error === undefined) resolve(reply);
      else reject(new Error(error));
    };
    this.#worker.onerror = () => {
      for (const { reject } of this.#calls.values()) reject(new Error("A part of the page failed. Reload it."));
      this.#calls.clear();
    };
  }

  /** Send a message and return the promise of its reply. */
  call(message) {
    const id = ++this.#last;
    return new Promise((resolve, reject) => {
      this.#calls.set(id, { resolve, reject });
      this.#worker.postMessage({ ...message, id });
    });
  }
}
