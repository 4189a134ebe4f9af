//! What may happen in the world of channels, and what it leads to.

use super::*;

impl Rules {
    pub(super) fn first(&self) -> World {
        let mut world = World {
            time: 0,
            lies: 0,
            refusals: 0,
            silences: 0,
            withdrawals: 0,
            crashes: 0,
            races: 0,
            readings: 0,
            pursuits: 0,
            violation: None,
            store: self.begin,
            truths: [Truth::default(); CHANNELS],
            books: [Book::default(); CHANNELS],
            actors: [NOT_YET; ACTORS],
            recovery: None,
            keeping: Keeping { worker: 0, scheduler: 0, jobs: [Working::Idle; JOBS], tasks: NO_TASKS, told: [None; 2] },
            adrift: None,
        };
        for (channel, begun) in self.setup.begun.iter().enumerate() {
            if *begun != Begun::Closed {
                world.truths[channel].balance = DEPOSIT;
            }
            if matches!(begun, Begun::Open | Begun::Charged) {
                world.books[channel].signed = PRICE;
            }
            if *begun == Begun::Charged {
                world.books[channel].charged = PRICE;
            }
        }
        world
    }

    pub(super) fn now(&self, world: &World) -> u32 {
        self.setup.instants[usize::from(world.time)]
    }

    pub(super) fn worker_of(&self, actor: &Actor) -> u8 {
        self.sent(actor.head).worker
    }

    /// Workers that are in the midst of something. A worker takes up nothing else before it is through.
    pub(super) fn busy(&self, world: &World) -> [bool; 2] {
        let mut busy = [false; 2];
        for actor in world.actors.iter().filter(|actor| actor.step != NOTHING) {
            busy[usize::from(self.worker_of(actor))] = true;
        }
        busy[usize::from(world.keeping.worker)] |= world.keeping.tasks != NO_TASKS;
        busy
    }

    pub(super) fn list_actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.violation.is_some() {
            return;
        }
        let busy = self.busy(world);
        for (index, actor) in world.actors.iter().enumerate() {
            match actor.phase {
                Phase::Gone => {}
                Phase::Absent => {
                    let requests = self.setup.requests;
                    let is_next =
                        index < requests.len() && (index == 0 || world.actors[index - 1].phase != Phase::Absent);
                    if is_next && !busy[usize::from(requests[index].1)] {
                        actions.push(Action::Arrive(index));
                    }
                }
                Phase::Live if actor.step != NOTHING => {
                    actions.push(Action::Turn(index));
                    let step = self.step(actor.step);
                    let is_of_channel = step.channel.is_some() && (step.ledger.is_none() || actor.is_half_done);
                    if is_of_channel && world.races < self.setup.races {
                        actions.push(Action::Lose(index));
                    }
                }
                Phase::Live => {
                    let is_busy = busy[usize::from(self.worker_of(actor))];
                    self.list_actions_of(world, index, actor, is_busy, actions);
                }
            }
        }
        self.list_actions_of_keeper(world, busy, actions);
        self.list_actions_of_others(world, busy, actions);
    }

    pub(super) fn list_actions_of(
        &self,
        world: &World,
        index: usize,
        actor: &Actor,
        is_busy: bool,
        actions: &mut Vec<Action>,
    ) {
        let can = match actor.asked {
            Asked::Settle(deed) => self.can_come_about(world, deed),
            asked => asked == Asked::Verify,
        };
        if can {
            actions.push(Action::Do(index));
        }
        if is_busy {
            return;
        }
        self.list_heard(world, actor, |heard| actions.push(Action::Hear(index, heard)));
        if actor.has_client {
            if actor.upstream == Upstream::Working {
                for cost in self.setup.costs {
                    actions.push(Action::Respond(index, Upstream::Succeeded(*cost)));
                }
                if self.setup.upstream_fails {
                    actions.push(Action::Respond(index, Upstream::Failed));
                }
            } else if self.setup.gives_up {
                actions.push(Action::GiveUp(index));
            }
            if self.setup.clients_leave {
                actions.push(Action::Leave(index));
            }
        }
        let wakes_at = self.memory().exchanges.get(actor.exchange).2;
        if wakes_at.is_some_and(|due| due <= self.now(world)) {
            actions.push(Action::Tick(index));
        }
    }

    /// What an actor may hear of its callout.
    pub(super) fn list_heard(&self, world: &World, actor: &Actor, mut push: impl FnMut(Heard)) {
        let truth = world.truths[usize::from(self.sent(actor.head).channel)];
        let is_false = world.lies < self.setup.lies;
        let (may_refuse, is_silent) = (world.refusals < self.setup.refusals, world.silences < self.setup.silences);
        match actor.asked {
            Asked::Nobody => return,
            Asked::Looked(truth) => push(Heard::Verified(truth)),
            Asked::Verify => {
                if is_false {
                    push(Heard::Verified(Truth { balance: truth.balance + DEPOSIT, withdrawn: 0, ..truth }));
                }
                if may_refuse {
                    push(Heard::Invalid);
                }
            }
            Asked::Settle(deed) => {
                if !self.can_come_about(world, deed) {
                    push(if matches!(deed, Deed::Deposit(_)) && truth.is_deposited {
                        Heard::Used
                    } else {
                        Heard::Refused
                    });
                } else if may_refuse {
                    push(Heard::Refused);
                }
                if is_false {
                    push(Heard::Settled(deed, pretended(truth, deed)));
                }
                if is_silent {
                    push(Heard::NotSent);
                }
            }
            Asked::Done(deed) => push(Heard::Settled(deed, truth)),
        }
        if is_silent {
            push(Heard::Lost);
        }
    }

    pub(super) fn list_actions_of_keeper(&self, world: &World, busy: [bool; 2], actions: &mut Vec<Action>) {
        let keeping = &world.keeping;
        if keeping.tasks != NO_TASKS {
            actions.push(Action::Keep);
            if world.races < self.setup.races {
                actions.push(Action::KeepInVain);
            }
        }
        let may_lie = world.lies < self.setup.lies;
        let (may_refuse, is_silent) = (world.refusals < self.setup.refusals, world.silences < self.setup.silences);
        let is_free = !busy[usize::from(keeping.worker)];
        for (index, job) in keeping.jobs.iter().enumerate() {
            match job {
                Working::Facilitator(number) => {
                    let deed = self.deed_of_job(*number);
                    let can = self.can_come_about(world, deed);
                    if can {
                        actions.push(Action::DoJob(index));
                    }
                    if is_free && (!can || may_refuse) {
                        actions.push(Action::HearJob(index, Said::Refused, false));
                    }
                    if is_free && may_lie && deed != Deed::Payout {
                        actions.push(Action::HearJob(index, Said::Done, true));
                    }
                    if is_free && is_silent {
                        actions.push(Action::HearJob(index, Said::Nothing, false));
                    }
                }
                Working::Done(_) if is_free => {
                    actions.push(Action::HearJob(index, Said::Done, false));
                    if is_silent {
                        actions.push(Action::HearJob(index, Said::Nothing, false));
                    }
                }
                Working::Node(_) if is_free => {
                    actions.push(Action::AskNode(index, true));
                    if is_silent {
                        actions.push(Action::AskNode(index, false));
                    }
                }
                _ => {}
            }
        }
        if !is_free || !self.setup.keeps {
            return;
        }
        if (0..CHANNELS as u8).any(|channel| self.due(world.store, channel, self.now(world)).is_some()) {
            actions.push(Action::Look);
        }
        if self.has_work(keeping.scheduler, self.now(world)) {
            actions.push(Action::Work);
        }
        for channel in 0..CHANNELS as u8 {
            let is_known = self.record(world.store, channel).is_some();
            match keeping.told[usize::from(channel)] {
                Some(_) => actions.push(Action::Confirm(channel)),
                None if self.setup.has_node && world.readings < self.setup.readings && is_known => {
                    actions.push(Action::Read(channel));
                }
                None => {}
            }
        }
    }

    pub(super) fn list_actions_of_others(&self, world: &World, busy: [bool; 2], actions: &mut Vec<Action>) {
        for (channel, truth) in (0..).zip(&world.truths) {
            if world.withdrawals < self.setup.withdrawals && truth.withdrawn == 0 && truth.balance > truth.claimed {
                actions.push(Action::Withdraw(channel));
            }
        }
        if let Some(deed) = world.adrift
            && self.can_come_about(world, deed)
        {
            actions.push(Action::Drift);
        }
        if let Some((worker, _, recovery)) = world.recovery {
            let due = seconds(self.memory().recoveries.get(recovery).due);
            if due <= self.now(world) && !busy[usize::from(worker)] {
                actions.push(Action::Recover);
            }
        }
        if world.crashes < self.setup.crashes {
            for worker in 0..2 {
                let has_actor =
                    world.actors.iter().any(|one| one.phase == Phase::Live && self.worker_of(one) == worker);
                if has_actor || world.keeping.worker == worker && world.keeping.scheduler != 0 {
                    actions.push(Action::Crash(worker));
                }
            }
        }
        if busy == [false; 2] && self.may_pass(world) {
            actions.push(Action::Pass);
        }
    }

    /// Whether the next instant may come: no callout outlives its timeout, and no exchange oversleeps.
    pub(super) fn may_pass(&self, world: &World) -> bool {
        let Some(next) = self.setup.instants.get(usize::from(world.time) + 1) else { return false };
        let is_short = next - self.now(world) <= LESS_THAN_A_TIMEOUT;
        let is_asking = world.actors.iter().any(|actor| {
            let sleeps = actor.phase == Phase::Live && self.memory().exchanges.get(actor.exchange).2.is_some();
            actor.asked != Asked::Nobody || sleeps
        });
        let is_working = world.keeping.jobs != [Working::Idle; JOBS] || world.keeping.told != [None; 2];
        let is_working = is_working || self.has_work(world.keeping.scheduler, self.now(world));
        is_short || !(is_asking || is_working)
    }

    // ------------------------------------------------------------------------------------------------------ the chain

    pub(super) fn deed_of_job(&self, number: u32) -> Deed {
        match &self.memory().jobs.get(number).1 {
            Job::Claim { .. } => Deed::Claim(number),
            Job::Payout { .. } => Deed::Payout,
            Job::Refund(refundable) => {
                let Refundable { row, chain } = &**refundable;
                Deed::Refund {
                    channel: self.channel_of(row.id),
                    claimed: amount(row.charged),
                    amount: amount(chain.balance.saturating_sub(row.charged)),
                    nonce: amount(chain.refund_nonce),
                }
            }
        }
    }

    pub(super) fn rows(&self, job: u32) -> Vec<channel::Row> {
        match &self.memory().jobs.get(job).1 {
            Job::Claim { rows, .. } => rows.iter().map(|one| one.row).collect(),
            Job::Refund(refundable) => vec![refundable.row],
            Job::Payout { .. } => Vec::new(),
        }
    }

    pub(super) fn can_come_about(&self, world: &World, deed: Deed) -> bool {
        let mut copy = world.truths;
        self.come_about(&mut copy, deed)
    }

    /// What becomes of the chain by a transaction; whether it does not fail.
    pub(super) fn come_about(&self, truths: &mut [Truth; CHANNELS], deed: Deed) -> bool {
        match deed {
            Deed::Payout => true,
            Deed::Deposit(channel) => {
                let truth = &mut truths[usize::from(channel)];
                truth.balance += if truth.is_deposited { 0 } else { DEPOSIT };
                !std::mem::replace(&mut truth.is_deposited, true)
            }
            Deed::Refund { channel, claimed, amount, nonce } => {
                let truth = &mut truths[usize::from(channel)];
                truth.claimed = truth.claimed.max(claimed);
                let left = truth.balance.saturating_sub(truth.claimed);
                let can = truth.claimed <= truth.balance && left > 0 && nonce == truth.nonce;
                truth.balance -= amount.min(left);
                truth.nonce += 1;
                can
            }
            Deed::Claim(job) => self.rows(job).iter().all(|row| {
                let truth = &mut truths[usize::from(self.channel_of(row.id))];
                truth.claimed = truth.claimed.max(amount(row.charged));
                truth.claimed <= truth.balance
            }),
        }
    }

    pub(super) fn send(&self, world: &mut World, deed: Deed) {
        let can = self.come_about(&mut world.truths, deed);
        assert!(can, "only what can come about does");
        if let Deed::Claim(job) = deed {
            for row in self.rows(job) {
                let signed = self.signature(self.channel_of(row.id), amount(row.max_claimable));
                let is_signed = row.signature == signed && row.charged <= row.max_claimable;
                require(world, is_signed, Violation::ForgedRow);
            }
        }
        for channel in 0..CHANNELS {
            let (truth, book) = (world.truths[channel], world.books[channel]);
            require(world, truth.claimed <= book.charged, Violation::ClaimedTooMuch);
        }
    }

    /// Something was asked for, and nobody will hear of it.
    pub(super) fn set_adrift(&self, world: &mut World, deed: Deed) {
        if self.setup.drifts && deed != Deed::Payout {
            world.adrift = world.adrift.or(Some(deed));
        }
    }

    // -------------------------------------------------------------------------------------------------- what happens

    pub(super) fn next(&self, world: &World, action: Action) -> World {
        let mut next = *world;
        let world = &mut next;
        let now = self.now(world);
        match action {
            Action::Arrive(index) => self.arrive(world, index),
            Action::Turn(index) => self.turn(world, index, false),
            Action::Lose(index) => self.turn(world, index, true),
            Action::Do(index) => {
                let actor = world.actors[index];
                world.actors[index].asked = match actor.asked {
                    Asked::Settle(deed) => {
                        self.send(world, deed);
                        Asked::Done(deed)
                    }
                    _ => Asked::Looked(world.truths[usize::from(self.sent(actor.head).channel)]),
                };
            }
            Action::Hear(index, heard) => self.hear(world, index, heard),
            Action::Respond(index, upstream) => {
                world.actors[index].upstream = upstream;
                let (status, cost) = if let Upstream::Succeeded(cost) = upstream { (200, cost) } else { (500, 0) };
                self.happen(world, index, Happening::Upstream(status, cost));
            }
            Action::GiveUp(index) => {
                world.actors[index].upstream = Upstream::Failed;
                self.happen(world, index, Happening::Upstream(504, 0));
                // It has been told.
                world.actors[index].has_client &= world.actors[index].phase == Phase::Live;
            }
            Action::Leave(index) => {
                world.actors[index].has_client = false;
                if world.actors[index].upstream == Upstream::Working {
                    world.actors[index].upstream = Upstream::Untouched;
                }
                self.happen(world, index, Happening::Ended);
            }
            Action::Tick(index) => self.happen(world, index, Happening::Tick),
            Action::Recover => {
                let (_, head, recovery) = world.recovery.take().expect("there is one");
                world.pursuits += 1;
                let index = self.setup.requests.len() + usize::from(world.pursuits) - 1;
                let (exchange, step) = self.recovered(recovery, now);
                world.actors[index] = Actor { phase: Phase::Live, head, exchange, step, ..NOT_YET };
                self.follow(world, index);
            }
            Action::Crash(worker) => self.crash(world, worker),
            Action::Withdraw(channel) => {
                world.withdrawals += 1;
                world.truths[usize::from(channel)].withdrawn = now + 1;
            }
            Action::Drift => {
                let deed = world.adrift.take().expect("there is one");
                self.send(world, deed);
            }
            Action::Look => self.look(world),
            Action::Keep => self.keep(world, false),
            Action::KeepInVain => self.keep(world, true),
            Action::Work => self.work(world),
            Action::DoJob(index) => {
                if let Working::Facilitator(job) = world.keeping.jobs[index] {
                    self.send(world, self.deed_of_job(job));
                    world.keeping.jobs[index] = Working::Done(job);
                }
            }
            Action::HearJob(index, said, is_lie) => self.hear_job(world, index, said, is_lie),
            Action::AskNode(index, answers) => self.ask_node(world, index, answers),
            Action::Read(channel) => {
                world.readings += 1;
                world.keeping.told[usize::from(channel)] = Some((world.truths[usize::from(channel)], now));
            }
            Action::Confirm(channel) => {
                if let Some((truth, read)) = world.keeping.told[usize::from(channel)].take() {
                    let operation = Operation::Confirm { chain: as_of_block(truth, read) };
                    self.plan(world, vec![(channel, operation)]);
                }
            }
            Action::Pass => {
                let before = now;
                world.time += 1;
                if self.now(world) - before > LESS_THAN_A_TIMEOUT {
                    world.adrift = None;
                }
            }
        }
        next
    }

    pub(super) fn arrive(&self, world: &mut World, index: usize) {
        let (channel, worker, path, sends) = self.setup.requests[index];
        let (book, is_known) = (world.books[usize::from(channel)], self.record(world.store, channel).is_some());
        // Who has not been told goes by the chain.
        let charged = if is_known { book.charged } else { world.truths[usize::from(channel)].claimed };
        let sent = match sends {
            Sends::Again(other) => {
                let sent = self.sent(world.actors[other].head);
                Sent { channel, worker, path, ..sent }
            }
            Sends::Voucher | Sends::Deposit | Sends::Refund => {
                let is_refund = sends == Sends::Refund;
                let max = if is_refund { charged } else { charged + PRICE };
                Sent { channel, worker, path, max, is_refund, is_deposit: sends == Sends::Deposit }
            }
        };
        let signed = &mut world.books[usize::from(channel)].signed;
        *signed = sent.max.max(*signed);
        let head = self.head(sent);
        let (exchange, step) = self.start(head, self.now(world));
        world.actors[index] = Actor { phase: Phase::Live, head, has_client: true, exchange, step, ..NOT_YET };
        self.follow(world, index);
    }

    pub(super) fn hear(&self, world: &mut World, index: usize, heard: Heard) {
        let actor = world.actors[index];
        let channel = self.sent(actor.head).channel;
        let mut is_lie = false;
        match (heard, actor.asked) {
            (Heard::Verified(said), asked) => {
                is_lie = asked == Asked::Verify;
                world.actors[index].knows_withdrawal = said.withdrawn != 0;
            }
            (Heard::Settled(..), Asked::Settle(_)) => is_lie = true,
            (Heard::Lost, Asked::Settle(deed)) => {
                world.silences += 1;
                world.actors[index].may_hold |= matches!(deed, Deed::Refund { .. });
                self.set_adrift(world, deed);
            }
            (Heard::Lost, asked) => {
                world.silences += 1;
                world.actors[index].may_hold |= matches!(asked, Asked::Done(Deed::Refund { .. }));
            }
            (Heard::NotSent, _) => world.silences += 1,
            (Heard::Refused, Asked::Settle(deed)) if self.can_come_about(world, deed) => world.refusals += 1,
            (Heard::Invalid, _) => world.refusals += 1,
            _ => {}
        }
        if is_lie {
            world.lies += 1;
            book_lie(&mut world.books[usize::from(channel)]);
        }
        world.actors[index].asked = Asked::Nobody;
        self.happen(world, index, Happening::Callout(channel, heard));
    }

    pub(super) fn happen(&self, world: &mut World, index: usize, happening: Happening) {
        let now = self.now(world);
        let actor = &mut world.actors[index];
        (actor.exchange, actor.step) = self.stepped(actor.exchange, now, happening);
        actor.is_half_done = false;
        self.follow(world, index);
    }

    /// Does what the last step asks for and what touches nothing that others see.
    pub(super) fn follow(&self, world: &mut World, index: usize) {
        let actor = world.actors[index];
        if actor.step != NOTHING {
            let step = self.step(actor.step);
            if step.ledger.is_some() || step.channel.is_some() {
                return;
            }
            world.actors[index].step = NOTHING;
            self.carry_out(world, index, &step);
        }
        self.end(world, index);
    }

    /// Ends who is over.
    pub(super) fn end(&self, world: &mut World, index: usize) {
        let actor = world.actors[index];
        if actor.step != NOTHING || !self.memory().exchanges.get(actor.exchange).1 {
            return;
        }
        let sent = self.sent(actor.head);
        let hold = self.record(world.store, sent.channel).and_then(|record| record.hold);
        let holds = hold.is_some_and(|hold| hold.owner == owner_of(index));
        require(world, !holds || actor.may_hold, Violation::Held);
        let is_needed = actor.charged > 0 || actor.is_served || self.is_sent_again(world, index);
        let head = if is_needed { actor.head } else { 0 };
        world.actors[index] =
            Actor { phase: Phase::Gone, head, charged: actor.charged, is_served: actor.is_served, ..NOT_YET };
    }

    /// Whether a request is still to come with the same payment.
    pub(super) fn is_sent_again(&self, world: &World, index: usize) -> bool {
        let mut rest = self.setup.requests.iter().zip(&world.actors);
        rest.any(|(request, actor)| request.3 == Sends::Again(index) && actor.phase == Phase::Absent)
    }

    /// Carries out the next operation of an actor, and goes on once it has its answer.
    pub(super) fn turn(&self, world: &mut World, index: usize, is_lost: bool) {
        let now = self.now(world);
        let actor = world.actors[index];
        let step = self.step(actor.step);
        let answer = match (step.ledger, step.channel) {
            (Some(_), channel) if !actor.is_half_done => {
                let (store, answer) = self.perform_on_ledger(world.store, actor.step, index as u8 + 1, now);
                world.store = store;
                if channel.is_some() {
                    world.actors[index].is_half_done = true;
                    return;
                }
                Happening::Ledger(answer)
            }
            (of_ledger, Some(operation)) => {
                let answer = match is_lost {
                    true => {
                        world.races += 1;
                        world.actors[index].may_hold = true;
                        self.memory().answers.number(Answer::Failed, || Answer::Failed)
                    }
                    false => self.operate(world, Some(index), operation),
                };
                if of_ledger.is_some() && !self.memory().exchanges.get(actor.exchange).1 {
                    panic!("who asks both has no use for the answer");
                }
                Happening::Channel(answer)
            }
            _ => panic!("something is asked of the ledger"),
        };
        world.actors[index].step = NOTHING;
        self.carry_out(world, index, &step);
        let exchange = world.actors[index].exchange;
        if self.memory().exchanges.get(exchange).1 {
            return self.end(world, index);
        }
        self.happen(world, index, answer);
    }

    /// Carries out an operation on a channel, and looks at what it does.
    pub(super) fn operate(&self, world: &mut World, index: Option<usize>, number: u32) -> u32 {
        let now = self.now(world);
        let owner = index.map_or_else(|| keeper_of(world.keeping.worker), owner_of);
        for rival in self.rivals(world, index) {
            let is_well = self.is_raced_well(world.store, (number, owner), rival, now);
            require(world, is_well, Violation::RaceSeen);
        }
        let (channel, operation) = self.memory().operations.get(number).clone();
        let before = self.record(world.store, channel);
        let (store, answer) = self.perform(world.store, number, owner, now);
        world.store = store;
        let after = self.record(store, channel);
        let said = self.memory().answers.get(answer).clone();
        self.check(world, index, (channel, &operation), &said, (before, after));
        answer
    }

    /// What the other worker is about to do to a channel.
    pub(super) fn rivals(&self, world: &World, index: Option<usize>) -> Vec<(u32, u64)> {
        let worker = index.map_or(world.keeping.worker, |index| self.worker_of(&world.actors[index]));
        let mut rivals = Vec::new();
        for (other, actor) in world.actors.iter().enumerate() {
            if actor.step != NOTHING && self.worker_of(actor) != worker {
                rivals.extend(self.step(actor.step).channel.map(|operation| (operation, owner_of(other))));
            }
        }
        if world.keeping.worker != worker {
            let memory = self.memory();
            let task = memory.tasks.get(world.keeping.tasks).first();
            rivals.extend(task.map(|task| (task.operation, keeper_of(world.keeping.worker))));
        }
        rivals
    }

    /// What an operation may do to a record, and what not.
    pub(super) fn check(
        &self,
        world: &mut World,
        index: Option<usize>,
        (channel, operation): (u8, &Operation),
        answer: &Answer,
        (before, after): (Option<Record>, Option<Record>),
    ) {
        let now = at(self.now(world));
        let place = usize::from(channel);
        let mut book = world.books[place];
        let truth = world.truths[place];
        let news = chain_in(operation);
        let sells = matches!(answer, Answer::Reserved { .. } | Answer::Repeat { .. });
        let is_refund = matches!(operation, Operation::Reserve(wanted) if wanted.purpose == Purpose::Refund);
        // What is not known is not remembered for being refused.
        book.is_withdrawal_seen |= before.is_some_and(|record| record.chain.withdraw_requested_at != 0)
            || before.is_some() && news.is_some_and(|chain| chain.withdraw_requested_at != 0);
        let is_known_to_leave = book.is_withdrawal_seen && truth.withdrawn != 0 && !book.is_lied_about;
        require(world, !(sells && is_known_to_leave) || is_refund, Violation::SoldToWhoLeaves);
        if sells {
            let hold = before.and_then(|record| record.hold).filter(|hold| hold.until > now);
            let owner = index.map_or(0, owner_of);
            require(world, hold.is_none_or(|hold| hold.owner == owner), Violation::HeldByTwo);
        }
        let Some(after) = after else {
            let is_claimed = before.is_none_or(|record| amount(record.charged) <= truth.claimed);
            require(world, is_claimed || book.is_lied_about, Violation::Forgotten);
            world.books[place] = book;
            return;
        };
        let charged = before.map_or(book.charged.min(amount(after.charged)), |record| amount(record.charged));
        let charge = amount(after.charged).saturating_sub(charged);
        require(world, amount(after.charged) >= charged, Violation::Sank);
        require(world, amount(after.charged.max(after.max_claimable)) <= book.signed, Violation::OverSigned);
        require(world, after.charged <= after.max_claimable, Violation::OverSigned);
        let is_short = after.hold.is_none_or(|hold| hold.until <= now.plus(LONGEST_HOLD));
        require(world, is_short, Violation::HeldTooLong);
        if let Operation::Charge { .. } = operation {
            let deposit = match before.and_then(|record| record.hold).map(|hold| hold.purpose) {
                Some(Purpose::Deposit { amount }) => amount,
                _ => 0,
            };
            let is_held = after.charged <= after.chain.balance.saturating_add(deposit);
            require(world, charge == 0 || is_held, Violation::OverBalance);
        } else {
            require(world, charge == 0, Violation::ChargedForNothing);
        }
        if let Some(index) = index {
            let actor = &mut world.actors[index];
            actor.charged += charge;
            actor.is_repeat |= matches!(answer, Answer::Repeat { .. });
            let (charged, upstream) = (actor.charged, actor.upstream);
            let is_there = matches!(upstream, Upstream::Succeeded(cost) if charged <= cost);
            require(world, charged == 0 || is_there, Violation::ChargedForNothing);
        }
        book.charged = book.charged.max(amount(after.charged));
        world.books[place] = book;
    }

    /// Does what a step asks for, but for the ledger.
    pub(super) fn carry_out(&self, world: &mut World, index: usize, step: &Step) {
        let sent = self.sent(world.actors[index].head);
        if let Some(asked) = step.call {
            world.actors[index].asked = asked;
        }
        if let Some(recovery) = step.recovery
            && world.pursuits < self.setup.pursuits
        {
            world.recovery = Some((sent.worker, world.actors[index].head, recovery));
        }
        let actor = world.actors[index];
        if !actor.has_client {
            return;
        }
        match step.stream {
            Flow::Hold => {}
            Flow::Forward => {
                let hold = self.record(world.store, sent.channel).and_then(|record| record.hold);
                let is_held = hold.is_some_and(|hold| hold.owner == owner_of(index));
                let is_known_to_leave = actor.knows_withdrawal && world.truths[usize::from(sent.channel)].withdrawn > 0;
                require(world, is_held, Violation::ServedUnheld);
                require(world, !is_known_to_leave, Violation::SoldToWhoLeaves);
                require(world, actor.upstream == Upstream::Untouched, Violation::RepliedTwice);
                world.actors[index].upstream = Upstream::Working;
            }
            Flow::Deliver => {
                if let Upstream::Succeeded(cost) = actor.upstream {
                    require(world, actor.is_repeat || actor.charged == cost, Violation::ServedUncharged);
                    world.actors[index].is_served = cost > 0;
                    self.check_served(world, index, sent);
                }
                world.actors[index].has_client = false;
            }
            Flow::Reply(_) => world.actors[index].has_client = false,
        }
    }

    /// A voucher buys one response, and the same once more where it was lost.
    pub(super) fn check_served(&self, world: &mut World, index: usize, sent: Sent) {
        let mut count = 0;
        let mut is_one = true;
        let mut charged = 0;
        for (other, actor) in world.actors.iter().enumerate() {
            let other_sent = self.sent(actor.head);
            if (actor.phase != Phase::Absent && (other_sent.channel, other_sent.max) == (sent.channel, sent.max))
                || other == index
            {
                charged += actor.charged;
                if actor.is_served {
                    count += 1;
                    is_one &= other_sent.path == sent.path;
                }
            }
        }
        require(world, count <= 2 && is_one && charged <= PRICE, Violation::ServedTwice);
    }

    pub(super) fn crash(&self, world: &mut World, worker: u8) {
        world.crashes += 1;
        for index in 0..ACTORS {
            let actor = world.actors[index];
            if actor.phase == Phase::Live && self.worker_of(&actor) == worker {
                if let Asked::Settle(deed) = actor.asked {
                    self.set_adrift(world, deed);
                }
                let head = actor.head;
                world.actors[index] =
                    Actor { phase: Phase::Gone, head, charged: actor.charged, is_served: actor.is_served, ..NOT_YET };
            }
        }
        if world.recovery.is_some_and(|(of, ..)| of == worker) {
            world.recovery = None;
        }
        if world.keeping.worker == worker {
            for job in world.keeping.jobs {
                if let Working::Facilitator(job) = job {
                    self.set_adrift(world, self.deed_of_job(job));
                }
            }
            world.keeping =
                Keeping { worker: 1 - worker, scheduler: 0, jobs: [Working::Idle; JOBS], tasks: 0, told: [None; 2] };
        }
    }

    // ----------------------------------------------------------------------------------------------------- the keeper

    pub(super) fn policy(&self) -> Policy {
        Policy { claim_above: PRICE.into(), claim_every: 300, refund_idle: self.setup.refund_idle }
    }

    pub(super) fn has_work(&self, scheduler: u32, now: u32) -> bool {
        let mut memory = self.memory();
        if let Some(known) = memory.works.get(&(scheduler, now)) {
            return *known;
        }
        let has_work = !memory.schedulers.get(scheduler).clone().take_due(at(now)).is_empty();
        memory.works.insert((scheduler, now), has_work);
        has_work
    }

    /// What the keeper would do about a channel.
    pub(super) fn due(&self, store: u32, channel: u8, now: u32) -> Option<Task> {
        if let Some(known) = self.memory().dues.get(&(store, channel, now)) {
            return *known;
        }
        let due = self.find_due(store, channel, now);
        self.memory().dues.insert((store, channel, now), due);
        due
    }

    pub(super) fn find_due(&self, store: u32, channel: u8, now: u32) -> Option<Task> {
        let record = self.record(store, channel)?;
        let until = at(now).plus(CLAIM_SECONDS);
        let (operation, then) = match channel::due(&record, &self.policy(), at(now)) {
            Due::Nothing => return None,
            Due::Claim { .. } => (Operation::BeginClaim { until }, Then::Claim(record.unclaimed_since)),
            // The shell asks the scheduler for room, of which it has enough for all channels of a world.
            Due::Refund => (Operation::BeginRefund { until }, Then::Refund(record.chain)),
        };
        Some(Task { operation: self.operation(channel, operation), then })
    }

    pub(super) fn look(&self, world: &mut World) {
        let now = self.now(world);
        let tasks = (0..CHANNELS as u8).filter_map(|channel| self.due(world.store, channel, now)).collect();
        world.keeping.tasks = self.memory().note_tasks(tasks);
    }

    pub(super) fn plan(&self, world: &mut World, operations: Vec<(u8, Operation)>) {
        let mut tasks = self.memory().tasks.get(world.keeping.tasks).clone();
        tasks.extend(
            operations.into_iter().map(|(channel, operation)| Task {
                operation: self.operation(channel, operation),
                then: Then::Nothing,
            }),
        );
        world.keeping.tasks = self.memory().note_tasks(tasks);
    }

    pub(super) fn keep(&self, world: &mut World, is_lost: bool) {
        let mut tasks = self.memory().tasks.get(world.keeping.tasks).clone();
        let Task { operation, then } = tasks.remove(0);
        world.keeping.tasks = self.memory().note_tasks(tasks);
        if is_lost {
            world.races += 1;
            return;
        }
        let answer = self.operate(world, None, operation);
        let Answer::Row(row) = self.memory().answers.get(answer).clone() else { return };
        let now = at(self.now(world));
        self.with_keeper(world, |keeper| match then {
            Then::Nothing => {}
            Then::Claim(since) => keeper.claim(Claimable { row, since }, now),
            Then::Refund(chain) => keeper.refund(Refundable { row, chain }),
        });
    }

    pub(super) fn with_keeper<T>(&self, world: &mut World, change: impl FnOnce(&mut Keeper) -> T) -> T {
        let mut memory = self.memory();
        let mut keeper = memory.schedulers.get(world.keeping.scheduler).clone();
        let result = change(&mut keeper);
        world.keeping.scheduler = memory.note_scheduler(keeper);
        result
    }

    /// Asks for what is due; of what is in doubt the node first, where there is one.
    pub(super) fn work(&self, world: &mut World) {
        let now = at(self.now(world));
        let due = self.with_keeper(world, |keeper| keeper.take_due(now));
        for (group, job) in due {
            assert_eq!(group, self.group);
            let is_in_doubt = match &job {
                Job::Claim { attempts, .. } => *attempts > 0,
                Job::Refund(_) => true,
                Job::Payout { .. } => false,
            };
            let number = self.memory().note_job((group, job));
            let place = world.keeping.jobs.iter_mut().find(|job| **job == Working::Idle).expect("a place for a job");
            *place = match is_in_doubt && self.setup.has_node {
                true => Working::Node(number),
                false => Working::Facilitator(number),
            };
        }
    }

    pub(super) fn hear_job(&self, world: &mut World, index: usize, said: Said, is_lie: bool) {
        let now = at(self.now(world));
        let working = std::mem::replace(&mut world.keeping.jobs[index], Working::Idle);
        let (Working::Facilitator(number) | Working::Done(number)) = working else { panic!("it was asked") };
        let deed = self.deed_of_job(number);
        match said {
            Said::Nothing => {
                world.silences += 1;
                if working == Working::Facilitator(number) {
                    self.set_adrift(world, deed);
                }
            }
            Said::Refused if self.can_come_about(world, deed) => world.refusals += 1,
            Said::Done if is_lie => {
                world.lies += 1;
                // A node finds out who has not claimed.
                if !self.setup.has_node || matches!(deed, Deed::Refund { .. }) {
                    for row in self.rows(number) {
                        book_lie(&mut world.books[usize::from(self.channel_of(row.id))]);
                    }
                }
            }
            _ => {}
        }
        let (group, job) = self.memory().jobs.get(number).clone();
        let consequences = self.with_keeper(world, |keeper| keeper.on_answer(group, job, said, now));
        self.conclude(world, consequences.operations);
    }

    pub(super) fn conclude(&self, world: &mut World, operations: Vec<(channel::ChannelId, Operation)>) {
        let operations = operations.into_iter().map(|(id, operation)| (self.channel_of(id), operation)).collect();
        self.plan(world, operations);
    }

    /// The node says how the channels of a job stand, or does not answer.
    pub(super) fn ask_node(&self, world: &mut World, index: usize, answers: bool) {
        let now = self.now(world);
        let Working::Node(number) = world.keeping.jobs[index] else { panic!("it was asked") };
        world.keeping.jobs[index] = Working::Idle;
        let (group, job) = self.memory().jobs.get(number).clone();
        let states = self.payers.iter().zip(world.truths);
        let states: Vec<_> = states.map(|(payer, truth)| (payer.id, as_of_block(truth, now))).collect();
        let left = match job {
            job if !answers => {
                world.silences += 1;
                Some(job)
            }
            Job::Claim { rows, attempts } => {
                let told = |keeper: &mut Keeper| keeper.on_chain(group, rows, attempts, &states, at(now));
                let (consequences, left) = self.with_keeper(world, told);
                self.conclude(world, consequences.operations);
                left
            }
            Job::Refund(refundable) => {
                let id = refundable.row.id;
                let news = states.iter().find(|(of, _)| *of == id).expect("a state").1;
                match refundable.renewed(news) {
                    Ok(renewed) => Some(Job::Refund(Box::new(renewed))),
                    Err(consequences) => {
                        self.with_keeper(world, Keeper::on_no_refund);
                        self.conclude(world, consequences.operations);
                        None
                    }
                }
            }
            job @ Job::Payout { .. } => Some(job),
        };
        if let Some(job) = left {
            world.keeping.jobs[index] = Working::Facilitator(self.memory().note_job((group, job)));
        }
    }

    // ---------------------------------------------------------------------------------------------------- what remains

    /// What is wrong, once all is quiet, with how it ends where the facilitator does as it should from then on and the payers
    /// take what they may.
    pub(super) fn what_is_wrong_in_the_end(&self, world: &World) -> Option<&'static str> {
        let keeping = &world.keeping;
        let is_quiet = world.actors.iter().all(|actor| actor.phase != Phase::Live)
            && keeping.jobs == [Working::Idle; JOBS]
            && keeping.tasks == NO_TASKS
            && keeping.told == [None; 2];
        if !is_quiet || world.violation.is_some() {
            return None;
        }
        let key = (world.store, world.truths, world.books, keeping.scheduler, keeping.worker, self.now(world));
        if let Some(known) = self.memory().ends.get(&key) {
            return *known;
        }
        let wrong = self.run_out(world);
        self.memory().ends.insert(key, wrong);
        wrong
    }

    pub(super) fn run_out(&self, world: &World) -> Option<&'static str> {
        let (mut truths, mut store) = (world.truths, world.store);
        let mut keeper = self.memory().schedulers.get(world.keeping.scheduler).clone();
        let owner = keeper_of(world.keeping.worker);
        let begin = self.now(world);
        // Later and later: no pause and no hold is longer than the last of these.
        for later in [0, 1, 3, 6, 12, 24, 48, 96, 200, 400, 650, 950, 1300, 2500, 5000] {
            let now = begin + later;
            // The payers take what they may as soon as they may. What is charged is claimed before.
            for truth in &mut truths {
                if truth.withdrawn > 0 && now >= truth.withdrawn - 1 + WITHDRAW_DELAY {
                    *truth = Truth { balance: truth.claimed, withdrawn: 0, ..*truth };
                }
            }
            // A node is asked of what is in use.
            for (channel, truth) in (0..).zip(truths).filter(|_| self.setup.has_node) {
                if self.record(store, channel).is_some_and(|record| record.wants_news(0, at(now))) {
                    let operation = self.operation(channel, Operation::Confirm { chain: as_of_block(truth, now) });
                    store = self.perform(store, operation, owner, now).0;
                }
            }
            // More rounds than there can be jobs.
            for _ in 0..12 {
                for channel in 0..CHANNELS as u8 {
                    let Some(task) = self.due(store, channel, now) else { continue };
                    let (next, answer) = self.perform(store, task.operation, owner, now);
                    store = next;
                    if let Answer::Row(row) = self.memory().answers.get(answer).clone() {
                        match task.then {
                            Then::Nothing => {}
                            Then::Claim(since) => keeper.claim(Claimable { row, since }, at(now)),
                            Then::Refund(chain) => keeper.refund(Refundable { row, chain }),
                        }
                    }
                }
                let due = keeper.take_due(at(now));
                if due.is_empty() {
                    break;
                }
                for (group, job) in due {
                    let number = self.memory().note_job((group, job.clone()));
                    let mut after = truths;
                    let said = match self.come_about(&mut after, self.deed_of_job(number)) {
                        true => Said::Done,
                        false => Said::Refused,
                    };
                    if said == Said::Done {
                        truths = after;
                    }
                    for (id, operation) in keeper.on_answer(group, job, said, at(now)).operations {
                        let operation = self.operation(self.channel_of(id), operation);
                        store = self.perform(store, operation, owner, now).0;
                    }
                }
            }
        }
        for (channel, (truth, book)) in (0..).zip(truths.iter().zip(&world.books)) {
            if book.is_lost {
                continue;
            }
            if truth.claimed > book.charged {
                return Some("claimed and not charged");
            }
            if truth.claimed < book.charged {
                return Some("charged and not claimed");
            }
            let record = self.record(store, channel);
            if record.is_some_and(|record| record.is_held_at(at(begin + 5000))) {
                return Some("held");
            }
        }
        None
    }

    pub(super) fn describe(&self, world: &World) -> String {
        let mut text = format!("  t={} {:?} {:?}", self.now(world), world.violation, world.adrift);
        for (index, actor) in world.actors.iter().enumerate().filter(|(_, actor)| actor.phase != Phase::Absent) {
            let exchange = format!("{:?}", self.memory().exchanges.get(actor.exchange).0);
            let name = exchange.split(['(', ' ']).next().unwrap_or_default().to_owned();
            text += &format!("\n    #{index} {:?} {actor:?} {name}", self.sent(actor.head));
            if actor.step != NOTHING {
                let step = self.step(actor.step);
                let operation = step.channel.map(|number| self.memory().operations.get(number).1.clone());
                text += &format!("\n      then {:?} {operation:?} {:?}", step.ledger, step.stream);
            }
        }
        for channel in 0..CHANNELS {
            text += &format!("\n    {:?} {:?}", world.truths[channel], world.books[channel]);
            if let Some(record) = self.record(world.store, channel as u8) {
                let Record {
                    charged,
                    max_claimable,
                    chain,
                    hold,
                    claim,
                    last,
                    is_outdated,
                    moved_at,
                    unclaimed_since,
                    failed_claims,
                    ..
                } = record;
                text += &format!(
                    "\n      charged={charged} max={max_claimable} {chain:?} outdated={is_outdated} moved={moved_at:?} since={unclaimed_since:?} failed={failed_claims} {hold:?} {claim:?} {last:?}"
                );
            }
        }
        let memory = self.memory();
        let tasks = memory.tasks.get(world.keeping.tasks);
        text + &format!(
            "\n    keeper {:?} {:?} {tasks:?}",
            world.keeping.jobs,
            memory.schedulers.get(world.keeping.scheduler)
        )
    }
}

/// The owner's number of a request, and of the keeper of a worker.
pub(super) fn owner_of(index: usize) -> u64 {
    index as u64 + 1
}

pub(super) fn keeper_of(worker: u8) -> u64 {
    1000 + u64::from(worker)
}

pub(super) fn require(world: &mut World, holds: bool, violation: Violation) {
    if !holds {
        world.violation = world.violation.or(Some(violation));
    }
}

pub(super) fn book_lie(book: &mut Book) {
    book.is_lied_about = true;
    book.is_lost = true;
}

/// What a node tells of a channel that is so.
pub(super) fn as_of_block(truth: Truth, now: u32) -> OnChain {
    let chain = told(truth, now);
    OnChain { at: UnixTime::from_secs(chain.at.as_secs() - u64::from(CLOCK_SLACK)), ..chain }
}

/// What a facilitator pretends of a channel to have done this.
pub(super) fn pretended(truth: Truth, deed: Deed) -> Truth {
    match deed {
        Deed::Deposit(_) => Truth { balance: truth.balance + DEPOSIT, is_deposited: true, ..truth },
        Deed::Refund { claimed, .. } => {
            let claimed = claimed.max(truth.claimed);
            Truth { balance: claimed, claimed, nonce: truth.nonce + 1, ..truth }
        }
        Deed::Claim(_) | Deed::Payout => truth,
    }
}

/// What an operation tells of the chain.
pub(super) fn chain_in(operation: &Operation) -> Option<OnChain> {
    match operation {
        Operation::Reserve(wanted) => wanted.chain,
        Operation::Charge { chain, .. } | Operation::Release { chain } => *chain,
        Operation::Refresh { chain } | Operation::Refunded { chain } => Some(*chain),
        // A block may be from before what is known.
        _ => None,
    }
}
