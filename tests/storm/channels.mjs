/**
 * Channels in the storm: official clients that deposit once and sign a growing total with each call, some of which leave in
 * the middle, send a paid voucher again, ask for their money back, or withdraw it on the chain; and their books, which have to balance to the
 * atomic unit: what was served is what was charged, and that is what is claimed in the end.
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
  "channel-refunding": { count: 1, refunds: true },
  "channel-withdrawing": { count: 1, withdraws: true },
};

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
    const { leaves, replays, refunds, withdraws } = KINDS[kind];
    const name = `${kind}-${index}-${serial}`;
    const random = randomOf(seed, name);
    const payer = makeChannelPayer({ account: random.pick(payers), salt: random.hex(32), chain: gateway.chain });
    const life = { kind, name, payer, delivered: new Set(), id: null, config: null };
    lives.push(life);
    const calls = random.between(4, 24);
    for (let call = 1; call <= calls; call++) {
      const tag = `${name}.${call}`;
      const signal = leaves && random.chance(0.4) ? AbortSignal.timeout(random.between(1, 150)) : undefined;
      const response = await ask(life, tag, { signal });
      const paid = payer.exchanges.at(-1)?.sent.get("payment-signature");
      if (replays && response?.status === 200 && paid) await ask(life, tag, { headers: { "payment-signature": paid } });
      if (response === null || response.status >= 400) await sleep(random.between(50, 400));
      await sleep(random.between(0, 100));
    }
    const entry = payer.exchanges.flatMap(({ terms }) => terms?.accepts ?? []).find(({ scheme }) => scheme === "batch-settlement");
    if (!entry) return;
    Object.assign(life, { config: payer.configFor(entry), id: lower(payer.idFor(entry)) });
    if (refunds) {
      books.count("requests", "channel-refund");
      await payer.refund(url(`${name}.refund`)).then(() => books.count("channels", "refunds asked for, done"), () => books.count("channels", "refunds asked for, not done"));
    }
    if (withdraws) await withdraw(life, random);
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
     * @property {bigint} returned refunded, or withdrawn
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
      const sums = { channels: known.length, deposited: 0n, charged: 0n, claimed: 0n, returned: 0n, remaining: 0n, byHand: left.length };
      const events = await chain.events({});
      for (const life of known) {
        const of = (name, field) =>
          events.filter(({ eventName, args }) => eventName === name && args.channelId === life.id).reduce((sum, { args }) => sum + args[field], 0n);
        const [{ balance, totalClaimed }, charged] = [await chain.read(life.id), chargedOf(life)];
        const [deposited, claimed] = [of("Deposited", "amount"), of("Claimed", "claimAmount")];
        const returned = of("Refunded", "amount") + of("WithdrawFinalized", "amount");
        const remaining = balance - totalClaimed;
        if (claimed !== charged) books.violate(`${life.name}: ${claimed} was claimed, and ${charged} was served`);
        if (deposited !== claimed + returned + remaining) books.violate(`${life.name}: ${deposited} was deposited, ${claimed} claimed, ${returned} given back, and ${remaining} is left`);
        for (const tag of life.delivered) if (!served.get(life.name)?.has(tag)) books.violate(`delivered out of a channel, and not charged: ${tag}`);
        sums.deposited += deposited;
        sums.charged += charged;
        sums.claimed += claimed;
        sums.returned += returned;
        sums.remaining += remaining;
      }
      const { totalClaimed, totalSettled } = await chain.receiver(payTo);
      if (totalClaimed !== sums.claimed) books.violate(`${totalClaimed} was claimed for the recipient, and ${sums.claimed} of channels that are known`);
      books.count("channels", totalSettled === totalClaimed ? "paid out, all of it" : "paid out, but for the last claims");
      return sums;
    },
  };
}
