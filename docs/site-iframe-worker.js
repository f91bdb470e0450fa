// A browser starts no worker for a page that is opened from the disk: there the search runs in a hidden frame instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      this.waiting = []
      addEventListener("message", (event) => {
        if (event.source === frame.contentWindow) this.dispatchEvent(new MessageEvent("message", { data: event.data }))
      })
      frame.srcdoc = `<script>
        const load = (url) => new Promise((done, failed) => {
          const script = document.createElement("script")
          Object.assign(script, { src: url, onload: done, onerror: failed })
          document.head.append(script)
        })
        window.postMessage = (message) => parent.postMessage(message, "*")
        window.importScripts = (...urls) => urls.reduce((before, url) => before.then(() => load(url)), Promise.resolve())
        document.write('<script src=${JSON.stringify(String(url))}><\\/script>')
      <\/script>`
      this.ready = new Promise((done) => { frame.onload = done })
      this.frame = frame
      document.documentElement.append(frame)
    }
    postMessage(message) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data: message })))
    }
    terminate() {
      this.frame.remove()
    }
  }
}
