//! When something that is repeated is done next: not by all proxies in one moment, and ever more seldom while it fails.
//!
//! Pure: times and random numbers go in, the next time comes out. Times are milliseconds since the epoch, unless another unit is named.

/// Mixes the bits of a number: each result comes of one number alone.
pub const fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Returns a number below `range`, which is below 2^32: all equally likely for a `random` number that is.
pub const fn part(range: u64, random: u64) -> u64 {
    (random >> 32).saturating_mul(range) >> 32
}

/// Returns a pause that is up to half as long again, in the unit of `pause`.
pub const fn jittered(pause: u64, random: u64) -> u64 {
    pause.saturating_add(part((pause >> 1).saturating_add(1), random))
}

/// The pauses between questions that stay without a good answer: each is twice as long as the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The shortest first pause, in milliseconds.
    pub first: u64,
    /// The shortest of the longest pauses, in milliseconds.
    pub longest: u64,
}

impl Pace {
    /// For facilitators: pauses of 2 to 4 seconds, then 4 to 8, in the end 40 to 80.
    pub const FACILITATOR: Self = Self { first: 2_000, longest: 40_000 };

    /// For the store of a ledger, without which nothing is sold: pauses of 0.25 to 0.5 seconds, in the end 4 to 8.
    pub const STORE: Self = Self { first: 250, longest: 4_000 };

    /// Returns the pause after so many failures in a row.
    const fn pause(self, failures: u32, random: u64) -> u64 {
        /// Doublings behind which every pause is the longest.
        const MOST: u32 = 16;
        let doublings = failures.saturating_sub(1);
        let factor = 1_u64 << if doublings < MOST { doublings } else { MOST };
        let doubled = self.first.saturating_mul(factor);
        let pause = if doubled < self.longest { doubled } else { self.longest };
        pause.saturating_add(part(pause, random))
    }
}

/// The times of a question that the workers of a process ask in turns: whoever writes down that it is asked now asks it, for all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Schedule {
    /// When it is asked next.
    pub due: u64,
    /// Failures in a row. Kept after an answer: who fails soon again is not asked more often than before.
    pub failures: u32,
    /// When it was answered last; 0 if it never was.
    pub heard_at: u64,
    /// When there was no answer last, or none that says what is to be known.
    pub failed_at: u64,
}

/// The things that a worker knows and that make a question urgent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Need {
    /// True if other calls of the same service fail, and the question is to show when it answers again.
    pub is_failing: bool,
    /// True if something waits for the answer, and nobody has given one.
    pub is_unknown: bool,
    /// Milliseconds after which an answer comes no more.
    pub timeout: u64,
}

/// What a worker does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Wait,
    /// It notes other times.
    Plan(Schedule),
    /// It notes other times, and asks if they are written.
    Ask(Schedule),
}

/// What an answer is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// It says what is to be known.
    Says,
    /// It does not, but there is somebody who answers.
    Answers,
    /// There is none, or one of a server that has failed.
    Fails,
}

/// What a proxy does that has read the times of a question that one proxy of a fleet asks for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It notes other times, and asks for all if they are written.
    Take(Schedule),
    /// It asks for itself: nobody has heard anything for too long.
    Alone,
    /// It looks again at this time.
    Wait(u64),
}

impl Schedule {
    /// Returns what a proxy of a fleet does that has read these times, which are those of the fleet.
    pub const fn turn(self, pace: Pace, need: Need, now: u64, random: u64) -> Turn {
        /// Milliseconds within which all proxies look again.
        const SPREAD: u64 = 10_000;
        let is_known = self.heard_at > 0;
        // What the fleet has heard, a proxy that has just come is about to read.
        let need = Need { is_unknown: need.is_unknown && !is_known, ..need };
        match self.step(pace, need, now, random) {
            Step::Ask(next) | Step::Plan(next) => return Turn::Take(next),
            Step::Wait => {}
        }
        if is_known && now.saturating_sub(self.heard_at) > 2 * (Self::STEADY + Self::STEADY_JITTER) {
            return Turn::Alone;
        }
        if !is_known && self.failures == 0 {
            // Somebody is asking, for the first time.
            return Turn::Wait(now.saturating_add(Self::SLACK).saturating_add(part(Self::SLACK, random)));
        }
        Turn::Wait(self.due.saturating_add(part(SPREAD, random)))
    }

    /// Returns whether nothing has failed since it was answered last.
    pub const fn is_undisturbed(self) -> bool {
        self.failed_at == 0 || self.is_calm()
    }

    /// Bytes of [`Self::to_bytes`].
    pub const BYTES: usize = 28;
    /// Milliseconds within which a process asks first, where something waits for the answer.
    pub const SOON: u64 = 1_000;
    /// The same where nothing waits.
    pub const LATER: u64 = 4_000;
    /// The least time between questions that are answered, and by how much it is longer at most.
    const STEADY: u64 = 540_000;
    const STEADY_JITTER: u64 = 120_000;
    /// The time for which failures count that lie before an answer: some answer this question and fail at all others.
    const MEMORY: u64 = 120_000;
    /// Milliseconds by which an answer may be later than its time-out.
    const SLACK: u64 = 1_000;

    /// The times of a question that has not been asked yet: within `window` milliseconds.
    pub const fn start(window: u64, now: u64, random: u64) -> Self {
        Self { due: now.saturating_add(part(window, random)), failures: 0, heard_at: 0, failed_at: 0 }
    }

    /// Returns what a worker does that looks at the times now.
    pub const fn step(self, pace: Pace, need: Need, now: u64, random: u64) -> Step {
        let longest = now.saturating_add(pace.longest.saturating_mul(2));
        let is_overdue = self.is_calm() && need.is_failing;
        let is_too_late = (need.is_failing || need.is_unknown) && self.due > longest;
        // A clock that was set back is no reason to wait for the time that it showed.
        let is_beyond = self.due > now.saturating_add(Self::STEADY + 2 * Self::STEADY_JITTER);
        if now >= self.due || is_beyond {
            // Whoever asks may be gone before the answer comes.
            let due = now.saturating_add(need.timeout).saturating_add(Self::SLACK);
            return Step::Ask(Self { due, ..self });
        }
        if is_overdue || is_too_late {
            let failures = self.failures_by(now);
            let soon = now.saturating_add(pace.pause(failures, random));
            let due = if soon < self.due { soon } else { self.due };
            return Step::Plan(Self { due, failures, failed_at: now, ..self });
        }
        Step::Wait
    }

    /// The times after an answer. Where none is needed urgently, it is not asked for again before long.
    #[must_use]
    pub const fn heard(self, pace: Pace, word: Word, is_urgent: bool, now: u64, random: u64) -> Self {
        let steady = now.saturating_add(Self::STEADY).saturating_add(part(Self::STEADY_JITTER, random));
        // Another worker may have found it urgent.
        let is_urgent = is_urgent || (matches!(word, Word::Fails) && self.failures > 0 && !self.is_calm());
        let failures = match (word, is_urgent) {
            (Word::Says, _) => self.failures,
            (_, true) => self.failures_by(now),
            (_, false) => 0,
        };
        let due = match (word, is_urgent) {
            (Word::Says, _) | (_, false) => steady,
            (_, true) => now.saturating_add(pace.pause(failures, random)),
        };
        let heard_at = if matches!(word, Word::Fails) { self.heard_at } else { now };
        let failed_at = if matches!(word, Word::Says) { self.failed_at } else { now };
        Self { due, failures, heard_at, failed_at }
    }

    /// Returns whether it was answered last.
    const fn is_calm(self) -> bool {
        self.heard_at > 0 && self.heard_at >= self.failed_at
    }

    /// The failures in a row with one more.
    const fn failures_by(self, now: u64) -> u32 {
        if self.is_calm() && now.saturating_sub(self.heard_at) >= Self::MEMORY {
            return 1;
        }
        self.failures.saturating_add(1)
    }

    /// As bytes that [`Self::read`] reads.
    pub fn to_bytes(self) -> Vec<u8> {
        let times = [self.due, self.heard_at, self.failed_at].map(u64::to_le_bytes);
        [&self.failures.to_le_bytes()[..], times.as_flattened()].concat()
    }

    /// Reads what [`Self::to_bytes`] wrote; `None` where it did not.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (failures, times) = bytes.split_first_chunk::<4>()?;
        let ([due, heard_at, failed_at], []) = times.as_chunks::<8>() else { return None };
        let [due, heard_at, failed_at] = [due, heard_at, failed_at].map(|time| u64::from_le_bytes(*time));
        Some(Self { due, failures: u32::from_le_bytes(*failures), heard_at, failed_at })
    }
}
