/**
 * The page that a browser gets with a 402, in a real Chromium: what it shows, what it asks of a wallet, and what it never
 * does. SCREENSHOTS names a directory to leave pictures in.
 */
import assert from 'node:assert/strict'
import { mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import * as chains from 'viem/chains'
import { accounts, payTo, payerAccount } from '../../stage/accounts.mjs'
import { CHAIN_ID, NETWORK, USDC } from '../../stage/chain.mjs'
import { findChromium, makeWallet, startBrowser } from './browser.mjs'
import { openGateway, openBackends } from './support.mjs'

const HOSTILE = '</script><script>window.hacked = 1</script><img src=x onerror="hacked = 2">" \' {{terms}} \u2028<!--'
const JSON_BODY = '{"city":"Lisbon","celsius":21,"id":12345678901234567890,"tags":["a, b: {c}",{}],"sky":"\\"clear\\" <b>"}'
const HTML_BODY = `<!doctype html><html><head><title>A report</title><style>h1 { color: rgb(1, 2, 3) }</style></head>
  <body><h1>Report</h1><p id="p" style="color: rgb(4, 5, 6)">Paid</p><img id="i" src="/free.png" alt="">
  <a id="l" href="/free">on</a><script>top.hacked = 3</script></body></html>`
const PNG = Buffer.from('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==', 'base64')

const PDF = '%PDF-1.1\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj 2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj 3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF'
const OWN = `<!doctype html><title>{{description}}</title><p title="{{description}}">{{description}} for {{price}} in {{asset}} on {{network}}</p>
  <script type="application/json" id="terms">{{terms}}</script>`

const entry = { scheme: 'exact', network: 'base-sepolia', asset: 'USDC' }
const route = (path, more) => ({ match: { path }, price: '$0.001', ...more })
const plugin = {
  defaults: { pay_to: payTo, accepts: [entry] },
  routes: [
    route('/weather', { description: 'Weather in Lisbon', mime_type: 'application/json' }),
    route('/report', { description: 'A report' }),
    route('/picture'),
    route('/notes'),
    route('/paper'),
    route('/bytes'),
    route('/fails'),
    route('/hostile', { description: HOSTILE }),
    route('/choice', { description: 'Two ways to pay', accepts: [{ ...entry, network: 'base' }, entry] }),
    route('/programs', { accepts: [{ ...entry, transfer_method: 'permit2' }] }),
  ],
  unmatched: 'free',
}

function upstream(request, response) {
  const send = (type, body, status = 200) => response.writeHead(status, { 'content-type': type }).end(body)
  switch (new URL(request.url, 'http://a').pathname) {
    case '/report': return send('text/html; charset=utf-8', HTML_BODY)
    case '/picture': case '/free.png': return send('image/png', PNG)
    case '/notes': return send('text/plain; charset=iso-8859-1', Buffer.from('Olé <b>', 'latin1'))
    case '/paper': return send('application/pdf', PDF)
    case '/bytes': return send('application/octet-stream', PNG)
    case '/fails': return send('text/plain', 'no', 500)
    case '/free': return send('text/html', 'free')
    default: return send('application/json', JSON_BODY)
  }
}

const browser = await startBrowser(findChromium())
const backends = await openBackends()
backends.atEnd(browser.stop)
backends.inference.intercept = upstream
const gateway = await openGateway(backends, { plugin })
const own = await openGateway(backends, { plugin: { ...plugin, page: { html: OWN } } })

const pictures = process.env.SCREENSHOTS
if (pictures) mkdirSync(pictures, { recursive: true })
const picture = async (tab, name) => pictures && (await tab.screenshot(join(pictures, `${name}.png`)))

/** Opens a path in a tab of its own; whatever happens in it, nothing may leave for elsewhere or break the policy. */
function pageTest(name, path, { wallet = makeWallet(), ...options }, run) {
  test(name, { timeout: 120_000 }, async () => {
    const tab = await browser.openTab({ wallet, ...options })
    try {
      await tab.open(gateway.url + path)
      await run({ tab, wallet, paid: () => tab.requests.filter(({ payment }) => payment) })
      // Chromium's own reader of PDF is an extension that it brings along.
      const isInside = url => url.startsWith(`${gateway.url}/`) || /^(blob|data|chrome-extension):/.test(url)
      const elsewhere = tab.requests.filter(({ url }) => !isInside(url))
      assert.deepEqual(elsewhere, [], 'a request left for elsewhere')
      assert.deepEqual(tab.complaints, [], 'the browser complains')
      assert.ok(!tab.requests.some(({ url }) => url.endsWith('/favicon.ico')))
      assert.equal(await tab.evaluate('window.hacked'), undefined)
    } finally {
      await tab.close()
    }
  })
}

const text = selector => `document.querySelector(${JSON.stringify(selector)})?.innerText`
const says = pattern => `${pattern}.test(document.querySelector('#status').innerText)`
const SHOWN = `!document.querySelector('#result').hidden`
const decode = header => JSON.parse(Buffer.from(header, 'base64').toString('utf8'))

pageTest('A browser is told what is for sale, pays with its wallet, and sees JSON and the receipt', '/weather?day=1', {}, async ({ tab, wallet, paid }) => {
  assert.equal(await tab.evaluate('document.title'), 'Pay $0.001: Weather in Lisbon')
  assert.equal(await tab.evaluate(text('h1')), 'Weather in Lisbon')
  assert.equal(await tab.evaluate(text('#price')), '$0.001')
  assert.equal(await tab.evaluate(text('#network')), 'Base Sepolia')
  assert.equal(await tab.evaluate(text('#to')), `${payTo.slice(0, 6)}…${payTo.slice(-4)}`)
  await tab.evaluate(`document.querySelector('#to').focus()`)
  assert.equal((await tab.evaluate(text('#to'))).toLowerCase(), payTo.toLowerCase())
  assert.equal(await tab.evaluate(text('#pay')), 'Pay $0.001')
  await tab.evaluate('document.activeElement.blur()')
  await picture(tab, 'light')

  await tab.click('#pay')
  await tab.see(SHOWN)
  assert.deepEqual(wallet.calls.map(({ method }) => method), ['eth_requestAccounts', 'eth_chainId', 'eth_signTypedData_v4'])
  const [{ params: [from, json] }] = wallet.signatures()
  const { domain, message, primaryType } = JSON.parse(json)
  assert.equal(primaryType, 'TransferWithAuthorization')
  assert.deepEqual({ ...domain, verifyingContract: domain.verifyingContract.toLowerCase() },
    { name: 'USDC', version: '2', chainId: CHAIN_ID, verifyingContract: USDC.toLowerCase() })
  assert.equal(message.from, from)
  assert.equal(message.value, '1000')
  assert.equal(message.to.toLowerCase(), payTo.toLowerCase())
  assert.equal(message.validBefore - message.validAfter, 900)
  assert.match(message.nonce, /^0x[0-9a-f]{64}$/)

  const [{ payment, method, url }, ...more] = paid()
  assert.deepEqual([method, url, more], ['GET', `${gateway.url}/weather?day=1`, []])
  const { x402Version, resource, accepted } = decode(payment)
  assert.deepEqual([x402Version, resource.url, accepted.network], [2, `${gateway.url}/weather?day=1`, NETWORK])

  const shown = await tab.evaluate(text('#content pre'))
  assert.equal(shown, `{
  "city": "Lisbon",
  "celsius": 21,
  "id": 12345678901234567890,
  "tags": [
    "a, b: {c}",
    {}
  ],
  "sky": "\\"clear\\" <b>"
}`)
  assert.match(await tab.evaluate(text('#receipt')), /^Receipt: 0x[0-9a-f]{64} on eip155:84532$/)
  const link = await tab.evaluate(`document.querySelector('#receipt a').href`)
  assert.match(link, /^https:\/\/sepolia\.basescan\.org\/tx\/0x[0-9a-f]{64}$/)
  assert.equal(await tab.evaluate('document.activeElement.id'), 'result')
  assert.equal(await tab.evaluate(`fetch(document.querySelector('#save').href).then(() => 1, () => 2)`), 2, 'blobs are out of reach of fetch')
  tab.complaints.length = 0
  assert.equal(await tab.evaluate('sessionStorage.length'), 0)
  await picture(tab, 'paid')
})

pageTest('A paid page is shown with its styles and without its scripts', '/report', {}, async ({ tab }) => {
  await tab.click('#pay')
  await tab.see(SHOWN)
  await tab.see(`document.querySelector('iframe').contentDocument?.querySelector('h1')`.replace(/^(.*)$/, '!!$1'))
  const inner = expression => tab.evaluate(`(() => { const inner = document.querySelector('iframe').contentDocument; return ${expression} })()`)
  const color = selector => inner(`getComputedStyle(inner.querySelector('${selector}')).color`)
  await tab.see(`getComputedStyle(document.querySelector('iframe').contentDocument.querySelector('h1')).color === 'rgb(1, 2, 3)'`)
  assert.equal(await color('#p'), 'rgb(4, 5, 6)')
  await tab.see(`document.querySelector('iframe').contentDocument.querySelector('#i').naturalWidth === 1`)
  assert.equal(await inner('inner.scripts.length'), 0)
  assert.equal(await inner(`inner.querySelector('#l').target`), '_top')
  assert.ok(!(await tab.evaluate(`document.querySelector('iframe').sandbox.value`)).includes('allow-scripts'))
  await picture(tab, 'paid-html')
})

pageTest('A paid picture is shown', '/picture', {}, async ({ tab }) => {
  await tab.click('#pay')
  await tab.see(`document.querySelector('#content img')?.naturalWidth === 1`)
})

pageTest('A paid text is shown as text, in its own encoding', '/notes', {}, async ({ tab }) => {
  await tab.click('#pay')
  await tab.see(SHOWN)
  assert.equal(await tab.evaluate(text('#content pre')), 'Olé <b>')
})

pageTest('A paid paper is shown, and there is a way to keep it', '/paper', {}, async ({ tab }) => {
  await tab.click('#pay')
  await tab.see(SHOWN)
  assert.match(await tab.evaluate(`document.querySelector('#content iframe').src`), /^blob:http/)
  await picture(tab, 'paid-pdf')
  assert.deepEqual(await tab.evaluate(`[document.querySelector('#save').download, document.querySelector('#save').protocol]`), ['paper', 'blob:'])
})

pageTest('What a browser cannot show can be kept', '/bytes', {}, async ({ tab }) => {
  await tab.click('#pay')
  await tab.see(SHOWN)
  assert.equal(await tab.evaluate(text('#content')), `${PNG.length} bytes of application/octet-stream.`)
})

pageTest('Who declines in the wallet has paid nothing, and may pay after all', '/weather', {}, async ({ tab, wallet, paid }) => {
  wallet.refuse.eth_signTypedData_v4 = { code: 4001, message: 'User rejected the request.' }
  await tab.click('#pay')
  await tab.see(says('/declined in the wallet. Nothing was paid/'))
  await picture(tab, 'declined')
  assert.deepEqual(paid(), [])
  wallet.refuse.eth_requestAccounts = { code: -32002, message: 'Already processing' }
  await tab.click('#pay')
  await tab.see(says('/waiting for you/'))
  await tab.click('#pay')
  await tab.see(SHOWN)
  assert.equal(paid().length, 1)
})

pageTest('A wallet on another chain is asked to switch', '/weather', { wallet: makeWallet({ chainId: 1 }) }, async ({ tab, wallet }) => {
  wallet.refuse.wallet_switchEthereumChain = { code: 4001, message: 'no' }
  await tab.click('#pay')
  await tab.see(says('/declined/'))
  assert.equal(wallet.signatures().length, 0)
  await tab.click('#pay')
  await tab.see(SHOWN)
  assert.equal(wallet.chainId, CHAIN_ID)
})

pageTest('A wallet that does not know the chain is told of it', '/weather', { wallet: makeWallet({ chainId: 1, knows: [1] }) }, async ({ tab, wallet }) => {
  await tab.click('#pay')
  await tab.see(SHOWN)
  const added = wallet.calls.find(({ method }) => method === 'wallet_addEthereumChain').params
  assert.deepEqual(added, [{
    chainId: '0x14a34',
    chainName: 'Base Sepolia',
    nativeCurrency: { name: 'ETH', symbol: 'ETH', decimals: 18 },
    rpcUrls: ['https://sepolia.base.org'],
    blockExplorerUrls: ['https://sepolia.basescan.org'],
  }])
})

pageTest('While the outcome is unknown the same payment is sent again, and none is signed', '/weather', {}, async ({ tab, wallet, paid }) => {
  const again = { headers: { 'retry-after': '1', 'content-type': 'application/json' }, body: '{"error":"unknown"}' }
  tab.faults.push({ status: 502, ...again }, { status: 504, ...again }, { status: 409, ...again }, { lost: true })
  await tab.click('#pay')
  await tab.see(says('/not known yet/'))
  assert.equal(await tab.evaluate(`document.querySelector('#pay').ariaDisabled`), 'true')
  await tab.click('#pay')
  await tab.see(SHOWN)
  assert.equal(paid().length, 5)
  assert.equal(new Set(paid().map(({ payment }) => payment)).size, 1)
  assert.equal(wallet.signatures().length, 1)
})

pageTest('A payment of unknown outcome outlives the page, and is the one that is sent again', '/weather', {}, async ({ tab, wallet, paid }) => {
  tab.faults.push({ status: 504, headers: { 'retry-after': '600' } })
  await tab.click('#pay')
  await tab.see(says('/not known yet/'))
  await tab.reload()
  await tab.see(says('/outcome of a payment is not known/'))
  assert.equal(await tab.evaluate(text('#pay')), 'Send the signed payment again')
  await picture(tab, 'unknown')
  await tab.click('#pay')
  await tab.see(SHOWN)
  assert.equal(new Set(paid().map(({ payment }) => payment)).size, 1)
  assert.equal(paid().length, 2)
  assert.equal(wallet.signatures().length, 1)
})

pageTest('An error of the service keeps the payment for another try', '/fails', {}, async ({ tab, wallet, paid }) => {
  await tab.click('#pay')
  await tab.see(says('/answered 500. You will not be charged twice/'))
  assert.equal(await tab.evaluate(text('#pay')), 'Send the signed payment again')
  tab.faults.push({ status: 200, headers: { 'content-type': 'text/plain' }, body: 'at last' })
  await tab.click('#pay')
  await tab.see(SHOWN)
  assert.equal(await tab.evaluate(text('#content')), 'at last')
  assert.equal(await tab.evaluate(text('#receipt')), 'No receipt came along.')
  assert.equal(new Set(paid().map(({ payment }) => payment)).size, 1)
  assert.equal(wallet.signatures().length, 1)
})

pageTest('A refused payment is given up in words, and fresh terms are asked for', '/weather', {}, async ({ tab, wallet, paid }) => {
  wallet.signer = accounts[5]
  await tab.click('#pay')
  await tab.see(says('/refused. \\(invalid_exact_evm_signature\\)/'))
  assert.equal(await tab.evaluate(text('#pay')), 'Start again')
  assert.equal(await tab.evaluate('sessionStorage.length'), 0)
  wallet.signer = payerAccount
  await tab.evaluate('window.isOld = true')
  await tab.click('#pay')
  await tab.see(`!window.isOld && document.querySelector('#pay')?.innerText === 'Pay $0.001'`)
  await tab.click('#pay')
  await tab.see(SHOWN)
  assert.equal(new Set(paid().map(({ payment }) => payment)).size, 2)
})

pageTest('By the keyboard alone', '/weather', {}, async ({ tab }) => {
  const focused = () => tab.evaluate('document.activeElement.id')
  const outline = () => tab.evaluate('getComputedStyle(document.activeElement).outlineStyle')
  await tab.press('Tab')
  assert.equal(await focused(), 'to')
  await tab.press('Tab')
  assert.equal(await focused(), 'pay')
  assert.equal(await outline(), 'solid')
  await tab.press('Enter')
  await tab.see(SHOWN)
  assert.equal(await focused(), 'result')
  await tab.press('Tab')
  assert.equal(await tab.evaluate(`document.activeElement.closest('#receipt') !== null`), true)
})

pageTest('The status is announced', '/weather', {}, async ({ tab }) => {
  const [role, live] = await tab.evaluate(`['role', 'aria-live'].map(name => document.querySelector('#status').getAttribute(name))`)
  assert.deepEqual([role, live], ['status', 'polite'])
})

const LUMINANCE = `(() => {
  const light = color => {
    const [r, g, b] = color.match(/[\\d.]+/g).map(part => part / 255).map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const contrast = (a, b) => { const [x, y] = [light(a), light(b)].sort((m, n) => n - m); return (x + 0.05) / (y + 0.05) }
  const of = (selector, name) => getComputedStyle(document.querySelector(selector))[name]
  document.querySelector('#status').className = 'bad'
  const paper = of('main', 'backgroundColor')
  const worst = Math.min(contrast(of('#pay', 'color'), of('#pay', 'backgroundColor')),
    ...['h1', 'dt', 'summary', 'small', 'a', '#status'].map(selector => contrast(of(selector, 'color'), paper)))
  return [light(paper), worst]
})()`

pageTest('In the light', '/weather', { scheme: 'light' }, async ({ tab }) => {
  const [paper, worst] = await tab.evaluate(LUMINANCE)
  assert.ok(paper > 0.8)
  assert.ok(worst >= 4.5, `contrast ${worst}`)
})

pageTest('In the dark', '/weather', { scheme: 'dark' }, async ({ tab }) => {
  await picture(tab, 'dark')
  const [paper, worst] = await tab.evaluate(LUMINANCE)
  assert.ok(paper < 0.1)
  assert.ok(worst >= 4.5, `contrast ${worst}`)
})

for (const scheme of ['light', 'dark']) {
  pageTest(`On a phone, ${scheme}`, `/weather?${'long'.repeat(60)}`, { scheme, size: [360, 740], isPhone: true }, async ({ tab }) => {
    await picture(tab, `phone-${scheme}`)
    const fits = 'document.documentElement.scrollWidth <= 360'
    assert.ok(await tab.evaluate(fits))
    assert.ok(await tab.evaluate(`document.querySelector('#pay').getBoundingClientRect().height >= 44`))
    await tab.click('#pay')
    await tab.see(SHOWN)
    assert.ok(await tab.evaluate(fits))
  })
}

pageTest('A description is nothing but text', '/hostile', {}, async ({ tab }) => {
  assert.equal(await tab.evaluate(`document.querySelector('h1').textContent`), HOSTILE)
  assert.equal(await tab.evaluate('document.scripts.length'), 3)
  assert.equal(await tab.evaluate('document.images.length'), 0)
  await tab.click('#pay')
  await tab.see(SHOWN)
})

pageTest('No other script runs, and nothing else is loaded', '/weather', {}, async ({ tab }) => {
  const tries = `(async () => {
    const script = document.createElement('script')
    script.textContent = 'window.ran = 1'
    document.body.append(script)
    document.body.insertAdjacentHTML('beforeend', '<p style="color: rgb(9, 9, 9)" id="styled"></p><a id="j" href="javascript:window.ran = 2">j</a><iframe src="/free"></iframe>')
    document.querySelector('#j').click()
    const elsewhere = await fetch('http://127.0.0.1:1/').then(() => 'fetched', error => error.name)
    await new Promise(done => setTimeout(done, 100))
    return [window.ran, getComputedStyle(document.querySelector('#styled')).color === 'rgb(9, 9, 9)', elsewhere]
  })()`
  // What crosses the protocol has null for undefined.
  assert.deepEqual(await tab.evaluate(tries), [null, false, 'TypeError'])
  assert.ok(tab.complaints.length >= 4, tab.complaints.join('\n'))
  tab.complaints.length = 0
  tab.requests.splice(0)
})

pageTest('Without a wallet the page says so', '/weather', { wallet: null }, async ({ tab, paid }) => {
  await tab.click('#pay')
  await tab.see(says('/No wallet was found/'))
  assert.deepEqual(paid(), [])
})

pageTest('Of several wallets that announce themselves one is chosen', '/weather', { announced: ['First', 'Second'] }, async ({ tab, wallet }) => {
  assert.equal(await tab.evaluate(`document.querySelector('#wallet').innerText.trim().replace(/\\s+/g, ' ')`), 'First Second')
  await tab.evaluate(`document.querySelector('#wallet').selectedIndex = 1`)
  await picture(tab, 'wallets')
  await tab.click('#pay')
  await tab.see(SHOWN)
  assert.deepEqual([...new Set(wallet.calls.map(({ name }) => name))], ['Second'])
})

pageTest('Of several ways to pay one is chosen', '/choice', {}, async ({ tab, paid }) => {
  assert.equal(await tab.evaluate(text('#network')), 'Base')
  await picture(tab, 'ways')
  await tab.click('#ways label:last-child input')
  assert.equal(await tab.evaluate(text('#network')), 'Base Sepolia')
  await tab.click('#pay')
  await tab.see(SHOWN)
  assert.equal(decode(paid()[0].payment).accepted.network, NETWORK)
})

pageTest('What no wallet can pay is left to programs', '/programs', {}, async ({ tab }) => {
  assert.equal(await tab.evaluate(`document.querySelector('#pay').hidden`), true)
  assert.ok(await tab.evaluate(says('/cannot pay here/')))
})

test('The filter, the facilitator and the token take what the page has signed', { timeout: 120_000 }, async () => {
  const wallet = makeWallet()
  const tab = await browser.openTab({ wallet })
  try {
    const before = await backends.chain.balanceOf(payTo)
    await tab.open(`${gateway.url}/weather`)
    await tab.click('#pay')
    await tab.see(SHOWN)
    assert.match(await tab.evaluate(text('#content pre')), /"city": "Lisbon"/)
    const [transfer] = (await backends.chain.transfers()).slice(-1)
    assert.equal(transfer.from, payerAccount.address)
    assert.equal(transfer.value, 1000n)
    assert.ok((await tab.evaluate(text('#receipt'))).includes(transfer.transaction))
    assert.equal(await backends.chain.balanceOf(payTo) - before, 1000n)
    const [{ payment }] = tab.requests.filter(({ payment }) => payment)
    // Used up, it buys nothing more, and the page says why.
    await tab.open(`${gateway.url}/weather`)
    await tab.evaluate(`sessionStorage.setItem('x402 ${gateway.url}/weather', '${payment}')`)
    await tab.reload()
    await tab.click('#pay')
    await tab.see(says('/used already. \\(invalid_exact_evm_nonce_already_used\\)/'))
    assert.equal(await backends.chain.balanceOf(payTo) - before, 1000n)
    assert.deepEqual(tab.complaints, [])
  } finally {
    await tab.close()
  }
})

test('An operator’s own page says what it is told to say, and no more', async () => {
  const tab = await browser.openTab()
  try {
    await tab.open(`${own.url}/hostile`)
    assert.equal(await tab.evaluate(`document.querySelector('p').title`), HOSTILE)
    assert.equal(await tab.evaluate('document.title.replace(/\\s+/g, " ")'), HOSTILE.replace(/\s+/g, ' '))
    assert.equal(await tab.evaluate(`document.querySelector('p').textContent`), `${HOSTILE} for $0.001 in USDC on Base Sepolia`)
    assert.equal(await tab.evaluate(`JSON.parse(document.querySelector('#terms').textContent).resource.description`), HOSTILE)
    assert.deepEqual(await tab.evaluate('[document.scripts.length, document.images.length, window.hacked]'), [1, 0, null])
    assert.deepEqual(tab.complaints, [])
  } finally {
    await tab.close()
  }
})

test('Another method than GET is left to programs', async () => {
  const tab = await browser.openTab()
  try {
    tab.method = 'POST'
    await tab.open(`${gateway.url}/weather`)
    assert.equal(await tab.evaluate(`document.querySelector('#pay').hidden`), true)
    assert.ok(await tab.evaluate(says('/This was a POST request/')))
  } finally {
    await tab.close()
  }
})

test('An unpaid page comes with the headers that it needs', async () => {
  const answer = await fetch(`${gateway.url}/weather`, { headers: { accept: 'text/html' } })
  assert.equal(answer.status, 402)
  const policy = answer.headers.get('content-security-policy')
  for (const directive of [`default-src 'none'`, `connect-src 'self'`, `base-uri 'none'`, `form-action 'none'`, `frame-ancestors 'none'`]) {
    assert.ok(policy.split('; ').includes(directive), directive)
  }
  assert.doesNotMatch(policy, /unsafe|\*|http/)
  assert.equal(answer.headers.get('x-content-type-options'), 'nosniff')
  assert.match(answer.headers.get('vary'), /accept/)
  assert.equal(answer.headers.get('cache-control'), 'no-store')
})

test('What wallets are told of chains is what viem knows', () => {
  const source = readFileSync(new URL('../../src/networks/chains.rs', import.meta.url), 'utf8')
  const rows = [...source.matchAll(/chain\(\s*(\d+),\s*"(.*?)",\s*"(.*?)",\s*"(.*?)",\s*"(.*?)",?\s*\)/g)]
  assert.ok(rows.length >= 13)
  for (const [, id, name, currency, explorer, rpc] of rows) {
    const chain = Object.values(chains).find(one => one.id === Number(id))
    assert.deepEqual([name, currency, explorer], [chain.name, chain.nativeCurrency.symbol, chain.blockExplorers.default.url])
    if (rpc) assert.equal(rpc, chain.rpcUrls.default.http[0])
  }
})
