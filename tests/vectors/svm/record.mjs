/**
 * Writes `exact.json` beside this file: payments in the scheme `exact` on Solana, and what the official verifier says
 * of each.
 *
 *   node tests/vectors/svm/record.mjs           writes the file
 *   node tests/vectors/svm/record.mjs --check   fails where the file differs from what would be written
 *
 * The honest payments come from the client of `@x402/svm` (v2 and v1). There is no Solana node in reach, so the client
 * is given a fake one, an HTTP server that knows the mints below and one blockhash, and nothing else. The others are
 * put together and signed here. The verdicts are those of the facilitator of the same package, whose simulation is
 * faked too: it always succeeds. So a payment that only the chain would refuse is `valid` in its eyes; `chain` then says
 * what the chain would object to.
 *
 * The keys are throwaway ones, SHA-256 of a label; the client's random memo is drawn from a counter. Every run gives the
 * same bytes.
 */
import { ok as assert } from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import {
  createKeyPairSignerFromPrivateKeyBytes,
  getAddressDecoder,
  getAddressEncoder,
  getBase58Encoder,
  getProgramDerivedAddress,
  signBytes,
} from '@solana/kit'
import { decodeTransactionFromPayload, transactionMessageHash } from '@x402/svm'
import { ExactSvmScheme as Client } from '@x402/svm/exact/client'
import { ExactSvmScheme as Facilitator } from '@x402/svm/exact/facilitator'
import { ExactSvmSchemeV1 as ClientV1 } from '@x402/svm/v1'
import { fakeSigner, startFakeSolana } from '../../e2e/fake-solana.mjs'

const FILE = new URL('exact.json', import.meta.url)
const NETWORK = 'solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1'
const TOKEN = 'TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA'
const TOKEN_2022 = 'TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb'
const ASSOCIATED_TOKEN = 'ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL'
const COMPUTE_BUDGET = 'ComputeBudget111111111111111111111111111111'
const MEMO = 'MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr'
const LIGHTHOUSE = 'L2TExMFKdjpN9kozasaurPirfHy9P8sbXoAN1qA3S95'
const SYSTEM = '11111111111111111111111111111111'

const sha256 = text => new Uint8Array(createHash('sha256').update(text).digest())
const signer = label => createKeyPairSignerFromPrivateKeyBytes(sha256(`x402 svm vector: ${label}`))
const keyBytes = address => new Uint8Array(getAddressEncoder().encode(address))
const addressOf = bytes => getAddressDecoder().decode(bytes)

const payer = await signer('payer')
const stranger = await signer('stranger')
const feePayer = await signer('fee payer')
const payTo = (await signer('recipient')).address
const BLOCKHASH = addressOf(sha256('x402 svm vector: blockhash'))

/** The tokens of the fake node. */
const MINTS = {
  usdc: { address: '4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU', program: TOKEN, decimals: 6 },
  pyusd: { address: 'CXk2AMBfi3TwaEL2468s6zP8xq9NxTXjp9gjMgzeUynM', program: TOKEN_2022, decimals: 6 },
  nine: { address: (await signer('mint of nine decimals')).address, program: TOKEN, decimals: 9 },
}

const node = await startFakeSolana({ mints: Object.values(MINTS), blockhash: BLOCKHASH })
const rpcUrl = node.url

let drawn = 0
globalThis.crypto.getRandomValues = array => array.fill((drawn += 1))

// ------------------------------------------------------------------------------------------- transactions put together

const shortU16 = number => {
  const bytes = []
  for (; number > 0x7f; number >>= 7) bytes.push((number & 0x7f) | 0x80)
  return [...bytes, number]
}
const list = (items, bytesOf) => [...shortU16(items.length), ...items.flatMap(item => [...bytesOf(item)])]
const u64 = number => [...new Uint8Array(BigUint64Array.of(BigInt(number)).buffer)]
const u32 = number => [...new Uint8Array(Uint32Array.of(number).buffer)]

async function ata(owner, mint, program = mint.program) {
  const seeds = [owner, program, mint.address].map(keyBytes)
  const [address] = await getProgramDerivedAddress({ programAddress: ASSOCIATED_TOKEN, seeds })
  return address
}

const signs = { signs: true }
const writes = { writes: true }
const account = (address, { signs = false, writes = false } = {}) => ({ address, signs, writes })
const instruction = (program, data, accounts = []) => ({ program, data, accounts })
const limit = (units = 20_000) => instruction(COMPUTE_BUDGET, [2, ...u32(units)])
const price = (microLamports = 1) => instruction(COMPUTE_BUDGET, [3, ...u64(microLamports)])
const memo = (text = 'a memo', accounts = []) => instruction(MEMO, [...new TextEncoder().encode(text)], accounts)
const assertion = (address = payer.address) => instruction(LIGHTHOUSE, [6, 0, 1, 2, 3], [account(address)])

async function transfer({
  mint = MINTS.usdc,
  program = mint.program,
  amount = 1000,
  decimals = mint.decimals,
  source,
  destination,
  authority = account(payer.address, signs),
  further = [],
  data,
} = {}) {
  return instruction(program, data ?? [12, ...u64(amount), decimals], [
    source ?? account(await ata(payer.address, mint, program), writes),
    account(mint.address),
    destination ?? account(await ata(payTo, mint, program), writes),
    authority,
    ...further,
  ])
}

/** The places of a message's accounts: signers before others, writable before read-only, the fee payer first. */
function layout(instructions, fee) {
  const roles = new Map([[fee, { signs: true, writes: true }]])
  const add = (address, signs, writes) => {
    const role = roles.get(address) ?? { signs: false, writes: false }
    roles.set(address, { signs: role.signs || signs, writes: role.writes || writes })
  }
  for (const { program, accounts } of instructions) {
    accounts.forEach(({ address, signs, writes }) => add(address, signs, writes))
    add(program, false, false)
  }
  const group = (signs, writes) => [...roles].filter(([, r]) => r.signs === signs && r.writes === writes).map(([a]) => a)
  const groups = [group(true, true), group(true, false), group(false, true), group(false, false)]
  return {
    header: [groups[0].length + groups[1].length, groups[1].length, groups[3].length],
    accounts: groups.flat(),
  }
}

/** A transaction in base64, signed by those of `keys` that have to. `alter` may change parts of it before. */
async function transaction(instructions, { version = 0, fee = feePayer.address, keys = [payer, stranger], alter = {} } = {}) {
  const { header, accounts } = { ...layout(instructions, fee), ...alter.layout }
  const lookups = alter.lookups ?? []
  const places = [...accounts, ...(alter.lookedUp ?? [])]
  const compiled = list(instructions, ({ program, accounts, data }) => [
    places.indexOf(program),
    ...list(accounts, ({ address }) => [places.indexOf(address)]),
    ...list(data, byte => [byte]),
  ])
  const message = new Uint8Array([
    ...(version === 'legacy' ? [] : [0x80 | version]),
    ...header,
    ...(alter.accounts ?? list(accounts, keyBytes)),
    ...keyBytes(BLOCKHASH),
    ...compiled,
    ...(version === 'legacy' ? [] : list(lookups, lookup => lookup)),
    ...(alter.trailing ?? []),
  ])
  const signatures = await Promise.all(
    accounts.slice(0, header[0]).map(async address => {
      const key = keys.find(key => key.address === address)
      return key ? signBytes(key.keyPair.privateKey, message) : new Uint8Array(64)
    }),
  )
  const given = alter.signatures?.(signatures, message) ?? signatures
  return Buffer.from([...list(given, signature => signature), ...message]).toString('base64')
}

// ------------------------------------------------------------------------------------------------------------ the cases

const cases = []
const requirementsOf = ({ mint = MINTS.usdc, amount = '1000', recipient = payTo, text, network = NETWORK } = {}) => ({
  scheme: 'exact',
  network,
  asset: mint.address,
  amount,
  maxAmountRequired: amount,
  payTo: recipient,
  maxTimeoutSeconds: 60,
  extra: { feePayer: feePayer.address, ...(text ? { memo: text } : {}) },
})

// It writes to the console of every transaction that it cannot decode.
console.error = () => {}

/** The official facilitator, with a fake signer. */
const TABLES = {}
const facilitator = new Facilitator(fakeSigner(feePayer.address, TABLES))

async function add(name, transaction, { terms = {}, kind, chain, note } = {}) {
  const requirements = requirementsOf(terms)
  const mint = terms.mint ?? MINTS.usdc
  let official
  {
    const { isValid, invalidReason, payer } = await facilitator.verify(
      { x402Version: 2, accepted: requirements, payload: { transaction } },
      requirements,
    )
    official = isValid
      ? { valid: true, payer, messageHash: transactionMessageHash(decodeTransactionFromPayload({ transaction })) }
      : { valid: false, reason: invalidReason }
  }
  cases.push({
    name,
    kind,
    ...(note ? { note } : {}),
    terms: {
      mint: requirements.asset,
      decimals: mint.decimals,
      tokenProgram: mint.program,
      payTo: requirements.payTo,
      amount: requirements.amount,
      feePayer: feePayer.address,
      ...(terms.text ? { memo: terms.text } : {}),
    },
    transaction,
    official,
    ...(chain ? { chain } : {}),
  })
}

// The official client.
const honest = async (name, terms, client, version) => {
  const requirements = requirementsOf({ ...terms, ...(version === 1 ? { network: 'solana-devnet' } : {}) })
  const { payload } = await client.createPaymentPayload(version, requirements)
  await add(name, payload.transaction, { terms, kind: 'client' })
}
const client = new Client(payer, { rpcUrl })
const clientV1 = new ClientV1(payer, { rpcUrl })
await honest('v2, USDC', {}, client, 2)
await honest('v2, USDC, again', {}, client, 2)
await honest('v2, one unit', { amount: '1' }, client, 2)
await honest('v2, the greatest amount', { amount: '18446744073709551615' }, client, 2)
await honest('v2, Token-2022', { mint: MINTS.pyusd }, client, 2)
await honest('v2, nine decimals', { mint: MINTS.nine, amount: '1000000000' }, client, 2)
await honest('v2, a memo of the seller', { text: 'pi_3abc123def456' }, client, 2)
await honest('v2, a memo beyond ASCII', { text: 'Rechnung № 7 – ½ 🧾' }, client, 2)
await honest('v2, the longest memo', { text: 'm'.repeat(256) }, client, 2)
await honest('v2, another recipient', { recipient: stranger.address }, client, 2)
await honest('v2, another payer', {}, new Client(stranger, { rpcUrl }), 2)
await honest('v2, the payer is the recipient', { recipient: payer.address }, client, 2)
await honest('v1, USDC', {}, clientV1, 1)
await honest('v1, a memo of the seller', { text: 'pi_3abc123def456' }, clientV1, 1)
await node.stop()

// What wallets make of payments.
const wallet = (name, transaction, terms) => add(name, transaction, { terms, kind: 'wallet' })
const base = [limit(), price(), await transfer()]
await wallet('without a memo', await transaction(base))
await wallet('legacy message', await transaction([...base, memo()], { version: 'legacy' }))
await wallet('one assertion (Phantom)', await transaction([...base, memo(), assertion()]))
await wallet('two assertions (Solflare)', await transaction([...base, assertion(), memo(), assertion()]))
await wallet('seven instructions', await transaction([...base, assertion(), assertion(), assertion(), memo()]))
await wallet('two memos where none is asked', await transaction([...base, memo('one'), memo('two')]))
await wallet('the dearest compute unit', await transaction([limit(), price(5_000_000), base[2]]))
await wallet('the highest limit', await transaction([limit(1_400_000), price(), base[2]]))
await wallet('a free compute unit', await transaction([limit(), price(0), base[2]]))
await wallet('a memo that the payer witnesses', await transaction([...base, memo('signed', [account(payer.address, signs)])]))
await wallet('the seller’s memo among assertions', await transaction([...base, assertion(), memo('order 7')]), { text: 'order 7' })
await wallet(
  'a delegate pays',
  await transaction([limit(), price(), await transfer({ authority: account(stranger.address, signs) })]),
)
await wallet(
  'from an account that is not the associated one',
  await transaction([limit(), price(), await transfer({ source: account(addressOf(sha256('other account')), writes) })]),
)
await wallet(
  'two signers',
  await transaction([...base, memo('both', [account(payer.address, signs), account(stranger.address, signs)])]),
)
await wallet(
  'the fee payer’s signature is there, and nonsense',
  await transaction(base, { alter: { signatures: ([, ...others]) => [new Uint8Array(64).fill(7), ...others] } }),
)
await wallet(
  'bytes after the decimals, as the programs allow',
  await transaction([
    instruction(COMPUTE_BUDGET, [2, ...u32(20_000), 9]),
    instruction(COMPUTE_BUDGET, [3, ...u64(1), 9]),
    await transfer({ data: [12, ...u64(1000), 6, 9] }),
  ]),
)

// What only the chain can tell.
const open = (name, transaction, terms) => add(name, transaction, { terms, kind: 'facilitator decides' })
const multisig = addressOf(sha256('multisig'))
await open(
  'a multisig pays',
  await transaction([
    limit(),
    price(),
    await transfer({ authority: account(multisig), further: [account(payer.address, signs), account(stranger.address, signs)] }),
  ]),
)
const table = addressOf(sha256('lookup table'))
{
  const [source, mint, destination] = base[2].accounts.map(({ address }) => address)
  TABLES[table] = [destination, mint]
  const { accounts } = layout(base, feePayer.address)
  const kept = accounts.filter(address => address !== destination && address !== mint)
  assert(kept.includes(source))
  const header = [2, 1, 2]
  await open(
    'mint and destination from a lookup table',
    await transaction(base, {
      alter: {
        layout: { header, accounts: kept },
        lookups: [[...keyBytes(table), 1, 0, 1, 1]],
        lookedUp: [destination, mint],
      },
    }),
  )
}

// Others than were asked for, all properly signed.
const hostile = (name, transaction, options) => add(name, transaction, { kind: 'hostile', ...options })
const withTransfer = async (parts, options) => transaction([limit(), price(), await transfer(parts), memo()], options)
await hostile('another mint', await withTransfer({ mint: MINTS.nine, decimals: 6 }))
await hostile('to another owner', await withTransfer({ destination: account(await ata(stranger.address, MINTS.usdc), writes) }))
await hostile('to the recipient itself, not its token account', await withTransfer({ destination: account(payTo, writes) }))
await hostile('to the recipient’s account of another mint', await withTransfer({ destination: account(await ata(payTo, MINTS.nine), writes) }))
await hostile('to the recipient’s account under the other program', await withTransfer({ destination: account(await ata(payTo, MINTS.usdc, TOKEN_2022), writes) }))
await hostile('one unit less', await withTransfer({ amount: 999 }))
await hostile('one unit more', await withTransfer({ amount: 1001 }))
await hostile('nothing', await withTransfer({ amount: 0 }))
await hostile('the fee payer pays', await withTransfer({ authority: account(feePayer.address, signs) }))
await hostile('another fee payer', await withTransfer({}, { fee: stranger.address }))
await hostile('the payer pays the fee', await withTransfer({}, { fee: payer.address }))
await hostile('no price', await transaction([limit(), await transfer(), memo()]))
await hostile('two instructions', await transaction([limit(), price()]))
await hostile('eight instructions', await transaction([...base, memo(), memo(), memo(), memo(), memo()]))
await hostile('price before limit', await transaction([price(), limit(), base[2]]))
await hostile('a limit that is cut off', await transaction([instruction(COMPUTE_BUDGET, [2, 1, 1, 1]), price(), base[2]]))
await hostile('a limit without data', await transaction([instruction(COMPUTE_BUDGET, []), price(), base[2]]))
await hostile('a limit of another program', await transaction([instruction(MEMO, [2, ...u32(1)]), price(), base[2]]))
await hostile('a price that is cut off', await transaction([limit(), instruction(COMPUTE_BUDGET, [3, 1, 1, 1]), base[2]]))
await hostile('a price without data', await transaction([limit(), instruction(COMPUTE_BUDGET, []), base[2]]))
await hostile('a price of another program', await transaction([limit(), instruction(MEMO, [3, ...u64(1)]), base[2]]))
await hostile('too dear a compute unit', await transaction([limit(), price(5_000_001), base[2]]))
await hostile('the dearest compute unit there is', await transaction([limit(), price(18446744073709551615n), base[2]]))
await hostile('Transfer instead of TransferChecked', await withTransfer({ data: [3, ...u64(1000), 6] }))
await hostile('a transfer that is cut off', await withTransfer({ data: [12, ...u64(1000)] }))
await hostile('a transfer without data', await withTransfer({ data: [] }))
await hostile('a transfer of another program', await withTransfer({ program: SYSTEM }))
await hostile('a transfer of three accounts', await transaction([limit(), price(), { ...base[2], accounts: base[2].accounts.slice(0, 3) }]))
await hostile('the transfer fourth', await transaction([limit(), price(), memo(), base[2]]))
for (const [place, extra] of [['fourth', []], ['fifth', [memo()]], ['sixth', [memo(), memo()]], ['seventh', [memo(), memo(), memo()]]]) {
  await hostile(`a second transfer, ${place}`, await transaction([...base, ...extra, await transfer({ amount: 1 })]))
  await hostile(`the system program, ${place}`, await transaction([...base, ...extra, instruction(SYSTEM, [2, 0, 0, 0, ...u64(1)], [account(payer.address, { signs: true, writes: true }), account(stranger.address, writes)])]))
}
await hostile('no memo where one is asked for', await transaction(base), { terms: { text: 'order 7' } })
await hostile('two memos where one is asked for', await transaction([...base, memo('order 7'), memo('order 7')]), { terms: { text: 'order 7' } })
await hostile('another memo', await transaction([...base, memo('order 8')]), { terms: { text: 'order 7' } })
await hostile('a longer memo', await transaction([...base, memo('order 77')]), { terms: { text: 'order 7' } })
await hostile('an empty memo', await transaction([...base, memo('')]), { terms: { text: 'order 7' } })
await hostile('no signature of the payer', await transaction(base, { keys: [] }))
await hostile('the payer’s signature is another’s', await transaction(base, { keys: [{ address: payer.address, keyPair: stranger.keyPair }] }))
await hostile('the payer’s signature has a bit turned', await transaction(base, { alter: { signatures: ([fee, own]) => [fee, own.with(9, own[9] ^ 1)] } }))
await hostile('the second signer did not sign', await transaction([...base, memo('both', [account(stranger.address, signs)])], { keys: [payer] }))
await hostile('no signatures', await transaction(base, { alter: { signatures: () => [] } }))
await hostile('one signature too few', await transaction(base, { alter: { signatures: ([fee]) => [fee] } }))
await hostile('one signature too many', await transaction(base, { alter: { signatures: all => [...all, all[1]] } }))
await hostile('a version that is none yet', await transaction(base, { version: 1 }))
{
  const order = 2n ** 252n + 27742317777372353535851937790883648493n
  const littleEndian = bytes => bytes.reduceRight((sum, byte) => (sum << 8n) | BigInt(byte), 0n)
  const raised = own => {
    let s = littleEndian(own.slice(32)) + order
    return Uint8Array.from([...own.slice(0, 32), ...Array.from({ length: 32 }, () => { const byte = Number(s & 255n); s >>= 8n; return byte })])
  }
  await hostile('the same signature with the order added to s', await transaction(base, { alter: { signatures: ([fee, own]) => [fee, raised(own)] } }))
}

// What the chain alone refuses, because the verifier's simulation is faked here.
const failing = (name, transaction, chain, terms) => add(name, transaction, { kind: 'hostile', chain, terms })
await failing('other decimals', await withTransfer({ decimals: 9 }), 'the mint has other decimals')
await failing('the other token program', await withTransfer({ program: TOKEN_2022 }), 'the mint is not its own')
await failing('the fee payer is the source', await withTransfer({ source: account(feePayer.address, writes) }), 'rule 2 of the specification; it is no token account')
await failing('the fee payer in an assertion', await transaction([...base, assertion(feePayer.address)]), 'rule 2 of the specification')
await failing('the fee payer witnesses a memo', await transaction([...base, memo('x', [account(feePayer.address, signs)])]), 'rule 2 of the specification')
await failing('the source is read-only', await withTransfer({ source: account(await ata(payer.address, MINTS.usdc)) }), 'it has to change')
await failing('the destination is read-only', await withTransfer({ destination: account(await ata(payTo, MINTS.usdc)) }), 'it has to change')
await failing('the authority does not sign', await withTransfer({ authority: account(payer.address) }), 'nobody gave leave')
await failing('the authority does not sign, another does', await transaction([limit(), price(), await transfer({ authority: account(stranger.address) }), memo('x', [account(payer.address, signs)])]), 'nobody gave leave')
await failing('a memo that is no text', await transaction([...base, instruction(MEMO, [0xff, 0xfe])]), 'the memo program wants UTF-8')
await failing('a memo whose witness does not sign', await transaction([...base, memo('x', [account(stranger.address)])]), 'the memo program wants signatures')
await failing('bytes after the message', await transaction(base, { alter: { trailing: [0] } }), 'its own encoding of the message is another')
{
  const { accounts } = layout(base, feePayer.address)
  const long = [0x80 | accounts.length, 0, ...accounts.flatMap(address => [...keyBytes(address)])]
  await failing('a length in two bytes that fits one', await transaction(base, { alter: { accounts: long } }), 'lengths have one form')
  const twice = { header: layout(base, feePayer.address).header, accounts: [...accounts, payTo, payTo] }
  await failing('an account twice', await transaction(base, { alter: { layout: twice } }), 'each account is named once')
}
{
  const many = Array.from({ length: 30 }, (_, i) => account(addressOf(sha256(`many ${i}`))))
  await failing('longer than a packet', await transaction([...base, instruction(LIGHTHOUSE, [6], many)]), 'no packet holds it')
}
{
  // The system program's address is a point of small order, for which anybody can make signatures.
  const small = { authority: account(SYSTEM, signs) }
  for (let tries = 0; ; tries += 1) {
    const parts = [limit(), price(), await transfer(small), memo(`try ${tries}`)]
    const forged = Uint8Array.from([1, ...new Uint8Array(63)])
    const transactionOf = await transaction(parts, { alter: { signatures: ([fee]) => [fee, forged] } })
    const verdict = await facilitator.verify(
      { x402Version: 2, accepted: requirementsOf(), payload: { transaction: transactionOf } },
      requirementsOf(),
    )
    if (!verdict.isValid && tries < 64) continue
    await failing('signed for a key of small order', transactionOf, 'its check of signatures refuses such keys')
    break
  }
}

assert(new Set(cases.map(({ name }) => name)).size === cases.length, 'every case has its own name')
const text = `${JSON.stringify(
  {
    source: 'recorded by record.mjs from @x402/svm 2.27.0 with a fake node; simulations are faked and always succeed',
    associated: await Promise.all(
      Object.values(MINTS).flatMap(mint =>
        [payer.address, payTo, stranger.address].map(async owner => ({
          owner,
          mint: mint.address,
          tokenProgram: mint.program,
          account: await ata(owner, mint),
        })),
      ),
    ),
    cases,
  },
  null,
  1,
)}\n`
if (process.argv.includes('--check')) {
  assert(readFileSync(FILE, 'utf8') === text, 'exact.json is not what would be written')
} else {
  writeFileSync(FILE, text)
}
