//! Changes to inputs, drawn by a seed: the same seed gives the same inputs everywhere.

/// Numbers that look random (Vigna's SplitMix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The numbers of a seed. A name gives each of many runs with one seed numbers of its own.
    pub fn new(seed: u64, name: &str) -> Self {
        // FNV-1a
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        Self(name.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, mix))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 where there is none.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % end).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }

    fn pick<'a>(&mut self, list: &'a [Vec<u8>]) -> &'a [u8] {
        list.get(self.below(list.len())).map_or(&[], Vec::as_slice)
    }

    /// A place in a text, and a stretch from there that is short more often than long.
    fn stretch(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length + 1);
        let most = if self.below(4) == 0 { length - start } else { (length - start).min(8) };
        start..start + self.below(most + 1)
    }
}

/// What mutations are made of: inputs, and tokens that stand in them.
#[derive(Debug)]
pub struct Material {
    /// Inputs to begin with.
    pub corpus: Vec<Vec<u8>>,
    /// Tokens worth putting in.
    pub dictionary: Vec<Vec<u8>>,
    /// Bytes that an input has at most.
    pub max_length: usize,
}

impl Material {
    /// One of the inputs, changed a few times.
    pub fn mutate(&self, random: &mut Random) -> Vec<u8> {
        let mut input = random.pick(&self.corpus).to_vec();
        for _ in 0..=random.below(6) {
            self.change(&mut input, random);
        }
        input.truncate(self.max_length);
        input
    }

    fn change(&self, input: &mut Vec<u8>, random: &mut Random) {
        /// Bytes that mean something to one reader or the other.
        const TELLING: &[u8] = b"\"{}[],:\\0123456789-+.eE\n /%;?#=\0\xff";
        let at = random.below(input.len());
        match random.below(9) {
            0 => input.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << random.below(8)),
            1 => input.get_mut(at).into_iter().for_each(|byte| *byte = random.byte()),
            2 => input.get_mut(at).into_iter().for_each(|byte| *byte = TELLING[random.below(TELLING.len())]),
            3 => input.insert(at, random.byte()),
            4 => drop(input.drain(random.stretch(input.len()))),
            5 => {
                let again = input[random.stretch(input.len())].to_vec();
                input.splice(at..at, again);
            }
            6 => {
                let token = random.pick(&self.dictionary);
                input.splice(at..at, token.iter().copied());
            }
            7 => {
                let token = random.pick(&self.dictionary);
                let stretch = random.stretch(input.len());
                input.splice(stretch, token.iter().copied());
            }
            _ => {
                let other = random.pick(&self.corpus);
                let part = &other[random.stretch(other.len())];
                let stretch = random.stretch(input.len());
                input.splice(stretch, part.iter().copied());
            }
        }
    }
}

/// Makes an input smaller for as long as it still fails: parts are left out, first large ones, then single bytes.
pub fn shrink(mut input: Vec<u8>, fails: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut size = input.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < input.len() {
            let end = (at + size).min(input.len());
            let without = [&input[..at], &input[end..]].concat();
            if fails(&without) {
                input = without;
            } else {
                at = end;
            }
        }
        size /= 2;
    }
    input
}

/// The tokens of a dictionary in the form of libFuzzer and AFL: one in quotes on each line, with `\\`, `\"` and `\xAB`.
pub fn read_dictionary(text: &str) -> Vec<Vec<u8>> {
    let quoted = text.lines().filter_map(|line| line.split_once('"')?.1.strip_suffix('"'));
    quoted.map(unescape).collect()
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        (rest, bytes) = match (byte, after) {
            (b'\\', [b'x', high, low, after @ ..]) => {
                (after, [bytes, hex::decode([*high, *low]).unwrap_or_default()].concat())
            }
            (b'\\', [escaped, after @ ..]) => (after, [bytes, vec![*escaped]].concat()),
            _ => (after, [bytes, vec![*byte]].concat()),
        };
    }
    bytes
}
