//! The system under test, in tables that fill themselves, as in `super::super::tables`.

use super::*;

/// A store in which another writer comes first, once.
struct Raced<'a, F> {
    store: &'a mut MemoryStore,
    other: Option<F>,
}

impl<F: FnOnce(&mut MemoryStore)> Store for Raced<'_, F> {
    type Version = u64;

    fn read(&mut self, page: u32) -> Result<Option<(Vec<u8>, u64)>, StoreFailed> {
        self.store.read(page)
    }

    fn write(&mut self, page: u32, value: &[u8], expected: Option<u64>) -> Result<Written, StoreFailed> {
        if let Some(other) = self.other.take() {
            other(self.store);
        }
        self.store.write(page, value, expected)
    }
}

/// Two channels whose records share a page of the store.
fn payers(config: &Config, accepted: &Value) -> [ChannelPayer; CHANNELS] {
    let mut pages = HashMap::new();
    for number in 0_u32.. {
        let mut payer = ChannelPayer::new(1, 0, accepted);
        payer.config.salt[..4].copy_from_slice(&number.to_be_bytes());
        payer.id = payer.config.id(&domain_separator(84532));
        let mut store = MemoryStore::default();
        let reserve = reserve(&payer, [0; 65], Truth::default(), 0, Purpose::Refund);
        config.channels.records.perform(&mut store, &SECRET, payer.id, Owner(1), &reserve, at(0));
        let page = *store.0.keys().next().expect("a record");
        if let Some(other) = pages.remove(&page) {
            return [other, payer];
        }
        pages.insert(page, payer);
    }
    panic!("there are only so many pages")
}

fn reserve(payer: &ChannelPayer, signature: [u8; 65], truth: Truth, max: u32, purpose: Purpose) -> Operation {
    Operation::Reserve(Box::new(Reserve {
        config: payer.config,
        id: payer.id,
        chain_id: 84532,
        max_claimable: max.into(),
        signature,
        amount: PRICE.into(),
        purpose,
        until: at(1),
        request: [0; 32],
        chain: Some(told(truth, 0)),
    }))
}

impl Rules {
    pub(super) fn new(setup: Setup) -> Self {
        let mut config = base_config();
        config["defaults"]["max_timeout_seconds"] = 30.into();
        config["routes"] = json!([{
            "match": {"path": "/{*rest}"}, "price": "$0.001", "settlement_overrides": true,
        }]);
        if setup.has_node {
            config["rpc"] = json!({"base-sepolia": {"cluster": "node", "url": "http://node:8545", "timeout": "2s"}});
        }
        let mut stage = stage_of_channels(config);
        let unpaid = stage.start(&head("GET", "/weather", &[]));
        let accepted = decode(unpaid.reply_header("payment-required").expect("terms"))["accepts"][0].clone();
        let payers = payers(&stage.config, &accepted);
        let memory = Memory {
            heads: Numbered::new(),
            exchanges: Numbered::new(),
            steps: Numbered::new(),
            recoveries: Numbered::new(),
            stores: Numbered::new(),
            operations: Numbered::new(),
            answers: Numbered::new(),
            schedulers: Numbered::new(),
            jobs: Numbered::new(),
            tasks: Numbered::new(),
            signatures: HashMap::new(),
            starts: HashMap::new(),
            recovers: HashMap::new(),
            happenings: HashMap::new(),
            ledgers: HashMap::new(),
            channels: HashMap::new(),
            races: HashMap::new(),
            records: HashMap::new(),
            dues: HashMap::new(),
            works: HashMap::new(),
            ends: HashMap::new(),
        };
        let config = &payers[0].config;
        let group = Group {
            chain_id: 84532,
            receiver: config.receiver,
            token: config.token,
            authorizer: config.receiver_authorizer,
        };
        let (config, supported) = (stage.config, stage.supported);
        let mut rules = Self { setup, config, supported, payers, group, memory: Mutex::new(memory), begin: 0 };
        {
            let mut memory = rules.memory();
            assert_eq!(memory.note((Exchange::Over, Effects::default()), &rules.payers), (OVER, NOTHING));
            assert_eq!(memory.note_tasks(Vec::new()), NO_TASKS);
            memory.note_scheduler(Keeper::default());
        }
        rules.begin = rules.first_store();
        rules
    }

    pub(super) fn first_store(&self) -> u32 {
        let mut store = MemoryStore::default();
        for (channel, begun) in (0..).zip(self.setup.begun) {
            let payer = &self.payers[usize::from(channel)];
            let truth = Truth { balance: DEPOSIT, ..Truth::default() };
            let mut perform = |operation: &Operation| {
                self.config.channels.records.perform(&mut store, &SECRET, payer.id, Owner(1), operation, at(0))
            };
            if matches!(begun, Begun::Open | Begun::Charged) {
                let reserve = reserve(payer, self.signature(channel, PRICE), truth, PRICE, Purpose::Serve);
                assert_eq!(perform(&reserve), Answer::Reserved { base: 0 });
                let charge = if begun == Begun::Charged { PRICE } else { 0 };
                let charge = Operation::Charge { amount: charge.into(), chain: None };
                assert!(matches!(perform(&charge), Answer::Granted(_)));
            }
        }
        self.memory().note_store(store)
    }

    pub(super) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().expect("no thread fails while it looks something up")
    }

    pub(super) fn context(&self, now: u32) -> Context<'_> {
        Context {
            config: &self.config,
            now: at(now),
            supported: std::slice::from_ref(&self.supported),
            failing: 0,
            draw: 0,
            secret: SECRET,
        }
    }

    /// The signature of a voucher.
    pub(super) fn signature(&self, channel: u8, max: u32) -> [u8; 65] {
        let sign = || {
            let voucher = self.payers[usize::from(channel)].voucher(max.into());
            let text = voucher["payload"]["voucher"]["signature"].as_str().expect("a signature").to_owned();
            hex::decode(&text[2..]).expect("hex").try_into().expect("65 bytes")
        };
        *self.memory().signatures.entry((channel, max)).or_insert_with(sign)
    }

    pub(super) fn head(&self, sent: Sent) -> u32 {
        let payer = &self.payers[usize::from(sent.channel)];
        self.memory().heads.number(sent, || {
            let payment = match (sent.is_deposit, sent.is_refund) {
                (true, _) => payer.deposit(sent.max.into(), DEPOSIT.into(), 1),
                (_, true) => payer.refund(sent.max.into(), None),
                _ => payer.voucher(sent.max.into()),
            };
            (sent, Arc::new(paid(sent.path, &payment)))
        })
    }

    pub(super) fn sent(&self, head: u32) -> Sent {
        self.memory().heads.get(head).0
    }

    pub(super) fn start(&self, head: u32, now: u32) -> (u32, u32) {
        let mut memory = self.memory();
        if let Some(known) = memory.starts.get(&(head, now)) {
            return *known;
        }
        let next = Exchange::start(self.context(now), &memory.heads.get(head).1.clone(), Seen::Never);
        let next = memory.note(next, &self.payers);
        memory.starts.insert((head, now), next);
        next
    }

    pub(super) fn recovered(&self, recovery: u32, now: u32) -> (u32, u32) {
        let mut memory = self.memory();
        if let Some(known) = memory.recovers.get(&(recovery, now)) {
            return *known;
        }
        let next = Exchange::recover(self.context(now), memory.recoveries.get(recovery).clone());
        let next = memory.note(next, &self.payers);
        memory.recovers.insert((recovery, now), next);
        next
    }

    pub(super) fn stepped(&self, exchange: u32, now: u32, happening: Happening) -> (u32, u32) {
        let mut memory = self.memory();
        let key = (exchange, now, happening);
        if let Some(known) = memory.happenings.get(&key) {
            return *known;
        }
        let event = self.event(&memory, happening);
        let next = memory.exchanges.get(exchange).0.clone().step(self.context(now), event);
        let next = memory.note(next, &self.payers);
        memory.happenings.insert(key, next);
        next
    }

    pub(super) fn event(&self, memory: &Memory, happening: Happening) -> Event {
        let (channel, heard) = match happening {
            Happening::Ledger(answer) => return Event::Ledger(answer),
            Happening::Channel(answer) => return Event::Channel(memory.answers.get(answer).clone()),
            Happening::Upstream(status, cost) => {
                let Event::Upstream(head) = upstream(status) else { panic!("a response") };
                let overrides = (status < 400).then(|| json!({"amount": cost.to_string()}).to_string());
                return Event::Upstream(UpstreamHead { settlement_overrides: overrides, ..head });
            }
            Happening::Tick => return Event::Tick,
            Happening::Ended => return Event::Ended,
            Happening::Callout(channel, heard) => (channel, heard),
        };
        let payer = &self.payers[usize::from(channel)];
        let state = |truth: Truth| {
            let mut state = payer.state(truth.balance.into(), truth.claimed.into());
            state["withdrawRequestedAt"] = told(truth, 0).withdraw_requested_at.into();
            state["refundNonce"] = truth.nonce.to_string().into();
            state
        };
        match heard {
            Heard::Verified(truth) => {
                answers(&json!({"isValid": true, "payer": payer.config.payer.to_string(), "extra": state(truth)}))
            }
            Heard::Invalid => invalid("insufficient_funds"),
            Heard::Settled(deed, truth) => {
                let amount = match deed {
                    Deed::Deposit(_) => DEPOSIT,
                    Deed::Refund { amount, .. } => amount,
                    Deed::Claim(_) | Deed::Payout => 0,
                };
                answers(&json!({
                    "success": true, "transaction": TRANSACTION, "network": "eip155:84532",
                    "amount": amount.to_string(), "payer": payer.config.payer.to_string(),
                    "extra": {"channelState": state(truth)},
                }))
            }
            Heard::Refused => refused("invalid_batch_settlement_evm_insufficient_balance"),
            Heard::Used => refused("invalid_batch_settlement_evm_deposit_simulation_failed"),
            Heard::Lost => Event::Callout(CalloutAnswer::Lost),
            Heard::NotSent => Event::Callout(CalloutAnswer::NotSent),
        }
    }

    pub(super) fn step(&self, step: u32) -> Step {
        *self.memory().steps.get(step)
    }

    pub(super) fn perform_on_ledger(&self, store: u32, step: u32, owner: u8, now: u32) -> (u32, ledger::Answer) {
        let mut memory = self.memory();
        let key = (store, step, owner, now);
        if let Some(known) = memory.ledgers.get(&key) {
            return *known;
        }
        let (payment, operation) = memory.steps.get(step).ledger.expect("the ledger is asked");
        let mut changed = memory.stores.get(store).clone();
        let answer = self.config.ledger.perform(&mut changed, payment, Owner(owner.into()), operation, at(now));
        let result = (memory.note_store(changed), answer);
        memory.ledgers.insert(key, result);
        result
    }

    pub(super) fn perform(&self, store: u32, operation: u32, owner: u64, now: u32) -> (u32, u32) {
        let mut memory = self.memory();
        let key = (store, operation, owner, now);
        if let Some(known) = memory.channels.get(&key) {
            return *known;
        }
        let (channel, wanted) = memory.operations.get(operation).clone();
        let mut changed = memory.stores.get(store).clone();
        let id = self.payers[usize::from(channel)].id;
        let answer = self.config.channels.records.perform(&mut changed, &SECRET, id, Owner(owner), &wanted, at(now));
        let result = (memory.note_store(changed), memory.answers.number(answer.clone(), || answer));
        memory.channels.insert(key, result);
        result
    }

    /// Whether who loses a race to another worker's operation is as well off as if that had come first.
    pub(super) fn is_raced_well(
        &self,
        store: u32,
        (one, owner): (u32, u64),
        (other, rival): (u32, u64),
        now: u32,
    ) -> bool {
        let (between, _) = self.perform(store, other, rival, now);
        let expected = self.perform(between, one, owner, now);
        let mut memory = self.memory();
        let key = (store, one, owner, other, rival, now);
        if let Some(known) = memory.races.get(&key) {
            return *known;
        }
        let (channel, wanted) = memory.operations.get(one).clone();
        let (their_channel, theirs) = memory.operations.get(other).clone();
        let mut changed = memory.stores.get(store).clone();
        let (id, their_id) = (self.payers[usize::from(channel)].id, self.payers[usize::from(their_channel)].id);
        let records = &self.config.channels.records;
        let first = |store: &mut MemoryStore| {
            records.perform(store, &SECRET, their_id, Owner(rival), &theirs, at(now));
        };
        let mut raced = Raced { store: &mut changed, other: Some(first) };
        let answer = records.perform(&mut raced, &SECRET, id, Owner(owner), &wanted, at(now));
        // What changes nothing is not written, and so it comes first.
        let is_well = raced.other.is_some()
            || (memory.note_store(changed), memory.answers.number(answer.clone(), || answer)) == expected;
        memory.races.insert(key, is_well);
        is_well
    }

    pub(super) fn record(&self, store: u32, channel: u8) -> Option<Record> {
        let mut memory = self.memory();
        if let Some(known) = memory.records.get(&(store, channel)) {
            return *known;
        }
        let id = self.payers[usize::from(channel)].id;
        let pages = &memory.stores.get(store).0;
        let records = pages.values().flat_map(|(bytes, _)| bytes.as_chunks().0);
        let record = records.filter_map(Record::decode).find(|record| record.id == id);
        memory.records.insert((store, channel), record);
        record
    }

    pub(super) fn operation(&self, channel: u8, operation: Operation) -> u32 {
        self.memory().note_operation(channel, operation)
    }

    pub(super) fn channel_of(&self, id: channel::ChannelId) -> u8 {
        channel_of(&self.payers, id)
    }
}

pub(super) fn channel_of(payers: &[ChannelPayer; CHANNELS], id: channel::ChannelId) -> u8 {
    if payers[0].id == id { 0 } else { 1 }
}

impl Memory {
    pub(super) fn note(&mut self, (exchange, effects): Next, payers: &[ChannelPayer; CHANNELS]) -> (u32, u32) {
        let (is_over, wakes_at) = (exchange.is_over(), exchange.wakes_at().map(seconds));
        let exchange = self.exchanges.number(exchange.clone(), || (exchange, is_over, wakes_at));
        let Effects { ledger, channel, recovery, call, stream, .. } = effects;
        let channel = channel.map(|(id, operation)| self.note_operation(channel_of(payers, id), operation));
        let call = call.map(|call| match call.kind {
            CallKind::Verify => Asked::Verify,
            CallKind::Settle => Asked::Settle(deed_of(&call.body, payers)),
            CallKind::Chain | CallKind::Price => panic!("nobody else is asked"),
        });
        let stream = match stream {
            Stream::Hold => Flow::Hold,
            Stream::Forward(_) => Flow::Forward,
            Stream::Deliver(_) => Flow::Deliver,
            Stream::Reply(reply) => Flow::Reply(reply.status),
            Stream::Read { .. } | Stream::Pass | Stream::Finish(_) | Stream::Cut => panic!("nothing streams here"),
        };
        let recovery = recovery.map(|recovery| self.recoveries.number(recovery.clone(), || recovery));
        let step = Step { ledger, channel, call, recovery, stream };
        (exchange, self.steps.number(format!("{step:?}"), || step))
    }

    pub(super) fn note_operation(&mut self, channel: u8, operation: Operation) -> u32 {
        let value = (channel, operation);
        self.operations.number(value.clone(), || value)
    }

    pub(super) fn note_store(&mut self, mut store: MemoryStore) -> u32 {
        store.0.retain(|_, (page, _)| !page.is_empty());
        for (_, version) in store.0.values_mut() {
            *version = 0;
        }
        let pages = store.0.iter().map(|(number, (page, _))| (*number, page.clone())).collect();
        self.stores.number(pages, || store)
    }

    pub(super) fn note_scheduler(&mut self, keeper: Keeper) -> u32 {
        self.schedulers.number(format!("{keeper:?}"), || keeper)
    }

    pub(super) fn note_job(&mut self, job: (Group, Job)) -> u32 {
        self.jobs.number(format!("{job:?}"), || job)
    }

    pub(super) fn note_tasks(&mut self, tasks: Vec<Task>) -> u32 {
        self.tasks.number(format!("{tasks:?}"), || tasks)
    }
}

/// What a facilitator is to send to the chain.
pub(super) fn deed_of(body: &str, payers: &[ChannelPayer; CHANNELS]) -> Deed {
    let question: Value = serde_json::from_str(body).expect("JSON");
    let payload = &question["paymentPayload"]["payload"];
    let id = payload["voucher"]["channelId"].as_str().map(|id| id.parse().expect("an id"));
    let number = |value: &Value| value.as_str().expect("a number").parse().expect("a number");
    let channel_in =
        |config: &Value| u8::from(config["salt"] != json!(format!("0x{}", hex::encode(payers[0].config.salt))));
    match payload["type"].as_str() {
        Some("deposit") => Deed::Deposit(channel_of(payers, id.expect("a channel"))),
        Some("refund") => Deed::Refund {
            channel: channel_in(&payload["channelConfig"]),
            claimed: payload["claims"][0].get("totalClaimed").map_or(0, number),
            amount: number(&payload["amount"]),
            nonce: number(&payload["refundNonce"]),
        },
        other => panic!("{other:?} is asked for"),
    }
}
