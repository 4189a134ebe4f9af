/**
 * A real Chromium, driven over its DevTools protocol, with a wallet of the tests' own in its pages. Everything that a page
 * asks of the network, of the wallet and of the console is written down.
 */
import { existsSync, writeFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import WebSocket from 'ws'
import { payerAccount } from '../../stage/accounts.mjs'
import { CHAIN_ID } from '../../stage/chain.mjs'
import { makeRunDirectory, startProcess, until } from '../../stage/processes.mjs'

const PATIENCE_MS = 20_000
const NAMES = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome']

/** The path of Chromium: what the environment variable CHROMIUM names, or what is installed; null where there is none. */
export function findChromium() {
  if (process.env.CHROMIUM) return process.env.CHROMIUM
  const places = (process.env.PATH ?? '').split(delimiter)
  return NAMES.flatMap(name => places.map(place => join(place, name))).find(path => existsSync(path)) ?? null
}

/**
 * Starts Chromium without a window.
 *
 * @param {string} command its path
 * @returns {Promise<{openTab: (options?: object) => Promise<Tab>, stop: () => Promise<void>}>} each tab has storage of
 *   its own; for what it takes see makeTab
 */
export async function startBrowser(command) {
  const run = makeRunDirectory('browser')
  const child = startProcess({
    name: 'chromium',
    command,
    args: [
      '--headless=new', '--remote-debugging-port=0', `--user-data-dir=${join(run.path, 'profile')}`, '--no-first-run',
      '--disable-gpu', '--disable-dev-shm-usage', '--disable-background-networking', '--disable-component-update',
      '--disable-extensions', '--hide-scrollbars',
      // Chromium cannot make its own sandbox as root, which is what containers like to be.
      ...(process.getuid?.() === 0 ? ['--no-sandbox'] : []),
      'about:blank',
    ],
    run,
  })
  const end = async () => {
    await child.stop()
    // Its helpers end a moment after it and write to the profile until then.
    for (let attempt = 0; ; attempt++) {
      try {
        return run.remove()
      } catch (error) {
        if (attempt === 20) throw error
        await sleep(100)
      }
    }
  }
  try {
    const address = await until(async () => /DevTools listening on (\S+)/.exec(child.log())?.[1], {
      what: 'Chromium', process: child, timeoutMs: 60_000,
    })
    const devtools = await connect(address)
    const stop = async () => (devtools.close(), await end())
    return { openTab: options => makeTab(devtools, options), stop }
  } catch (error) {
    await end()
    throw error
  }
}

/** Speaks the DevTools protocol: numbered commands, their answers, and events by session. */
async function connect(address) {
  const socket = new WebSocket(address, { perMessageDeflate: false })
  await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject))
  const waiting = new Map()
  const listeners = new Map()
  let serial = 0
  socket.on('message', data => {
    const { id, result, error, method, params, sessionId } = JSON.parse(data)
    if (id === undefined) return listeners.get(sessionId)?.(method, params)
    const { resolve, reject, what } = waiting.get(id)
    waiting.delete(id)
    error ? reject(new Error(`${what}: ${error.message}`)) : resolve(result)
  })
  const send = (method, params = {}, sessionId = undefined) =>
    new Promise((resolve, reject) => {
      waiting.set(++serial, { resolve, reject, what: method })
      socket.send(JSON.stringify({ id: serial, method, params, sessionId }))
    })
  return { send, listen: (sessionId, listener) => listeners.set(sessionId, listener), close: () => socket.close() }
}

// Runs in the page before anything of its own: a provider by EIP-1193, whose answers come from the test.
const INJECTED = `(({ isLegacy, announced }) => {
  const waiting = new Map()
  let serial = 0
  window.answerOfWallet = (id, error, result) => {
    const { resolve, reject } = waiting.get(id)
    error ? reject(Object.assign(new Error(error.message), error)) : resolve(result)
  }
  const provider = name => ({
    request: ({ method, params }) => new Promise((resolve, reject) => {
      waiting.set(++serial, { resolve, reject })
      askWallet(JSON.stringify({ id: serial, name, method, params }))
    }),
  })
  if (isLegacy) window.ethereum = provider('injected')
  for (const name of announced) {
    const detail = Object.freeze({ info: { uuid: name, name, icon: 'data:,', rdns: 'example.' + name }, provider: provider(name) })
    const announce = () => dispatchEvent(new CustomEvent('eip6963:announceProvider', { detail }))
    addEventListener('eip6963:requestProvider', announce)
    announce()
  }
})`

/**
 * A wallet that signs with an account of the stage, as far as it is not told otherwise.
 *
 * @param {object} [options]
 * @param {number} [options.chainId] the chain it is on
 * @param {number[]} [options.knows] chains it can switch to
 * @returns what may be changed while a test runs: `chainId`, `signer`, `refuse` (an error for the next call of a method,
 *   by the method's name), and `calls`, everything it was asked
 */
export function makeWallet({ chainId = CHAIN_ID, knows = [CHAIN_ID], account = payerAccount } = {}) {
  const error = (code, message) => Object.assign(new Error(message), { code })
  const wallet = {
    chainId,
    knows: new Set(knows),
    signer: account,
    refuse: {},
    calls: [],
    signatures: () => wallet.calls.filter(({ method }) => method === 'eth_signTypedData_v4'),
    answer: async ({ name, method, params }) => {
      wallet.calls.push({ name, method, params })
      const refusal = wallet.refuse[method]
      delete wallet.refuse[method]
      if (refusal) throw error(refusal.code, refusal.message)
      switch (method) {
        case 'eth_requestAccounts': return [account.address.toLowerCase()]
        case 'eth_chainId': return `0x${wallet.chainId.toString(16)}`
        case 'wallet_addEthereumChain': return wallet.knows.add(Number(params[0].chainId)) && null
        case 'wallet_switchEthereumChain':
          if (!wallet.knows.has(Number(params[0].chainId))) throw error(4902, 'Unrecognized chain ID')
          wallet.chainId = Number(params[0].chainId)
          return null
        case 'eth_signTypedData_v4': {
          const { types: { EIP712Domain, ...types }, ...data } = JSON.parse(params[1])
          if (EIP712Domain.length !== 4) throw error(-32602, 'the domain is not described')
          if (data.domain.chainId !== wallet.chainId) throw error(-32602, 'another chain than the active one')
          if (params[0] !== account.address.toLowerCase()) throw error(4100, 'not an account of this wallet')
          return await wallet.signer.signTypedData({ ...data, types })
        }
        default: throw error(4200, `no ${method}`)
      }
    },
  }
  return wallet
}

/**
 * Opens a tab.
 *
 * @param {Awaited<ReturnType<typeof connect>>} devtools
 * @param {object} [options]
 * @param {ReturnType<typeof makeWallet> | null} [options.wallet] null: the browser has none
 * @param {string[]} [options.announced] names under which the wallet announces itself by EIP-6963; without any it is
 *   `window.ethereum`
 * @param {'light' | 'dark'} [options.scheme]
 * @param {[number, number]} [options.size] of the window, in CSS pixels
 * @param {boolean} [options.isPhone]
 * @returns {Promise<Tab>}
 *
 * @typedef {object} Tab
 * @property {{url: string, method: string, payment: string | undefined}[]} requests that left the page
 * @property {string[]} complaints violations of the policy, errors, and what the console was told of them
 * @property {object[]} faults what the next paid requests get in place of an answer: `{status, headers, body}`, or
 *   `{lost: true}`
 * @property {string | null} method for the next navigation, in place of GET
 * @property {(url: string) => Promise<void>} open
 * @property {(expression: string) => Promise<any>} evaluate
 * @property {(expression: string) => Promise<any>} see waits until an expression is true
 * @property {(selector: string) => Promise<void>} click by the mouse
 * @property {(...keys: string[]) => Promise<void>} press by the keyboard: `Tab`, `Enter`, ` `
 * @property {(path: string) => Promise<void>} screenshot of the whole page
 * @property {() => Promise<void>} close
 */
async function makeTab(devtools, { wallet = makeWallet(), announced = [], scheme = 'light', size = [1000, 800], isPhone = false } = {}) {
  const { browserContextId } = await devtools.send('Target.createBrowserContext')
  const { targetId } = await devtools.send('Target.createTarget', { url: 'about:blank', browserContextId })
  const { sessionId } = await devtools.send('Target.attachToTarget', { targetId, flatten: true })
  const send = (method, params) => devtools.send(method, params, sessionId)
  const tab = { requests: [], complaints: [], faults: [], method: null }

  const evaluate = async expression => {
    const { result, exceptionDetails } = await send('Runtime.evaluate', { expression, awaitPromise: true, returnByValue: true })
    if (exceptionDetails) throw new Error(`${expression}: ${exceptionDetails.exception?.description ?? exceptionDetails.text}`)
    return result.value
  }

  const onPaused = async ({ requestId, request, resourceType }) => {
    const isPaid = Object.keys(request.headers).some(name => name.toLowerCase() === 'payment-signature')
    const fault = isPaid ? tab.faults.shift() : undefined
    if (fault?.lost) return send('Fetch.failRequest', { requestId, errorReason: 'ConnectionReset' })
    if (fault) {
      const responseHeaders = Object.entries(fault.headers ?? {}).map(([name, value]) => ({ name, value }))
      const body = Buffer.from(fault.body ?? '').toString('base64')
      return send('Fetch.fulfillRequest', { requestId, responseCode: fault.status, responseHeaders, body })
    }
    const method = resourceType === 'Document' && tab.method ? tab.method : undefined
    if (method) tab.method = null
    return send('Fetch.continueRequest', { requestId, method })
  }

  const onWallet = async payload => {
    const { id, ...call } = JSON.parse(payload)
    const outcome = await wallet.answer(call).then(
      result => `null, ${JSON.stringify(result)}`,
      ({ code, message }) => JSON.stringify({ code, message }),
    )
    await evaluate(`answerOfWallet(${id}, ${outcome})`)
  }

  const events = {
    'Network.requestWillBeSent': ({ request: { url, method, headers } }) => {
      const name = Object.keys(headers).find(one => one.toLowerCase() === 'payment-signature')
      tab.requests.push({ url, method, payment: headers[name] })
    },
    'Fetch.requestPaused': onPaused,
    'Runtime.bindingCalled': ({ name, payload }) => name === 'askWallet' && onWallet(payload),
    'Runtime.exceptionThrown': ({ exceptionDetails }) => tab.complaints.push(exceptionDetails.exception?.description ?? exceptionDetails.text),
    'Runtime.consoleAPICalled': ({ type, args }) => type === 'error' && tab.complaints.push(args.map(({ value }) => value).join(' ')),
    // That a request failed is no complaint: a 402 has.
    'Log.entryAdded': ({ entry }) => entry.source !== 'network' && tab.complaints.push(entry.text),
    'Audits.issueAdded': ({ issue }) => issue.code === 'ContentSecurityPolicyIssue' && tab.complaints.push(JSON.stringify(issue.details)),
  }
  // A tab that is closing answers no more commands.
  devtools.listen(sessionId, (method, params) => Promise.resolve(events[method]?.(params)).catch(() => {}))

  for (const domain of ['Page', 'Network', 'Runtime', 'Log', 'Audits']) await send(`${domain}.enable`)
  await send('Fetch.enable', { patterns: [{ urlPattern: 'http*' }] })
  await send('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value: scheme }] })
  const [width, height] = size
  await send('Emulation.setDeviceMetricsOverride', { width, height, deviceScaleFactor: isPhone ? 2 : 1, mobile: isPhone })
  if (wallet) {
    await send('Runtime.addBinding', { name: 'askWallet' })
    const options = JSON.stringify({ isLegacy: announced.length === 0, announced })
    await send('Page.addScriptToEvaluateOnNewDocument', { source: `if (window === top) ${INJECTED}(${options})` })
  }

  const see = async expression => {
    const deadline = Date.now() + PATIENCE_MS
    for (;;) {
      const value = await evaluate(expression).catch(() => null)
      if (value) return value
      if (Date.now() > deadline) {
        throw new Error(`never true: ${expression}; the page says: ${await evaluate('document.body.innerText')} ${tab.complaints.join('\n')}`)
      }
      await sleep(20)
    }
  }

  const KEYS = {
    Tab: { key: 'Tab', code: 'Tab', windowsVirtualKeyCode: 9 },
    Enter: { key: 'Enter', code: 'Enter', windowsVirtualKeyCode: 13, text: '\r' },
    ' ': { key: ' ', code: 'Space', windowsVirtualKeyCode: 32, text: ' ' },
  }

  return Object.assign(tab, {
    evaluate,
    see,
    open: async url => {
      await evaluate('window.isOld = true')
      const { errorText } = await send('Page.navigate', { url })
      if (errorText) throw new Error(`${url}: ${errorText}`)
      await see('!window.isOld && document.readyState === "complete"')
    },
    reload: async () => {
      await evaluate('window.isOld = true')
      await send('Page.reload')
      await see('!window.isOld && document.readyState === "complete"')
    },
    click: async selector => {
      const [x, y] = await evaluate(`(() => {
        const element = document.querySelector(${JSON.stringify(selector)})
        element.scrollIntoView({ block: 'center' })
        const { left, top, width, height } = element.getBoundingClientRect()
        return [left + width / 2, top + height / 2]
      })()`)
      for (const type of ['mousePressed', 'mouseReleased']) {
        await send('Input.dispatchMouseEvent', { type, x, y, button: 'left', clickCount: 1 })
      }
    },
    press: async (...keys) => {
      for (const key of keys) {
        await send('Input.dispatchKeyEvent', { type: KEYS[key].text ? 'keyDown' : 'rawKeyDown', ...KEYS[key] })
        await send('Input.dispatchKeyEvent', { type: 'keyUp', ...KEYS[key], text: undefined })
      }
    },
    screenshot: async path => {
      const { data } = await send('Page.captureScreenshot', { format: 'png', captureBeyondViewport: true })
      writeFileSync(path, Buffer.from(data, 'base64'))
    },
    close: () => devtools.send('Target.disposeBrowserContext', { browserContextId }),
  })
}
