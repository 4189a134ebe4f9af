/**
 * Channels in the storm: official clients that deposit once and sign a growing total with each call, some of which leave in
 * the middle, send a paid voucher again, get their money back and begin anew, or withdraw it on the chain; and their books, which
 * have to balance to the atomic unit: what was served is what was charged, and that is what is claimed in the end, though
 * payers take back all that they can.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { payTo } from "../../stage/accounts.mjs";
import { BATCH_SETTLEMENT, ERC3009_DEPOSIT_COLLECTOR } from "../../stage/contracts.mjs";
import { askFacilitator, channelsOn, claimRow, makeChannelPayer } from "../e2e/channels-support.mjs";
import { tagOf } from "./books.mjs";
import { CHANNEL, payers } from "./gateway.mjs";
import { randomOf } from "./random.mjs";

const PRICE = BigInt(CHANNEL.amount);

/** The kinds of clients: how many there are, and what sets them apart. */
const KINDS = {
  "channel-honest": { count: 2 },
  "channel-leaving": { count: 2, leaves: true },
  "channel-replaying": { count: 1, replays: true },
  "channel-refunding": { count: 2, refunds: true, calls: [1, 6] },
  "channel-withdrawing": { count: 1, withdraws: true, calls: [1, 6] },
};

/** How many calls a client makes out of one channel, unless its kind says otherwise. */
const CALLS = [4, 24];

/** How long a client goes on once no more channels are begun, to get its money into its channel, or back. */
const PATIENCE_MS = 40_000;

/** What the chain's clock is moved on by before withdrawals are finalized: the delay of all channels, and a little more. */
const WITHDRAW_DELAY_SECONDS = 905;

/** Longer than this nobody waits for an answer. */
const BOUND_MS = 15_000;

/** How long the filter has to claim what is left by itself, once all is calm. */
const SWEEP_MS = 60_000;

const lower = (text) => String(text).toLowerCase();
const OF_CHANNELS = [BATCH_SETTLEMENT, ERC3009_DEPOSIT_COLLECTOR].map(lower);

/** Whether money went into a channel, or came out of one. @param {import("../../stage/chain.mjs").Transfer} transfer */
export const isOfChannels = ({ from, to }) => OF_CHANNELS.includes(lower(from)) || OF_CHANNELS.includes(lower(to));

/**
 * Makes the clients with channels, and their books.
 *
 * @param {object} options
 * @param {number} options.seed
 * @param {import("./books.mjs").Books} options.books
 * @param {import("./gateway.mjs").Gateway} options.gateway
 */
export function makeChannelClients({ seed, books, gateway }) {
  const [chain, lives] = [channelsOn(gateway.chain), []];
  const url = (tag) => `http://127.0.0.1:${gateway.port}/channel/${tag}`;

  /** Asks for one thing; null where no answer came. */
  async function ask(life, tag, { signal, headers } = {}) {
    books.count("requests", life.kind);
    const bound = AbortSignal.timeout(BOUND_MS);
    const init = { signal: signal ? AbortSignal.any([signal, bound]) : bound, headers };
    try {
      const response = await (headers ? fetch : life.payer.fetch)(url(tag), init);
      await response.arrayBuffer();
      if (response.status === 200) life.delivered.add(tag);
      return response;
    } catch {
      if (bound.aborted) books.violate(`a request out of a channel stayed unanswered: ${tag}`);
      return null;
    }
  }

  /** One channel, from its deposit to its end. */
  async function live(kind, index, serial, until) {
    const { leaves, replays, refunds, withdraws, calls: range = CALLS } = KINDS[kind];
    const name = `${kind}-${index}-${serial}`;
    const random = randomOf(seed, name);
    const payer = makeChannelPayer({ account: random.pick(payers), salt: random.hex(32), chain: gateway.chain });
    const life = { kind, name, payer, delivered: new Set(), entry: null, id: null, config: null };
    lives.push(life);
    const calls = random.between(...range);
    let serialOfCall = 0;
    const call = async () => {
      const tag = `${name}.${++serialOfCall}`;
      const signal = leaves && random.chance(0.4) ? AbortSignal.timeout(random.between(1, 150)) : undefined;
      const response = await ask(life, tag, { signal });
      const paid = payer.exchanges.at(-1)?.sent.get("payment-signature");
      if (replays && response?.status === 200 && paid) await ask(life, tag, { headers: { "payment-signature": paid } });
      if (response === null || response.status >= 400) await sleep(random.between(50, 400));
      await sleep(random.between(0, 100));
    };
    for (let count = 0; count < calls; count++) await call();
    const entry = payer.exchanges.flatMap(({ terms }) => terms?.accepts ?? []).find(({ scheme }) => scheme === "batch-settlement");
    if (!entry) return;
    Object.assign(life, { entry, config: payer.configFor(entry), id: lower(payer.idFor(entry)) });
    // What was never put in can be taken back by nobody.
    const holds = async () => {
      const { balance, totalClaimed } = await chain.read(life.id);
      return balance > totalClaimed;
    };
    const isLate = () => Date.now() > until() + PATIENCE_MS;
    if (refunds || withdraws) while (!(await holds()) && !isLate()) await call();
    if (refunds) {
      await refund(life, random, isLate);
      // The same channel, once more from nothing, or from what is left.
      for (let count = random.between(0, 3); count > 0; count--) await call();
      await refund(life, random, isLate);
    }
    if (withdraws) await withdraw(life, random);
  }

  /** Asks for all that is left, and asks again where that fails: as often as it takes, but not for ever. */
  async function refund(life, random, isLate) {
    for (let attempt = 1; !isLate(); attempt++) {
      const { balance, totalClaimed } = await chain.read(life.id);
      if (balance === totalClaimed) return books.count("channels", attempt === 1 ? "nothing to give back" : "given back, unheard");
      books.count("requests", "channel-refund");
      const isDone = await life.payer.refund(url(`${life.name}.refund`)).then(() => true, () => false);
      if (isDone) return books.count("channels", "given back");
      // A client whose deposit's receipt was lost takes its channel for empty; one that knows nothing asks the chain.
      await life.payer.know(life.entry);
      await sleep(random.between(200, 1_000));
    }
    books.count("channels", "not given back");
  }

  /** Begins to withdraw all that is left, and goes on asking: what is charged all the same is to be claimed in time. */
  async function withdraw(life, random) {
    const { balance, totalClaimed } = await chain.read(life.id);
    if (balance <= totalClaimed) return;
    await chain.initiateWithdraw(life.config, balance - totalClaimed).catch(() => {});
    books.count("channels", "withdrawals begun");
    for (let call = random.between(1, 3); call > 0; call--) await ask(life, `${life.name}.withdrawing-${call}`);
  }

  async function liveOn(kind, index, until) {
    for (let serial = 1; Date.now() < until(); serial++) await live(kind, index, serial, until);
  }

  /** Has everybody who has begun to withdraw finish that, once the delay has passed. */
  async function finalizeAll(known) {
    const pending = [];
    for (const life of known) if ((await chain.read(life.id)).withdrawal.initiatedAt !== 0) pending.push(life);
    if (pending.length === 0) return;
    await chain.pass(WITHDRAW_DELAY_SECONDS);
    for (const life of pending) {
      await chain.finalizeWithdraw(life.config);
      books.count("channels", "withdrawals finalized");
    }
  }

  /** What each channel was charged, by what Envoy says that it served. */
  function charges(accessLog) {
    const served = new Map();
    for (const { path, scheme, outcome } of accessLog) {
      if (scheme !== "batch-settlement" || !["served", "billed"].includes(outcome)) continue;
      const tag = tagOf(path ?? "");
      const name = tag.slice(0, tag.lastIndexOf("."));
      served.set(name, (served.get(name) ?? new Set()).add(tag));
    }
    return served;
  }

  /** The claim that is left to the operator: by the highest voucher, and for what was charged. */
  async function claimByHand(life, charged) {
    const vouchers = life.payer.signatures.filter(({ primaryType }) => primaryType === "Voucher");
    const highest = vouchers.reduce((one, other) => (other.message.maxClaimableAmount > one.message.maxClaimableAmount ? other : one));
    const voucher = { maxClaimableAmount: String(highest.message.maxClaimableAmount), signature: highest.signature };
    return askFacilitator(gateway.facilitator, "/settle", { type: "claim", claims: [claimRow(life.config, voucher, charged)] });
  }

  return {
    /** Sends them all off. @param {() => number} until when they begin no more channels; the last ones come to their ends */
    start: (until) =>
      Promise.all(
        Object.entries(KINDS).flatMap(([kind, { count }]) => Array.from({ length: count }, (_, index) => liveOn(kind, index + 1, until))),
      ),

    /**
     * Waits for the last claims, and balances.
     *
     * @param {() => object[]} accessLog Envoy's
     * @returns {Promise<ChannelSums>}
     *
     * @typedef {object} ChannelSums atomic units, but for the first and the last
     * @property {number} channels
     * @property {bigint} deposited
     * @property {bigint} charged
     * @property {bigint} claimed
     * @property {bigint} refunded
     * @property {bigint} withdrawn
     * @property {bigint} remaining
     * @property {number} byHand channels whose last claim a worker that is gone had begun
     */
    balance: async (accessLog) => {
      const known = lives.filter(({ id }) => id !== null);
      const served = charges(accessLog());
      const chargedOf = ({ name }) => BigInt(served.get(name)?.size ?? 0) * PRICE;
      const unclaimed = async () => {
        const states = await Promise.all(known.map(async (life) => [life, (await chain.read(life.id)).totalClaimed]));
        return states.filter(([life, claimed]) => claimed < chargedOf(life)).map(([life]) => life);
      };
      const end = Date.now() + SWEEP_MS;
      let left = await unclaimed();
      for (; left.length > 0 && Date.now() < end; left = await unclaimed()) await sleep(1_000);
      for (const life of left) {
        const answer = await claimByHand(life, chargedOf(life));
        if (!answer.success) books.violate(`${life.name}: what was charged cannot be claimed: ${answer.errorReason} ${answer.errorMessage ?? ""}`);
      }
      await finalizeAll(known);
      const sums = { channels: known.length, deposited: 0n, charged: 0n, claimed: 0n, refunded: 0n, withdrawn: 0n, remaining: 0n, byHand: left.length };
      const events = await chain.events({});
      for (const life of known) {
        const of = (name, field) =>
          events.filter(({ eventName, args }) => eventName === name && args.channelId === life.id).reduce((sum, { args }) => sum + args[field], 0n);
        const [{ balance, totalClaimed }, charged] = [await chain.read(life.id), chargedOf(life)];
        const [deposited, claimed] = [of("Deposited", "amount"), of("Claimed", "claimAmount")];
        const [refunded, withdrawn] = [of("Refunded", "amount"), of("WithdrawFinalized", "amount")];
        const remaining = balance - totalClaimed;
        if (claimed !== charged) books.violate(`${life.name}: ${claimed} was claimed, and ${charged} was served`);
        if (deposited !== claimed + refunded + withdrawn + remaining) {
          books.violate(`${life.name}: ${deposited} was deposited, ${claimed} claimed, ${refunded} given back, ${withdrawn} withdrawn, and ${remaining} is left`);
        }
        for (const tag of life.delivered) if (!served.get(life.name)?.has(tag)) books.violate(`delivered out of a channel, and not charged: ${tag}`);
        sums.deposited += deposited;
        sums.charged += charged;
        sums.claimed += claimed;
        sums.refunded += refunded;
        sums.withdrawn += withdrawn;
        sums.remaining += remaining;
      }
      const { totalClaimed, totalSettled } = await chain.receiver(payTo);
      if (totalClaimed !== sums.claimed) books.violate(`${totalClaimed} was claimed for the recipient, and ${sums.claimed} of channels that are known`);
      books.count("channels", totalSettled === totalClaimed ? "paid out, all of it" : "paid out, but for the last claims");
      return sums;
    },
  };
}
