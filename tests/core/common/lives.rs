//! Whole lives of a channel's record, played from bytes: owners who lie, answers that come late, a payer who does as it likes.

use std::collections::BTreeSet;

use x402_proxy_wasm::channel::message::{ChannelConfig, ChannelId};
use x402_proxy_wasm::channel::record::{
    Answer, Change, Hold, OnChain, Operation, Purpose, Record, Reserve, Row, apply,
};
use x402_proxy_wasm::evm::Address;
use x402_proxy_wasm::time::UnixTime;

/// A signature that shows which voucher it is of.
fn signature_of(max_claimable: u128) -> [u8; 65] {
    let mut signature = [1; 65];
    signature[..16].copy_from_slice(&max_claimable.to_be_bytes());
    signature
}

/// The configuration of the channel, and its name.
pub fn channel() -> (ChannelConfig, ChannelId) {
    let address = |byte| Address::from_bytes([byte; 20]);
    let config = ChannelConfig {
        payer: address(1),
        payer_authorizer: address(2),
        receiver: address(3),
        receiver_authorizer: address(4),
        token: address(5),
        withdraw_delay: 900,
        salt: [6; 32],
    };
    (config, ChannelId::from_bytes([7; 32]))
}

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }
}

struct Life {
    record: Option<Record>,
    now: u64,
    /// The chain as it is.
    truth: OnChain,
    /// The chain as it was.
    past: Vec<OnChain>,
    signed: BTreeSet<u128>,
    rows: Vec<(u64, Row)>,
    /// Repeats since the last charge.
    repeats: u32,
}

/// Plays a life, and checks each step. Returns how many requests were charged.
pub fn play(bytes: &[u8]) -> u32 {
    let truth = OnChain { balance: 1000, ..OnChain::default() };
    let mut life = Life {
        record: None,
        now: 1_000_000,
        truth,
        past: vec![truth],
        signed: BTreeSet::new(),
        rows: Vec::new(),
        repeats: 0,
    };
    let (mut bytes, mut charges) = (Bytes(bytes), 0);
    while let Some(charged) = life.step(&mut bytes) {
        charges += u32::from(charged);
    }
    charges
}

impl Life {
    /// `None` at the end of the bytes, else whether something was charged.
    fn step(&mut self, bytes: &mut Bytes<'_>) -> Option<bool> {
        let choice = bytes.next()?;
        let pause = bytes.next()?;
        // Mostly whoever has the channel goes on.
        let holder = self.record.and_then(|record| record.hold).map(|hold| hold.owner).filter(|_| pause % 4 != 0);
        let owner = holder.unwrap_or(u64::from(choice % 3));
        self.now += match pause {
            pause @ 0..200 => u64::from(pause % 16 / 4),
            pause => u64::from(pause),
        };
        let operation = match choice / 3 {
            0..26 => self.reserve(bytes)?,
            26..46 => Operation::Charge { amount: u128::from(bytes.next()? % 32), chain: self.chain(bytes)? },
            46..50 => Operation::Release { chain: self.chain(bytes)? },
            50..52 => Operation::Extend { until: self.soon(bytes)? },
            52..55 => Operation::Refresh { chain: self.chain(bytes)?.unwrap_or(self.told()) },
            55 => Operation::Renew,
            56..60 => Operation::BeginClaim { until: self.soon(bytes)? },
            60..66 => {
                let row = self.rows.iter().rev().find(|(claimer, _)| *claimer == owner);
                // It was carried out, or was not.
                if let (Some((_, row)), 0..200) = (row, bytes.next()?) {
                    self.truth.total_claimed = self.truth.total_claimed.max(row.charged.min(self.truth.balance));
                }
                Operation::EndClaim { claimed: row.map_or(0, |(_, row)| row.charged) }
            }
            66 => Operation::FailClaim,
            67..70 => {
                if let (Some(record), true) = (&self.record, bytes.next()?.is_multiple_of(2)) {
                    self.truth.total_claimed = self.truth.total_claimed.max(record.charged.min(self.truth.balance));
                    self.truth.balance = self.truth.total_claimed.max(self.truth.balance / 2);
                    self.truth.refund_nonce += 1;
                }
                Operation::Refunded { chain: self.chain(bytes)?.unwrap_or(self.told()) }
            }
            70..73 => Operation::Confirm { chain: self.block(bytes)? },
            _ => {
                self.happen(bytes)?;
                return Some(false);
            }
        };
        Some(self.perform(owner, &operation))
    }

    /// Something that happens on the chain, by the payer's will.
    fn happen(&mut self, bytes: &mut Bytes<'_>) -> Option<()> {
        match bytes.next()? {
            0..150 => self.truth.balance += 200,
            150..160 => self.truth.withdraw_requested_at = self.now,
            160..240 => self.truth.withdraw_requested_at = 0,
            _ => {
                self.truth.balance = self.truth.total_claimed;
                self.truth.withdraw_requested_at = 0;
            }
        }
        self.past.push(self.told());
        Some(())
    }

    fn told(&self) -> OnChain {
        OnChain { at: UnixTime::from_secs(self.now), ..self.truth }
    }

    fn chain(&self, bytes: &mut Bytes<'_>) -> Option<Option<OnChain>> {
        Some(match bytes.next()? {
            0..100 => Some(self.told()),
            old @ 100..140 => self.past.get(usize::from(old) % self.past.len()).copied(),
            140 => Some(OnChain { total_claimed: self.truth.total_claimed + 7, ..self.told() }),
            141 if bytes.next()? == 0 => Some(OnChain { balance: 3, total_claimed: u128::MAX / 2, ..self.told() }),
            _ => None,
        })
    }

    /// A block that a node shows, which lies about nothing and may lag behind.
    fn block(&self, bytes: &mut Bytes<'_>) -> Option<OnChain> {
        Some(match bytes.next()? {
            old @ 0..60 => self.past.get(usize::from(old) % self.past.len()).copied().unwrap_or(self.told()),
            _ => self.told(),
        })
    }

    fn soon(&self, bytes: &mut Bytes<'_>) -> Option<UnixTime> {
        Some(UnixTime::from_secs(self.now + u64::from(bytes.next()? % 16)))
    }

    fn reserve(&mut self, bytes: &mut Bytes<'_>) -> Option<Operation> {
        let (config, id) = channel();
        let amount = u128::from(bytes.next()? % 32);
        let (charged, last) =
            self.record.map_or((0, 0), |record| (record.standing().charged, record.last.max_claimable));
        let (purpose, max_claimable) = match bytes.next()? {
            0..140 => (Purpose::Serve, charged.saturating_add(amount)),
            140..170 => (Purpose::Serve, last),
            170..185 => (Purpose::Refund, charged),
            185..200 => (Purpose::Deposit { amount: 50 }, charged.saturating_add(amount)),
            200..210 => (Purpose::Serve, charged.saturating_add(amount + u128::from(bytes.next()?))),
            210..230 => (Purpose::Serve, u128::from(bytes.next()?)),
            230..235 => (Purpose::Serve, u128::MAX),
            235 if bytes.next()? < 8 => (Purpose::Deposit { amount: u128::MAX }, charged.saturating_add(u128::MAX / 3)),
            _ => (Purpose::Serve, charged.saturating_add(amount)),
        };
        self.signed.insert(max_claimable);
        let until = self.soon(bytes)?;
        let request = [bytes.next()? % 2; 32];
        let (chain_id, signature, chain) = (1, signature_of(max_claimable), self.chain(bytes)?);
        Some(Operation::Reserve(Box::new(Reserve {
            config,
            id,
            chain_id,
            max_claimable,
            signature,
            amount,
            purpose,
            until,
            request,
            chain,
        })))
    }

    /// Carries out an operation; whether something was charged.
    fn perform(&mut self, owner: u64, operation: &Operation) -> bool {
        let now = UnixTime::from_secs(self.now);
        let before = self.record;
        let (change, answer) = apply(before.as_ref(), owner, operation, now);
        match change {
            Change::Keep => {}
            Change::Put(record) => self.record = Record::decode(&record.encode()),
        }
        let ended = self.record;
        let what = || format!("{operation:?} by {owner} at {now:?}: {answer:?}\nfrom {before:?}\nto {ended:?}");
        let Some(after) = self.record else {
            assert_eq!(before, None, "{}", what());
            return false;
        };
        let live = before.and_then(|before| before.hold).filter(|hold| hold.until > now);
        let is_taken = matches!(answer, Answer::Reserved { .. } | Answer::Repeat { .. });
        assert!(!is_taken || live.is_none_or(|hold| hold.owner == owner), "two hold it: {}", what());
        assert!(before.is_none_or(|before| before.charged <= after.charged), "charged sinks: {}", what());
        if let (Operation::Confirm { chain }, Some(before)) = (operation, before) {
            let is_late = chain.at < before.chain.at || chain.at <= before.moved_at;
            let expected = if is_late { before.chain } else { *chain };
            assert_eq!(after.chain, expected, "a block counts unless something has moved since: {}", what());
            assert_eq!((after.hold, after.last), (before.hold, before.last), "{}", what());
        } else {
            let is_kept = |before: Record| before.chain.total_claimed <= after.chain.total_claimed;
            assert!(before.is_none_or(is_kept), "what is claimed is forgotten: {}", what());
        }
        assert!(after.charged <= after.max_claimable, "charged is above the voucher: {}", what());
        assert!(self.signed.contains(&after.max_claimable), "nobody signed that: {}", what());
        assert_eq!(after.signature, signature_of(after.max_claimable), "another's signature: {}", what());
        assert!(after.unclaimed() == 0 || after.unclaimed_since != UnixTime::default(), "never due: {}", what());
        let charged = before.map_or(0, |before| before.charged);
        match (operation, &answer) {
            (Operation::Reserve(wanted), Answer::Reserved { base }) => {
                assert_eq!(*base, after.charged, "{}", what());
                let deposit = if let Purpose::Deposit { amount } = wanted.purpose { amount } else { 0 };
                assert!(wanted.max_claimable <= after.chain.balance.saturating_add(deposit), "{}", what());
                let ceiling = if wanted.purpose == Purpose::Refund { 0 } else { wanted.amount };
                assert_eq!(base + ceiling, wanted.max_claimable, "{}", what());
                assert!(after.chain.withdraw_requested_at == 0 || wanted.purpose == Purpose::Refund, "{}", what());
            }
            (Operation::Reserve(_), Answer::Repeat { .. }) => {
                assert_eq!(self.repeats, 0, "repeated again: {}", what());
                assert_eq!(after.charged, charged, "{}", what());
            }
            (Operation::Charge { amount, .. }, Answer::Granted(_)) => {
                let hold = before.and_then(|before| before.hold).expect("a hold");
                return self.check_charge(owner, hold, *amount, charged, &after, &what);
            }
            (_, Answer::Row(row)) => {
                let is_whole = row.charged == after.charged || row.charged == after.chain.balance;
                assert!(is_whole && row.charged <= after.charged, "{}", what());
                assert!(row.charged <= row.max_claimable && row.charged > after.chain.total_claimed, "{}", what());
                self.rows.push((owner, *row));
            }
            _ => assert_eq!(after.charged, charged, "charged by something else: {}", what()),
        }
        false
    }

    fn check_charge(
        &mut self,
        owner: u64,
        hold: Hold,
        amount: u128,
        charged: u128,
        after: &Record,
        what: &dyn Fn() -> String,
    ) -> bool {
        assert_eq!(hold.owner, owner, "{}", what());
        let added = after.charged - charged;
        assert_eq!(added, if hold.is_repeat { 0 } else { amount }, "{}", what());
        // What was not answered once more may still be.
        self.repeats += u32::from(hold.is_repeat);
        assert!(added <= hold.amount, "more than was reserved: {}", what());
        let deposit = if let Purpose::Deposit { amount } = hold.purpose { amount } else { 0 };
        assert!(
            added == 0 || after.charged <= after.chain.balance.saturating_add(deposit),
            "above the balance: {}",
            what()
        );
        assert_eq!(after.hold, None, "{}", what());
        if added > 0 {
            self.repeats = 0;
        }
        added > 0
    }
}
